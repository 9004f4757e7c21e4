//! One endpoint's queue: taking from it as fast as the endpoint's limits allow.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use relay_broker::{Error, Subscription, Taken};
use relay_event::EndpointState;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::delivery::Line;

/// Settlements of a removed endpoint's messages under way at once.
const BURIALS: u16 = 200;

/// How long a removed endpoint's queue must stay empty before its consumer ends.
const QUIET: Duration = Duration::from_secs(2);

/// Why taking from a queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// The endpoint answered that it is gone.
    Gone,
    /// Nothing is left of a removed endpoint.
    Emptied,
    /// The consumer ended from the broker's side.
    Lost,
}

/// Takes from an endpoint's queue until told to stop, or something ends it. Deliveries go on as
/// tasks of `deliveries`.
///
/// # Errors
/// The queue cannot be declared or consumed from.
pub(crate) async fn consume(
    line: Line,
    stop: CancellationToken,
    deliveries: TaskTracker,
) -> Result<Ended, Error> {
    match line.endpoint.state {
        EndpointState::Removed { .. } => bury_all(line, stop, deliveries).await,
        _ => deliver_all(line, stop, deliveries).await,
    }
}

async fn deliver_all(line: Line, stop: CancellationToken, deliveries: TaskTracker) -> Result<Ended, Error> {
    let endpoint = Arc::clone(&line.endpoint);
    line.session
        .declare_endpoint(&endpoint.id, endpoint.delays())
        .await?;
    let queue = line.session.topology().endpoint(&endpoint.id);
    // Messages wait for their settlement after their attempt, so more are taken than are attempted.
    let prefetch = endpoint.max_in_flight.saturating_mul(2).saturating_add(16);
    let mut subscription = line.session.subscribe(&queue, prefetch).await?;
    let mut pace = Pace::of(&line);
    let ended = loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break Ended::Stopped,
            () = line.gone.cancelled() => break Ended::Gone,
            next = next(&mut subscription, &mut pace) => match next {
                Some((taken, permit)) => drop(deliveries.spawn(line.clone().deliver(taken, permit))),
                None => break Ended::Lost,
            },
        }
    };
    subscription.stop().await;
    Ok(ended)
}

/// The next message, once an attempt at it may begin.
async fn next(subscription: &mut Subscription, pace: &mut Pace) -> Option<(Taken, OwnedSemaphorePermit)> {
    let permit = pace.permit().await?;
    let taken = subscription.next().await?;
    Some((taken, permit))
}

/// What holds attempts back: the endpoint's limits, and a broker that takes no publishes, for then
/// no outcome could be made safe.
struct Pace {
    permits: Arc<Semaphore>,
    rate: Option<DefaultDirectRateLimiter>,
    blocked: watch::Receiver<bool>,
}

impl Pace {
    fn of(line: &Line) -> Self {
        let rate = line.endpoint.rate_limit.and_then(NonZeroU32::new);
        let burst_of_one = |rate| Quota::per_second(rate).allow_burst(NonZeroU32::MIN);
        Self {
            permits: Arc::new(Semaphore::new(line.endpoint.max_in_flight.into())),
            rate: rate.map(|rate| RateLimiter::direct(burst_of_one(rate))),
            blocked: line.session.blocked(),
        }
    }

    async fn permit(&mut self) -> Option<OwnedSemaphorePermit> {
        self.blocked.wait_for(|blocked| !blocked).await.ok()?;
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        if let Some(rate) = &self.rate {
            rate.until_ready().await;
        }
        Some(permit)
    }
}

/// Keeps its consumer for as long as it holds anything, so that who sees neither messages nor
/// consumers on the queue knows that it is empty.
async fn bury_all(line: Line, stop: CancellationToken, deliveries: TaskTracker) -> Result<Ended, Error> {
    let queue = line.session.topology().endpoint(&line.endpoint.id);
    if line.session.depth(&queue).await?.is_none() {
        return Ok(Ended::Emptied);
    }
    let permits = Arc::new(Semaphore::new(BURIALS.into()));
    let mut subscription = line.session.subscribe(&queue, BURIALS).await?;
    let ended = loop {
        let next = tokio::select! {
            () = stop.cancelled() => break Ended::Stopped,
            next = timeout(QUIET, subscription.next()) => next,
        };
        match next {
            Ok(Some(taken)) => {
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                    break Ended::Lost;
                };
                drop(deliveries.spawn(line.clone().bury(taken, permit)));
            }
            Ok(None) => break Ended::Lost,
            Err(_quiet) if permits.available_permits() == usize::from(BURIALS) => break Ended::Emptied,
            Err(_quiet) => {}
        }
    };
    subscription.stop().await;
    Ok(ended)
}

/// Whether an endpoint's queue is taken from at all.
pub(crate) fn is_consumed(state: &EndpointState) -> bool {
    matches!(state, EndpointState::Active | EndpointState::Removed { .. })
}
