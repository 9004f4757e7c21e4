//! The messages that wait for deliverers: never more than these take in two seconds, so that what is sent on is not
//! old when it is taken.

use std::time::Duration;

use tokio::time::Instant;

/// Messages that may wait whatever the deliverers' rate.
const LEAST: f64 = 32.0;

/// Seconds of the deliverers' work that may wait.
const SECONDS: f64 = 2.0;

/// The time for which a measurement counts, and the messages that may be sent after it.
const EVERY: Duration = Duration::from_millis(100);
const SENT: u32 = 32;

#[derive(Debug)]
pub(crate) struct Backlog {
    measured_at: Instant,
    ready: u32,
    sent: u32,
    /// Messages that the deliverers take in a second.
    rate: f64,
}

impl Backlog {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            measured_at: now,
            ready: 0,
            sent: 0,
            rate: 0.0,
        }
    }

    pub(crate) fn sent(&mut self) {
        self.sent += 1;
    }

    /// Returns true if it is time to measure.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let is_old = now.duration_since(self.measured_at) >= EVERY;
        self.sent >= SENT || is_old && (self.sent > 0 || self.ready > 0)
    }

    pub(crate) fn measured(&mut self, ready: u32, now: Instant) {
        let taken = (self.ready + self.sent).saturating_sub(ready);
        let seconds = now.duration_since(self.measured_at).as_secs_f64().max(0.001);
        self.rate = (self.rate + f64::from(taken) / seconds) / 2.0;
        (self.ready, self.sent, self.measured_at) = (ready, 0, now);
    }

    /// The number of messages that may be sent.
    pub(crate) fn room(&self) -> usize {
        let most = LEAST.max(self.rate * SECONDS);
        (most - f64::from(self.ready) - f64::from(self.sent)).max(0.0) as usize
    }

    /// The time to measure again, if there is no room.
    pub(crate) fn until(&self) -> Option<Instant> {
        (self.room() == 0).then(|| self.measured_at + EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_two_seconds_of_work_and_a_little_without_any() {
        let now = Instant::now();
        let mut backlog = Backlog::new(now);
        assert_eq!(backlog.room(), 32);
        for _ in 0..32 {
            backlog.sent();
        }
        assert_eq!(backlog.room(), 0);
        backlog.measured(32, now + EVERY);
        assert_eq!((backlog.room(), backlog.until()), (0, Some(now + 2 * EVERY)));
        for round in 2..30 {
            backlog.sent += 100;
            backlog.measured(32, now + EVERY * round);
        }
        assert!((1_960..=1_968).contains(&backlog.room()), "{}", backlog.room());
    }
}
