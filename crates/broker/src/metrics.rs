use prometheus::{IntCounter, IntGauge, Registry};

/// What the broker connection tells Prometheus.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) connected: IntGauge,
    pub(crate) blocked: IntGauge,
    pub(crate) reconnects: IntCounter,
    pub(crate) confirmed: IntCounter,
    pub(crate) refused: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// They were registered there before.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            connected: IntGauge::new(
                "relay_broker_connected",
                "1 while the broker connection is up, else 0.",
            )?,
            blocked: IntGauge::new(
                "relay_broker_blocked",
                "1 while the broker blocks publishing because of a memory or disk alarm, else 0.",
            )?,
            reconnects: IntCounter::new(
                "relay_broker_connections_total",
                "Broker connections made since the process started.",
            )?,
            confirmed: IntCounter::new(
                "relay_broker_publishes_confirmed_total",
                "Messages of any kind that the broker confirmed.",
            )?,
            refused: IntCounter::new(
                "relay_broker_publishes_refused_total",
                "Messages of any kind that the broker refused (nack).",
            )?,
        };
        registry.register(Box::new(metrics.connected.clone()))?;
        registry.register(Box::new(metrics.blocked.clone()))?;
        registry.register(Box::new(metrics.reconnects.clone()))?;
        registry.register(Box::new(metrics.confirmed.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        Ok(metrics)
    }
}
