use std::collections::HashMap;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Names of limits, as the metrics have them. Servers with limits of their own add theirs.
#[derive(Debug)]
pub enum Limit {}

impl Limit {
    /// The connections in all.
    pub const CONNECTIONS: &'static str = "connections";
    /// The connections of one address.
    pub const ADDRESS: &'static str = "address";
    /// The connections that have not shown a token.
    pub const WITHOUT_TOKEN: &'static str = "without_token";
    /// The new connections a second that have not shown a token.
    pub const WITHOUT_TOKEN_A_SECOND: &'static str = "without_token_a_second";
    /// The files or the memory of the machine.
    pub const FILES: &'static str = "files";
    /// The time of a head.
    pub const HEAD_TIME: &'static str = "head_time";
    /// The time between requests.
    pub const IDLE: &'static str = "idle";
    /// The size of a head.
    pub const HEAD_BYTES: &'static str = "head_bytes";
    /// The size of all heads together.
    pub const HEAD_MEMORY: &'static str = "head_memory";
    /// The size of a request's target.
    pub const URI_BYTES: &'static str = "uri_bytes";
    /// The time in which a client reads nothing.
    pub const UNSENT: &'static str = "unsent";

    const ALL: [&'static str; 11] = [
        Self::CONNECTIONS,
        Self::ADDRESS,
        Self::WITHOUT_TOKEN,
        Self::WITHOUT_TOKEN_A_SECOND,
        Self::FILES,
        Self::HEAD_TIME,
        Self::IDLE,
        Self::HEAD_BYTES,
        Self::HEAD_MEMORY,
        Self::URI_BYTES,
        Self::UNSENT,
    ];
}

/// Counts the connections and requests of one server that reached a limit.
#[derive(Debug, Clone)]
pub struct Limited {
    limits: IntCounterVec,
    pub(super) good: IntGauge,
    pub(super) none: IntGauge,
    pub(super) most: IntGauge,
}

impl Limited {
    pub(super) fn register(server: &'static str, registry: &Registry) -> prometheus::Result<Self> {
        let opts = |name: &str, help: &str| {
            let labels = HashMap::from([("server".to_owned(), server.to_owned())]);
            Opts::new(name, help).const_labels(labels)
        };
        let limits = opts(
            "relay_http_limited_total",
            "Connections and requests that were refused or ended because they reached a limit, by limit and server.",
        );
        let connections = opts(
            "relay_http_connections",
            "Connections that are open, by whether a good token was presented (good, none) and server.",
        );
        let most = opts(
            "relay_http_connections_max",
            "The most connections that may be open now: what is set, or what the process may open files for.",
        );
        let limits = IntCounterVec::new(limits, &["limit"])?;
        let connections = IntGaugeVec::new(connections, &["token"])?;
        let most = IntGauge::with_opts(most)?;
        registry.register(Box::new(limits.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(most.clone()))?;
        let limited = Self {
            limits,
            good: connections.with_label_values(&["good"]),
            none: connections.with_label_values(&["none"]),
            most,
        };
        limited.expect(&Limit::ALL);
        Ok(limited)
    }

    /// Has a series for each of these limits, even before one is reached.
    pub fn expect(&self, limits: &[&'static str]) {
        for limit in limits {
            self.limits.with_label_values(&[limit]);
        }
    }

    /// Counts one that reached a limit.
    pub fn count(&self, limit: &'static str) {
        self.limits.with_label_values(&[limit]).inc();
    }
}
