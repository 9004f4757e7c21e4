use std::{collections::HashSet, sync::Mutex, time::Duration};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};
use relay_event::{DeadReason, Delay, ErrorClass, HoldReason, Outcome, Timestamp};

/// Delays that have a label of their own; an endpoint's schedule may name any.
const DELAY_LABELS: usize = 50;
const OTHER: &str = "other";
const STATUS_CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// What a deliverer tells Prometheus.
#[derive(Debug)]
pub(crate) struct Metrics {
    attempts: IntCounterVec,
    attempt_duration: HistogramVec,
    deliveries: IntCounterVec,
    lag: Histogram,
    retries: IntCounterVec,
    delays: Mutex<HashSet<Delay>>,
    dead: IntCounterVec,
    pub(crate) in_flight: IntGauge,
    pub(crate) limit: IntGauge,
    held: IntCounterVec,
    pub(crate) blind: IntCounter,
    pub(crate) circuits_open: IntGauge,
    pub(crate) queues: IntGaugeVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let attempts = Opts::new(
            "relay_attempts_total",
            "Attempts made, by status class or by why there was no usable answer.",
        );
        let duration = HistogramOpts::new(
            "relay_attempt_duration_seconds",
            "Time from the start of an attempt to the end of its answer.",
        )
        .buckets(vec![
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
        ]);
        let lag = HistogramOpts::new(
            "relay_delivery_lag_seconds",
            "Time from an event's publishing to its delivery, retries included.",
        )
        .buckets(vec![
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0,
            172800.0,
        ]);
        let deliveries = Opts::new(
            "relay_deliveries_total",
            "Deliveries that ended, by outcome: delivered or dead.",
        );
        let retries = Opts::new(
            "relay_retries_total",
            "Deliveries sent to wait for another attempt, by delay.",
        );
        let dead = Opts::new(
            "relay_dead_letters_total",
            "Messages sent to the dead-letter queue by this process, by reason.",
        );
        let queues = Opts::new("relay_queue_messages", "Messages ready in the relay's queues.");
        let held = Opts::new(
            "relay_held_total",
            "Deliveries that were left to wait in the log, by reason.",
        );
        let metrics = Self {
            attempts: IntCounterVec::new(attempts, &["result"])?,
            attempt_duration: HistogramVec::new(duration, &["result"])?,
            deliveries: IntCounterVec::new(deliveries, &["outcome"])?,
            lag: Histogram::with_opts(lag)?,
            retries: IntCounterVec::new(retries, &["delay"])?,
            delays: Mutex::default(),
            dead: IntCounterVec::new(dead, &["reason"])?,
            in_flight: IntGauge::new("relay_attempts_in_flight", "Attempts under way.")?,
            limit: IntGauge::new(
                "relay_attempts_limit",
                "Attempts that may be under way at once in this process.",
            )?,
            held: IntCounterVec::new(held, &["reason"])?,
            blind: IntCounter::new(
                "relay_blind_matches_total",
                "Messages whose endpoints were taken as known before, for the store did not answer in time.",
            )?,
            circuits_open: IntGauge::new(
                "relay_circuits_open",
                "Endpoints to which this process sends nothing by itself: every attempt failed.",
            )?,
            queues: IntGaugeVec::new(queues, &["queue"])?,
        };
        metrics.start_at_zero();
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    fn collectors(&self) -> [Box<dyn Collector>; 12] {
        [
            Box::new(self.attempts.clone()),
            Box::new(self.attempt_duration.clone()),
            Box::new(self.deliveries.clone()),
            Box::new(self.lag.clone()),
            Box::new(self.retries.clone()),
            Box::new(self.dead.clone()),
            Box::new(self.in_flight.clone()),
            Box::new(self.limit.clone()),
            Box::new(self.held.clone()),
            Box::new(self.blind.clone()),
            Box::new(self.circuits_open.clone()),
            Box::new(self.queues.clone()),
        ]
    }

    /// A series that is absent until its first event cannot be alerted on.
    fn start_at_zero(&self) {
        for result in STATUS_CLASSES
            .into_iter()
            .chain(ErrorClass::ALL.map(ErrorClass::as_str))
        {
            self.attempts.with_label_values(&[result]);
        }
        for outcome in ["delivered", "dead"] {
            self.deliveries.with_label_values(&[outcome]);
        }
        for reason in HoldReason::ALL {
            self.held.with_label_values(&[reason.as_str()]);
        }
        for reason in DeadReason::ALL {
            self.dead.with_label_values(&[reason.as_str()]);
        }
    }

    pub(crate) fn attempted(&self, outcome: &Outcome, took: Duration) {
        let result = match (outcome.error(), outcome.status()) {
            (Some(class), _) => class.as_str(),
            (None, Some(status)) => STATUS_CLASSES[usize::from(status / 100).saturating_sub(2).min(3)],
            (None, None) => ErrorClass::Reset.as_str(),
        };
        self.attempts.with_label_values(&[result]).inc();
        self.attempt_duration
            .with_label_values(&[result])
            .observe(took.as_secs_f64());
    }

    pub(crate) fn held(&self, reason: HoldReason) {
        self.held.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn delivered(&self, published_at: Option<Timestamp>, now: Timestamp) {
        self.deliveries.with_label_values(&["delivered"]).inc();
        if let Some(published_at) = published_at {
            self.lag.observe(now.since(published_at).as_secs_f64());
        }
    }

    pub(crate) fn retried(&self, delay: Delay) {
        let mut known = self
            .delays
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let own = known.contains(&delay) || known.len() < DELAY_LABELS && known.insert(delay);
        let label = if own { delay.to_string() } else { OTHER.to_owned() };
        self.retries.with_label_values(&[&label]).inc();
    }

    pub(crate) fn died(&self, reason: DeadReason) {
        self.deliveries.with_label_values(&["dead"]).inc();
        self.dead.with_label_values(&[reason.as_str()]).inc();
    }
}
