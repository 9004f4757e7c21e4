//! The held deliveries that were returned too often. One of them may end every deliverer that takes it, so they are
//! sent on one at a time over all endpoints.

use relay_event::EndpointId;
use relay_store::ReturnedFor;

/// The turns of the endpoints that have such deliveries.
#[derive(Debug)]
pub(crate) struct Alone {
    /// Set if something may have changed.
    look: bool,
    /// The endpoint that had the last turn.
    last: Option<EndpointId>,
}

impl Default for Alone {
    fn default() -> Self {
        Self {
            look: true,
            last: None,
        }
    }
}

impl Alone {
    /// Something was held, a claim ended, or an endpoint changed.
    pub(crate) fn look(&mut self) {
        self.look = true;
    }

    pub(crate) fn is_to_look(&self) -> bool {
        self.look
    }

    /// The endpoint whose turn it is, of those that may be sent to; `None` while one of these deliveries is under way.
    pub(crate) fn next(
        &mut self,
        returned: &[ReturnedFor],
        may: impl Fn(&EndpointId) -> bool,
    ) -> Option<EndpointId> {
        self.look = false;
        if returned.iter().any(|returned| returned.is_claimed) {
            return None; // Its end will be heard.
        }
        let ids = || {
            returned
                .iter()
                .map(|returned| &returned.endpoint)
                .filter(|id| may(id))
        };
        let after = ids().find(|id| self.last.as_ref().is_none_or(|last| last < *id));
        let next = after.or_else(|| ids().next())?;
        self.last = Some(next.clone());
        Some(next.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_take_turns_while_none_is_under_way() {
        let id = |n: u8| format!("ep_{n:032x}").parse::<EndpointId>().unwrap();
        let of = |n, is_claimed| ReturnedFor {
            endpoint: id(n),
            is_claimed,
        };
        let mut alone = Alone::default();
        assert!(alone.is_to_look());
        let three = [1, 2, 3].map(|n| of(n, false));
        for n in [1, 2, 3, 1] {
            assert_eq!(alone.next(&three, |_| true), Some(id(n)));
            assert!(!alone.is_to_look());
        }
        assert_eq!(alone.next(&three, |other| *other != id(2)), Some(id(3)));
        assert_eq!(alone.next(&[of(1, false), of(2, true)], |_| true), None);
        assert_eq!(alone.next(&[], |_| true), None);
    }
}
