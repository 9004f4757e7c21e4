//! The order of dead letters by age. RabbitMQ hands letters out in another order after every look at them,
//! so the order in which they come says nothing.

use std::cmp::Reverse;

use relay_event::{DeadLetter, EndpointId, Timestamp};

/// The place of a letter among others, the oldest first. A letter without a date comes after all that have
/// one. Letters of the same millisecond have an order too, so that every look has the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    undated: bool,
    facts: Facts,
}

type Facts = (Option<Timestamp>, Option<String>, Option<String>);

impl Age {
    pub(super) fn of(letter: &DeadLetter) -> Self {
        let endpoint = letter.endpoint.as_ref().map(EndpointId::to_string);
        Self {
            undated: letter.dead_at.is_none(),
            facts: (letter.dead_at, letter.event_id.clone(), endpoint),
        }
    }

    /// The place among others, the newest first. A letter without a date comes last here as well.
    pub(super) fn newest_first(self) -> (bool, Reverse<Facts>) {
        (self.undated, Reverse(self.facts))
    }
}

/// The first `limit` of many by an order, in whatever order they come. Holds at most twice as many.
pub(super) struct First<K, T> {
    limit: usize,
    kept: Vec<(K, T)>,
}

impl<K: Ord, T> First<K, T> {
    pub(super) fn new(limit: usize) -> Self {
        let kept = Vec::new();
        Self { limit, kept }
    }

    pub(super) fn offer(&mut self, key: K, item: T) {
        self.kept.push((key, item));
        if self.kept.len() >= self.limit.saturating_mul(2) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.kept.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.kept.truncate(self.limit);
    }

    /// Those that are the first, in their order.
    pub(super) fn in_order(mut self) -> impl DoubleEndedIterator<Item = (K, T)> {
        self.cut();
        self.kept.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use relay_event::DeadReason;

    use super::*;

    fn letter(event_id: &str, dead_at: Option<i64>) -> DeadLetter {
        DeadLetter {
            reason: DeadReason::Expired,
            detail: None,
            endpoint: None,
            event_id: Some(event_id.to_owned()),
            event_type: None,
            attempts: 0,
            first_attempt: None,
            last_attempt: None,
            last_status: None,
            last_error: None,
            dead_at: dead_at.and_then(Timestamp::from_millis),
        }
    }

    #[test]
    fn the_first_are_the_same_however_they_come() {
        let mut letters = [
            letter("d", Some(3)),
            letter("b", Some(2)),
            letter("x", None),
            letter("a", Some(2)),
            letter("c", Some(1)),
        ];
        for _ in 0..letters.len() {
            letters.rotate_left(1);
            let (mut oldest, mut newest) = (First::new(4), First::new(4));
            for letter in &letters {
                let id = letter.event_id.clone().unwrap();
                oldest.offer(Age::of(letter), id.clone());
                newest.offer(Age::of(letter).newest_first(), id);
            }
            let oldest: String = oldest.in_order().map(|(_, id)| id).collect();
            let newest: String = newest.in_order().map(|(_, id)| id).collect();
            assert_eq!((oldest.as_str(), newest.as_str()), ("cabd", "dbac"));
        }
    }
}
