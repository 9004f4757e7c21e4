//! An endpoint's limits, kept across its consumers: a change of the endpoint, or a reconnect, neither
//! doubles what is under way nor forgets it.

use std::{num::NonZeroU32, sync::Arc};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use relay_event::Endpoint;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

/// Clones share it.
#[derive(Clone)]
pub(crate) struct Pace {
    limits: (u16, Option<u32>),
    permits: Arc<Semaphore>,
    rate: Option<Arc<DefaultDirectRateLimiter>>,
    /// Deliveries begun and not settled. Closed, so that waiting for none is possible at any time.
    pub(crate) under_way: TaskTracker,
}

impl Pace {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let under_way = TaskTracker::new();
        under_way.close();
        Self::with(endpoint, under_way)
    }

    fn with(endpoint: &Endpoint, under_way: TaskTracker) -> Self {
        let rate = endpoint.rate_limit.and_then(NonZeroU32::new);
        let one_by_one = |rate| Quota::per_second(rate).allow_burst(NonZeroU32::MIN);
        Self {
            limits: (endpoint.max_in_flight, endpoint.rate_limit),
            permits: Arc::new(Semaphore::new(endpoint.max_in_flight.into())),
            rate: rate.map(|rate| Arc::new(RateLimiter::direct(one_by_one(rate)))),
            under_way,
        }
    }

    /// The same, unless the endpoint has other limits by now.
    pub(crate) fn adapted_to(self, endpoint: &Endpoint) -> Self {
        if self.limits == (endpoint.max_in_flight, endpoint.rate_limit) {
            return self;
        }
        Self::with(endpoint, self.under_way)
    }

    /// Resolves when another attempt may begin.
    pub(crate) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        if let Some(rate) = &self.rate {
            rate.until_ready().await;
        }
        Some(permit)
    }
}
