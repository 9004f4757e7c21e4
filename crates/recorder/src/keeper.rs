//! The store as the recorder uses it, and whether it can be used: said once for each change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use relay_event::{EndpointId, Timestamp};
use relay_service::Component;
use relay_store::{Error, Record, Store};
use tokio::{
    sync::Notify,
    time::{Interval, MissedTickBehavior},
};

use crate::{metrics::Metrics, news::News};

/// How often the store is asked whether it is there, while there is nothing to write.
const ASK: Duration = Duration::from_secs(5);

/// When to ask: at once, and then now and then.
pub(crate) fn ticks() -> Interval {
    let mut ticks = tokio::time::interval(ASK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Writes into the store.
pub(crate) struct Keeper {
    store: Store,
    health: Component,
    metrics: Metrics,
    news: News,
    held_changed: Arc<Notify>,
    /// Said to be unusable.
    away: bool,
}

impl Keeper {
    pub(crate) fn new(store: Store, health: Component, metrics: Metrics) -> Self {
        Self {
            store,
            health,
            metrics,
            news: News::default(),
            held_changed: Arc::default(),
            away: false,
        }
    }

    /// What it has written, for others to be told.
    pub(crate) fn news(&self) -> News {
        self.news.clone()
    }

    /// Notified when something was held, or a claim ended.
    pub(crate) fn held_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.held_changed)
    }

    /// Writes all records, or none.
    ///
    /// # Errors
    /// The store is not there, or does not take one of them.
    pub(crate) async fn record(&mut self, records: &[Record]) -> Result<(), Error> {
        let started = Instant::now();
        match self.store.record(records, Timestamp::now()).await {
            Ok(written) => {
                self.metrics.recorded(records.len(), &written, started.elapsed());
                self.news.recorded(&written);
                if written.held_changed {
                    self.held_changed.notify_one();
                }
                self.there();
                Ok(())
            }
            Err(error) => {
                self.metrics.store_failed(&error);
                if error.is_unavailable() {
                    self.away(&error);
                }
                Err(error)
            }
        }
    }

    /// Asks at the next tick whether the store is there. While there is something to write, that tells more.
    pub(crate) async fn ask(&mut self, ticks: &mut Interval) {
        ticks.tick().await;
        match self.store.ping().await {
            Ok(()) => self.there(),
            Err(error) => self.away(&error),
        }
    }

    /// Whether the store takes writes at all, by one that changes nothing: if it takes none, it is no
    /// record's fault.
    pub(crate) async fn takes_writes(&mut self) -> bool {
        let no_event = (0, EndpointId::from_bytes([0; 16]));
        match self.store.cancel(&[no_event], Timestamp::default()).await {
            Ok(_) => true,
            Err(error) => {
                self.metrics.store_failed(&error);
                self.away(&error);
                false
            }
        }
    }

    fn there(&mut self) {
        self.health.ready();
        if std::mem::take(&mut self.away) {
            tracing::info!("the store can be used again");
        }
    }

    pub(crate) fn away(&mut self, error: &Error) {
        self.health.not_ready(error.to_string());
        if !std::mem::replace(&mut self.away, true) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "the store cannot be used; what is to be recorded waits in the broker until it can"
            );
        }
    }
}
