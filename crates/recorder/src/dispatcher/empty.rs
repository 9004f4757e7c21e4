//! The moments at which no message of held deliveries waited to be taken. A message that was sent before such a moment
//! has been taken, or is lost; so its silence is counted from then.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Such moments, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Empty(VecDeque<Instant>);

impl Empty {
    /// Nothing waits now. Moments before the last one that is at least `longest` ago are forgotten.
    pub(crate) fn seen(&mut self, now: Instant, longest: Duration) {
        self.0.push_back(now);
        let is_old = |at: &Instant| now.duration_since(*at) >= longest;
        while self.0.get(1).is_some_and(is_old) {
            self.0.pop_front();
        }
    }

    /// The time since the last such moment that is at least so long ago; the longest time if there is none.
    pub(crate) fn before(&self, now: Instant, silent_for: Duration) -> Duration {
        let mut since = self.0.iter().rev().map(|at| now.duration_since(*at));
        since.find(|time| *time >= silent_for).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_a_moment_at_which_nothing_waited() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut empty = Empty::default();
        assert_eq!(empty.before(begin, second), Duration::MAX);
        for at in [10, 12, 19, 30] {
            empty.seen(begin + at * second, 20 * second);
        }
        let now = begin + 31 * second;
        assert_eq!(empty.before(now, second), second);
        assert_eq!(empty.before(now, 2 * second), 12 * second);
        assert_eq!(empty.before(now, 13 * second), 19 * second);
        assert_eq!(empty.before(now, 21 * second), 21 * second);
        assert_eq!(empty.before(now, 22 * second), Duration::MAX);
        empty.seen(now, 20 * second);
        assert_eq!(
            empty.0.len(),
            5,
            "the one of 21 s ago is the last of the old ones"
        );
        empty.seen(now + 2 * second, 20 * second);
        assert_eq!(empty.0.len(), 5);
    }
}
