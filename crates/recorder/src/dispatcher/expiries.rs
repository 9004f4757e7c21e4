//! The endpoints that are to be removed at a certain time.

use std::{collections::BTreeSet, time::Duration};

use relay_event::{EndpointId, Timestamp};
use tokio::time::Instant;

/// The longest time until the next look at the clock, which may be set meanwhile.
const LONGEST: Duration = Duration::from_secs(60);

/// The wait after an endpoint whose time is over by this process's clock, and not by the database's, which decides.
const WAIT: Duration = Duration::from_secs(1);

/// The endpoints with a time to be removed at, the next one first.
#[derive(Debug)]
pub(super) struct Expiries {
    times: BTreeSet<(Timestamp, EndpointId)>,
    not_before: Instant,
}

impl Expiries {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            times: BTreeSet::new(),
            not_before: now,
        }
    }

    /// Notes an endpoint's time, instead of the one that was noted before.
    pub(super) fn note(&mut self, id: &EndpointId, before: Option<Timestamp>, time: Option<Timestamp>) {
        if let Some(before) = before {
            self.times.remove(&(before, id.clone()));
        }
        if let Some(time) = time {
            self.times.insert((time, id.clone()));
        }
    }

    /// Takes an endpoint out whose time is over.
    pub(super) fn take(&mut self, clock: Timestamp, now: Instant) -> Option<(Timestamp, EndpointId)> {
        let is_over = self.times.first().is_some_and(|(time, _)| *time <= clock);
        if is_over && self.not_before <= now {
            self.times.pop_first()
        } else {
            None
        }
    }

    /// Puts an endpoint back whose time is not over, and takes none out for a while.
    pub(super) fn put_back(&mut self, expiry: (Timestamp, EndpointId), now: Instant) {
        self.times.insert(expiry);
        self.not_before = now + WAIT;
    }

    /// The time of the next look; `None` if no endpoint is to be removed.
    pub(super) fn next_at(&self, clock: Timestamp, now: Instant) -> Option<Instant> {
        let (time, _) = self.times.first()?;
        let at = now + time.since(clock).min(LONGEST);
        Some(at.max(self.not_before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000).unwrap()
    }

    #[test]
    fn endpoints_come_when_their_time_is_over() {
        let now = Instant::now();
        let mut expiries = Expiries::new(now);
        assert_eq!(expiries.next_at(at(0), now), None);
        let [one, two] = [1, 2].map(|number| EndpointId::from_bytes([number; 16]));
        expiries.note(&one, None, Some(at(10)));
        expiries.note(&two, None, Some(at(5_000)));
        assert_eq!(expiries.next_at(at(4), now), Some(now + Duration::from_secs(6)));
        assert_eq!(expiries.take(at(9), now), None);
        assert_eq!(expiries.take(at(10), now), Some((at(10), one.clone())));
        assert_eq!(expiries.take(at(10), now), None);
        assert_eq!(expiries.next_at(at(10), now), Some(now + LONGEST));
        expiries.note(&two, Some(at(5_000)), Some(at(20)));
        assert_eq!(expiries.next_at(at(19), now), Some(now + Duration::from_secs(1)));
        expiries.note(&two, Some(at(20)), None);
        assert_eq!(expiries.next_at(at(20), now), None);
    }

    #[test]
    fn one_that_the_database_keeps_comes_again_later() {
        let now = Instant::now();
        let mut expiries = Expiries::new(now);
        let id = EndpointId::from_bytes([1; 16]);
        expiries.note(&id, None, Some(at(10)));
        let expiry = expiries.take(at(11), now).unwrap();
        expiries.put_back(expiry.clone(), now);
        assert_eq!(expiries.next_at(at(11), now), Some(now + WAIT));
        assert_eq!(expiries.take(at(11), now), None);
        assert_eq!(expiries.take(at(12), now + WAIT), Some(expiry));
    }
}
