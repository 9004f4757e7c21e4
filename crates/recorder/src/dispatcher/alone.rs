//! The held deliveries that were returned too often. One of them may end every deliverer that takes it, so they are
//! sent on one at a time over all endpoints.

use relay_event::EndpointId;
use relay_store::ReturnedFor;
use tokio::time::Instant;

/// The turns of the endpoints that have such deliveries.
#[derive(Debug)]
pub(crate) struct Alone {
    /// The time to look for the next; `None` until something changes.
    look_at: Option<Instant>,
    /// The endpoint that had the last turn.
    last: Option<EndpointId>,
}

impl Alone {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            look_at: Some(now),
            last: None,
        }
    }

    /// Something was held, a claim ended, or an endpoint changed.
    pub(crate) fn look(&mut self, now: Instant) {
        self.look_at = Some(now);
    }

    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// The endpoint whose turn it is; `None` while one of these deliveries is under way. `not_before` tells the time
    /// from which an endpoint may be sent to, if it may.
    pub(crate) fn next(
        &mut self,
        returned: &[ReturnedFor],
        mut not_before: impl FnMut(&ReturnedFor) -> Option<Instant>,
        now: Instant,
    ) -> Option<EndpointId> {
        self.look_at = None;
        if returned.iter().any(|returned| returned.is_claimed) {
            return None; // Its end will be heard.
        }
        let after = returned.partition_point(|returned| self.last.as_ref() >= Some(&returned.endpoint));
        let (before, after) = returned.split_at(after);
        for returned in after.iter().chain(before) {
            match not_before(returned) {
                Some(at) if at > now => self.look_at = Some(self.look_at.map_or(at, |look| look.min(at))),
                Some(_) => {
                    self.last = Some(returned.endpoint.clone());
                    return self.last.clone();
                }
                None => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use relay_store::ClaimEnds;

    use super::*;

    #[test]
    fn endpoints_take_turns_while_none_is_under_way() {
        let id = |n: u8| format!("ep_{n:032x}").parse::<EndpointId>().unwrap();
        let of = |n, is_claimed| ReturnedFor {
            endpoint: id(n),
            is_claimed,
            ends: ClaimEnds::default(),
        };
        let now = Instant::now();
        let later = now + Duration::from_secs(2);
        let mut alone = Alone::new(now);
        assert_eq!(alone.look_at(), Some(now));
        let three = [1, 2, 3].map(|n| of(n, false));
        for n in [1, 2, 3, 1] {
            assert_eq!(alone.next(&three, |_| Some(now), now), Some(id(n)));
            assert_eq!(alone.look_at(), None);
        }
        let but_for =
            |n, at| move |returned: &ReturnedFor| if returned.endpoint == id(n) { at } else { Some(now) };
        assert_eq!(
            alone.next(&three, but_for(2, None), now),
            Some(id(3)),
            "2 is paused"
        );
        assert_eq!(alone.next(&three, but_for(1, Some(later)), now), Some(id(2)));
        let one = [of(1, false)];
        assert_eq!(alone.next(&one, |_| Some(later), now), None);
        assert_eq!(alone.look_at(), Some(later));
        assert_eq!(alone.next(&[of(1, false), of(2, true)], |_| Some(now), now), None);
        assert_eq!(alone.next(&[], |_| Some(now), now), None);
    }
}
