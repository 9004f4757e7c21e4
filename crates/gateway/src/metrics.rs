use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use relay_event::EndpointState;

const STATES: [&str; 4] = ["active", "paused", "disabled", "removed"];

/// Why an event was not taken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refusal {
    Invalid,
    TooLarge,
    Unavailable,
    Unconfirmed,
}

impl Refusal {
    const ALL: [Self; 4] = [
        Self::Invalid,
        Self::TooLarge,
        Self::Unavailable,
        Self::Unconfirmed,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// How somebody follows the feed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    Poll,
    Stream,
    Socket,
}

impl How {
    const ALL: [Self; 3] = [Self::Poll, Self::Stream, Self::Socket];

    fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Stream => "stream",
            Self::Socket => "socket",
        }
    }
}

/// Counts as a follower until it is dropped.
#[derive(Debug)]
pub(crate) struct Follower(IntGauge);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What a gateway tells Prometheus.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) published: IntCounter,
    pub(crate) replayed: IntCounter,
    pub(crate) unnoted: IntCounter,
    pub(crate) body_bytes: IntGauge,
    refused: IntCounterVec,
    durations: HistogramVec,
    endpoints: IntGaugeVec,
    consumers: IntGaugeVec,
    followers: IntGaugeVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let refused = Opts::new(
            "relay_gateway_events_refused_total",
            "Events not accepted, by reason: invalid, too_large (a batch refused by one of these counts once), unavailable (nothing was sent to the broker), unconfirmed (it may have been taken).",
        );
        let durations = HistogramOpts::new(
            "relay_gateway_request_duration_seconds",
            "Time from a request's head to its answer, by route, method and status.",
        )
        .buckets(vec![
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ]);
        let endpoints = Opts::new(
            "relay_gateway_endpoints",
            "Endpoints in the store, by state: active, paused, disabled, removed (still being emptied).",
        );
        let consumers = Opts::new(
            "relay_feed_consumer_lag_events",
            "Events of the log that a named consumer of the feed has not committed, whether it wants them or not.",
        );
        let followers = Opts::new(
            "relay_feed_followers",
            "Clients that wait for events of the feed, by how: poll, stream, socket.",
        );
        let metrics = Self {
            published: IntCounter::new(
                "relay_gateway_events_published_total",
                "Events accepted: the broker has confirmed them.",
            )?,
            replayed: IntCounter::new(
                "relay_gateway_events_replayed_total",
                "Events accepted and not sent again, because one of the same source and id was accepted before.",
            )?,
            unnoted: IntCounter::new(
                "relay_gateway_events_unnoted_total",
                "Events accepted of which the store could not be told: those that come again may be sent again.",
            )?,
            body_bytes: IntGauge::new("relay_gateway_body_bytes", "Bytes of requests' bodies in memory.")?,
            refused: IntCounterVec::new(refused, &["reason"])?,
            durations: HistogramVec::new(durations, &["route", "method", "status"])?,
            endpoints: IntGaugeVec::new(endpoints, &["state"])?,
            consumers: IntGaugeVec::new(consumers, &["consumer"])?,
            followers: IntGaugeVec::new(followers, &["how"])?,
        };
        metrics.start_at_zero();
        registry.register(Box::new(metrics.published.clone()))?;
        registry.register(Box::new(metrics.replayed.clone()))?;
        registry.register(Box::new(metrics.unnoted.clone()))?;
        registry.register(Box::new(metrics.body_bytes.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.durations.clone()))?;
        registry.register(Box::new(metrics.endpoints.clone()))?;
        registry.register(Box::new(metrics.consumers.clone()))?;
        registry.register(Box::new(metrics.followers.clone()))?;
        Ok(metrics)
    }

    /// A series that is absent until its first event cannot be alerted on.
    fn start_at_zero(&self) {
        for reason in Refusal::ALL {
            self.refused.with_label_values(&[reason.as_str()]);
        }
        for state in STATES {
            self.endpoints.with_label_values(&[state]);
        }
        for how in How::ALL {
            self.followers.with_label_values(&[how.as_str()]);
        }
    }

    /// How far a named consumer is behind.
    pub(crate) fn lag(&self, consumer: &str, lag: i64) {
        self.consumers.with_label_values(&[consumer]).set(lag);
    }

    /// That there is no such consumer any more.
    pub(crate) fn no_consumer(&self, consumer: &str) {
        // Fails if it was never told of.
        let _ = self.consumers.remove_label_values(&[consumer]);
    }

    /// Somebody waits for events, as long as this is held.
    pub(crate) fn follower(&self, how: How) -> Follower {
        let followers = self.followers.with_label_values(&[how.as_str()]);
        followers.inc();
        Follower(followers)
    }

    /// That there is such an answer, even before the first.
    pub(crate) fn expect(&self, route: &str, method: &str, status: &str) {
        self.durations.with_label_values(&[route, method, status]);
    }

    pub(crate) fn refused(&self, reason: Refusal) {
        self.refused.with_label_values(&[reason.as_str()]).inc();
    }

    /// `route` is one of the router's own, `None` if none matched.
    pub(crate) fn answered(&self, route: Option<&str>, method: &str, status: u16, took: Duration) {
        const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PATCH", "DELETE"];
        let method = METHODS
            .into_iter()
            .find(|known| *known == method)
            .unwrap_or("other");
        self.durations
            .with_label_values(&[route.unwrap_or("unmatched"), method, &status.to_string()])
            .observe(took.as_secs_f64());
    }

    /// One endpoint went from a state to another; `None` is not being there.
    pub(crate) fn moved(&self, from: Option<&EndpointState>, to: Option<&EndpointState>) {
        if let Some(from) = from {
            self.endpoints.with_label_values(&[from.as_str()]).dec();
        }
        if let Some(to) = to {
            self.endpoints.with_label_values(&[to.as_str()]).inc();
        }
    }

    /// The truth, with what other gateways did.
    pub(crate) fn count<'a>(&self, endpoints: impl Iterator<Item = &'a EndpointState>) {
        let mut counts = STATES.map(|state| (state, 0));
        for endpoint in endpoints {
            for (state, count) in &mut counts {
                *count += i64::from(*state == endpoint.as_str());
            }
        }
        for (state, count) in counts {
            self.endpoints.with_label_values(&[state]).set(count);
        }
    }
}
