//! How far the log is behind: the age of the oldest event that is taken and not yet recorded.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::Gauge;
use relay_event::Timestamp;

/// Events that wait to be recorded. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lag(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// How many were published at each moment.
    waiting: BTreeMap<Timestamp, usize>,
    /// The oldest of those given back to the broker.
    given_back: Option<Timestamp>,
}

/// An event waits as long as this is held.
#[derive(Debug)]
pub(crate) struct Waiting {
    lag: Lag,
    since: Timestamp,
}

impl Held {
    fn oldest(&self) -> Option<Timestamp> {
        let waiting = self.waiting.first_key_value().map(|(since, _)| *since);
        waiting.into_iter().chain(self.given_back).min()
    }
}

impl Lag {
    pub(crate) fn waiting(&self, since: Timestamp) -> Waiting {
        *self.held().waiting.entry(since).or_insert(0) += 1;
        let lag = self.clone();
        Waiting { lag, since }
    }

    /// What waits is about to be given back, and goes on waiting.
    pub(crate) fn giving_back(&self) {
        let mut held = self.held();
        held.given_back = held.oldest();
    }

    /// What was given back is taken once more, by whomever.
    pub(crate) fn taking_again(&self) {
        self.held().given_back = None;
    }

    /// The age of the oldest event that waits; zero if none does.
    fn age(&self, now: Timestamp) -> Duration {
        let oldest = self.held().oldest();
        oldest.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Keeps the gauge up to date, for ever.
    pub(crate) async fn tell(&self, gauge: &Gauge) {
        const EVERY: Duration = Duration::from_millis(500);
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            gauge.set(self.age(Timestamp::now()).as_secs_f64());
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut held = self.lag.held();
        if let Some(count) = held.waiting.get_mut(&self.since) {
            *count -= 1;
            if *count == 0 {
                held.waiting.remove(&self.since);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000).unwrap()
    }

    #[test]
    fn what_is_given_back_goes_on_waiting() {
        let lag = Lag::default();
        let waiting = [lag.waiting(at(70)), lag.waiting(at(60))];
        lag.giving_back();
        drop(waiting);
        assert_eq!(lag.age(at(100)), Duration::from_secs(40));
        lag.giving_back();
        assert_eq!(lag.age(at(100)), Duration::from_secs(40));
        lag.taking_again();
        assert_eq!(lag.age(at(100)), Duration::ZERO);
    }

    #[test]
    fn is_the_age_of_the_oldest_that_waits() {
        let lag = Lag::default();
        assert_eq!(lag.age(at(100)), Duration::ZERO);
        let (newer, older, twin) = (lag.waiting(at(90)), lag.waiting(at(70)), lag.waiting(at(70)));
        assert_eq!(lag.age(at(100)), Duration::from_secs(30));
        drop(older);
        assert_eq!(lag.age(at(100)), Duration::from_secs(30), "its twin waits on");
        drop(twin);
        assert_eq!(lag.age(at(100)), Duration::from_secs(10));
        assert_eq!(
            lag.age(at(80)),
            Duration::ZERO,
            "published by a clock that is ahead"
        );
        drop(newer);
        assert_eq!(lag.age(at(100)), Duration::ZERO);
    }
}
