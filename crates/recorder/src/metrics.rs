use std::{cmp::Reverse, time::Duration};

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector,
};
use relay_event::{DeadReason, HoldReason};
use relay_store::{Error, Forgotten, HeldFor, HeldNow, Written};

const EVENTS: &str = "events";
const ATTEMPTS: &str = "attempts";
const UNAVAILABLE: &str = "unavailable";
const FAILED: &str = "failed";
const NO_EVENT: &str = "no_event";

/// The endpoints that have a series of their own.
const MOST_HELD: usize = 100;

/// What a recorder tells Prometheus. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) lag: Gauge,
    pub(crate) retention_lag: Gauge,
    batch: Histogram,
    commit: Histogram,
    rows: IntCounterVec,
    set_aside: IntCounterVec,
    store_errors: IntCounterVec,
    forgotten: IntCounterVec,
    held: IntGaugeVec,
    held_most: IntGaugeVec,
    dispatched: IntCounter,
    held_again: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let batch = HistogramOpts::new(
            "relay_recorder_batch_records",
            "Events, attempts and deaths written in one transaction.",
        )
        .buckets(vec![
            1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0,
        ]);
        let commit = HistogramOpts::new(
            "relay_recorder_commit_seconds",
            "Time a transaction took, its commit included.",
        )
        .buckets(vec![
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ]);
        let rows = Opts::new(
            "relay_recorder_rows_total",
            "Rows added to the store, by table: events, attempts. What came twice counts once.",
        );
        let set_aside = Opts::new(
            "relay_recorder_set_aside_total",
            "Messages sent to the dead-letter queue, by reason: invalid_event and invalid_record cannot be recorded, \
             delivery_limit ended its deliverers again and again.",
        );
        let store_errors = Opts::new(
            "relay_recorder_store_errors_total",
            "Writes the store did not do, by kind: unavailable (tried again), failed (refused).",
        );
        let forgotten = Opts::new(
            "relay_recorder_forgotten_rows_total",
            "Rows forgotten because they were old enough, by table: events, attempts.",
        );
        let held = Opts::new(
            "relay_held",
            "Deliveries that wait in the log, by reason; no_event are those whose event is not there yet. Counted by the recorder that sends them on, at most every 15 s; 0 in others.",
        );
        let held_most = Opts::new(
            "relay_endpoint_held",
            "Deliveries that wait in the log, by endpoint and reason, for the 100 endpoints that have most of them. Counted as relay_held.",
        );
        let metrics = Self {
            lag: Gauge::new(
                "relay_recorder_lag_seconds",
                "Age of the oldest event that is taken from the broker and not yet recorded; 0 if there is none.",
            )?,
            retention_lag: Gauge::new(
                "relay_retention_lag_seconds",
                "For how long the oldest event should have been forgotten by now; 0 if there is none.",
            )?,
            batch: Histogram::with_opts(batch)?,
            commit: Histogram::with_opts(commit)?,
            rows: IntCounterVec::new(rows, &["table"])?,
            set_aside: IntCounterVec::new(set_aside, &["reason"])?,
            store_errors: IntCounterVec::new(store_errors, &["kind"])?,
            forgotten: IntCounterVec::new(forgotten, &["table"])?,
            held: IntGaugeVec::new(held, &["reason"])?,
            held_most: IntGaugeVec::new(held_most, &["endpoint", "reason"])?,
            dispatched: IntCounter::new("relay_dispatched_total", "Held deliveries that were sent on.")?,
            held_again: IntCounter::new(
                "relay_dispatch_held_again_total",
                "Held deliveries that were sent on and are held again.",
            )?,
        };
        metrics.start_at_zero();
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    fn collectors(&self) -> [Box<dyn Collector>; 12] {
        [
            Box::new(self.lag.clone()),
            Box::new(self.retention_lag.clone()),
            Box::new(self.batch.clone()),
            Box::new(self.commit.clone()),
            Box::new(self.rows.clone()),
            Box::new(self.set_aside.clone()),
            Box::new(self.store_errors.clone()),
            Box::new(self.forgotten.clone()),
            Box::new(self.held.clone()),
            Box::new(self.held_most.clone()),
            Box::new(self.dispatched.clone()),
            Box::new(self.held_again.clone()),
        ]
    }

    /// A series that is absent until its first event cannot be alerted on.
    fn start_at_zero(&self) {
        for table in [EVENTS, ATTEMPTS] {
            self.rows.with_label_values(&[table]);
            self.forgotten.with_label_values(&[table]);
        }
        for reason in [
            DeadReason::InvalidEvent,
            DeadReason::InvalidRecord,
            DeadReason::DeliveryLimit,
        ] {
            self.set_aside.with_label_values(&[reason.as_str()]);
        }
        for reason in HoldReason::ALL {
            self.held.with_label_values(&[reason.as_str()]);
        }
        self.held.with_label_values(&[NO_EVENT]);
        for kind in [UNAVAILABLE, FAILED] {
            self.store_errors.with_label_values(&[kind]);
        }
    }

    pub(crate) fn recorded(&self, records: usize, written: &Written, took: Duration) {
        self.batch.observe(records as f64);
        self.commit.observe(took.as_secs_f64());
        self.rows.with_label_values(&[EVENTS]).inc_by(written.events);
        self.rows.with_label_values(&[ATTEMPTS]).inc_by(written.attempts);
    }

    pub(crate) fn forgot(&self, forgotten: Forgotten) {
        self.forgotten
            .with_label_values(&[EVENTS])
            .inc_by(forgotten.events);
        self.forgotten
            .with_label_values(&[ATTEMPTS])
            .inc_by(forgotten.attempts);
    }

    /// Tells how much is held.
    pub(crate) fn held(&self, held: &HeldNow) {
        let set = |reason: &str, count: u64| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.held.with_label_values(&[reason]).set(count);
        };
        for reason in HoldReason::ALL {
            let of_reason = held.endpoints.iter().flat_map(|held| &held.by_reason);
            let counts = of_reason.filter(|(held, _)| *held == reason);
            set(reason.as_str(), counts.map(|(_, count)| count).sum());
        }
        set(NO_EVENT, held.without_event);

        let mut most: Vec<&HeldFor> = held.endpoints.iter().collect();
        most.sort_by_key(|held| Reverse(held.all()));
        self.held_most.reset();
        for held in most.into_iter().take(MOST_HELD) {
            for (reason, count) in &held.by_reason {
                let labels = [held.endpoint.as_str(), reason.as_str()];
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                self.held_most.with_label_values(&labels).set(count);
            }
        }
    }

    pub(crate) fn dispatched(&self, deliveries: usize) {
        self.dispatched
            .inc_by(u64::try_from(deliveries).unwrap_or(u64::MAX));
    }

    pub(crate) fn held_again(&self, deliveries: u64) {
        self.held_again.inc_by(deliveries);
    }

    pub(crate) fn set_aside(&self, reason: DeadReason) {
        self.set_aside.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn store_failed(&self, error: &Error) {
        let kind = if error.is_unavailable() {
            UNAVAILABLE
        } else {
            FAILED
        };
        self.store_errors.with_label_values(&[kind]).inc();
    }
}
