//! Keeping the log in order, a little at a time, so that recording goes on meanwhile: what is old enough is
//! forgotten, and what older versions did not write is filled in.

use std::time::{Duration, Instant};

use relay_broker::Broker;
use relay_event::Timestamp;
use relay_store::{Error, Retention, Store};
use tokio::time::{MissedTickBehavior, sleep};

use crate::{Config, metrics::Metrics};

/// Events, and attempts, forgotten at once.
const CHUNK: u32 = 1_000;

/// The store is left to others for as long as forgetting a chunk took, and for this long at least.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Forgets now and then, for ever, as long as this process has a session: without a broker nothing is
/// recorded either. Several recorders may do so at once.
pub(crate) async fn forget_for_ever(store: &Store, broker: &Broker, config: &Config, metrics: &Metrics) {
    let mut rounds = tokio::time::interval(config.retention_interval);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut forgetting, mut filling) = (Trouble::default(), Trouble::default());
    loop {
        rounds.tick().await;
        broker.session().await;
        let forgotten = forget_old(store, broker, config, metrics).await;
        forgetting.tell(&forgotten, metrics, "old events are not forgotten");
        if forgotten.is_err() {
            continue;
        }
        let filled = fill_in(store, broker).await;
        let lacking = "events of older versions are not found by their webhook ids";
        filling.tell(&filled, metrics, lacking);
    }
}

/// A task that may fail round after round, which is said once.
#[derive(Default)]
struct Trouble {
    failing: bool,
}

impl Trouble {
    /// Logs a failure with its consequence, but for a store that is away: the log says that where the store
    /// is written to.
    fn tell(&mut self, done: &Result<(), Error>, metrics: &Metrics, consequence: &str) {
        if let Err(error) = done {
            metrics.store_failed(error);
            if !self.failing && !error.is_unavailable() {
                let error = error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the log cannot be kept in order: {consequence}; trying again"
                );
            }
        }
        self.failing = done.is_err();
    }
}

/// Forgets all that is old enough.
async fn forget_old(store: &Store, broker: &Broker, config: &Config, metrics: &Metrics) -> Result<(), Error> {
    while broker.current().is_some() {
        tell_lag(store, config, metrics).await?;
        let started = Instant::now();
        let forgotten = store.forget(&retention(config, Timestamp::now()), CHUNK).await?;
        metrics.forgot(forgotten);
        if !forgotten.more {
            return tell_lag(store, config, metrics).await;
        }
        sleep(started.elapsed().max(SHORTEST_PAUSE)).await;
    }
    Ok(())
}

/// Has events of older versions found by their webhook ids too.
async fn fill_in(store: &Store, broker: &Broker) -> Result<(), Error> {
    while broker.current().is_some() {
        let started = Instant::now();
        if !store.fill_fingerprints(CHUNK).await? {
            break;
        }
        sleep(started.elapsed().max(SHORTEST_PAUSE)).await;
    }
    Ok(())
}

async fn tell_lag(store: &Store, config: &Config, metrics: &Metrics) -> Result<(), Error> {
    let oldest = store.oldest_event().await?;
    let lag = oldest.map_or(Duration::ZERO, |recorded| {
        let age = Timestamp::now().since(recorded);
        age.saturating_sub(config.retain_events)
    });
    metrics.retention_lag.set(lag.as_secs_f64());
    Ok(())
}

fn retention(config: &Config, now: Timestamp) -> Retention {
    Retention {
        events_before: before(now, config.retain_events),
        attempts_before: before(now, config.retain_attempts),
    }
}

/// So long before `now`; 1970 at the earliest.
fn before(now: Timestamp, time: Duration) -> Timestamp {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(now.as_millis().saturating_sub(millis)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_very_long_retention_forgets_nothing() {
        let now = Timestamp::from_millis(1_000_000).unwrap();
        assert_eq!(before(now, Duration::from_secs(400)).as_millis(), 600_000);
        assert_eq!(before(now, Duration::from_secs(2_000)), Timestamp::default());
        assert_eq!(before(now, Duration::MAX), Timestamp::default());
    }
}
