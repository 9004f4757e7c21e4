//! One endpoint's queue: taking from it as fast as the endpoint's limits allow.

use std::{sync::Arc, time::Duration};

use relay_broker::{Error, Subscription, Taken};
use relay_event::{Endpoint, EndpointState};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

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

/// What a consumer is told from outside.
pub(crate) struct Told {
    /// Cancelled when it is to stop.
    pub(crate) stop: CancellationToken,
    /// Ends the consumer it replaces, when dropped.
    pub(crate) replaced: Option<DropGuard>,
}

/// Takes from an endpoint's queue until told to stop, or something ends it. Deliveries go on as
/// tasks of `deliveries`.
///
/// # Errors
/// The queue cannot be consumed from.
pub(crate) async fn consume(line: Line, told: Told, deliveries: TaskTracker) -> Result<Ended, Error> {
    match line.endpoint.state {
        EndpointState::Removed { .. } => bury_all(line, told, deliveries).await,
        _ => deliver_all(line, told, deliveries).await,
    }
}

async fn deliver_all(line: Line, told: Told, deliveries: TaskTracker) -> Result<Ended, Error> {
    let queue = line.session.topology().endpoint(&line.endpoint.id);
    let mut subscription = line.session.subscribe(&queue, prefetch(&line.endpoint)).await?;
    drop(told.replaced);
    let mut blocked = line.session.blocked();
    let ended = loop {
        tokio::select! {
            biased;
            () = told.stop.cancelled() => break Ended::Stopped,
            () = line.gone.cancelled() => break Ended::Gone,
            next = next(&mut subscription, &line, &mut blocked) => match next {
                Some((taken, permit)) => line.clone().begin(&deliveries, |line| line.deliver(taken, permit)),
                None => break Ended::Lost,
            },
        }
    };
    subscription.stop().await;
    Ok(ended)
}

/// Messages wait for their settlement after their attempt, so more are taken than are attempted. But
/// never so many that the last of them could wait near the broker's `consumer_timeout` of 30 minutes
/// for its attempt: that would end the channel, and all consumers on it.
fn prefetch(endpoint: &Endpoint) -> u16 {
    const LONGEST_WAIT: u64 = 600;
    let in_flight = u64::from(endpoint.max_in_flight);
    let rounds = LONGEST_WAIT / endpoint.timeout().as_secs().max(1);
    let by_timeout = in_flight * rounds.max(1);
    let by_rate = endpoint
        .rate_limit
        .map_or(u64::MAX, |rate| u64::from(rate) * LONGEST_WAIT);
    let wanted = (2 * in_flight + 16).min(by_timeout).min(by_rate);
    u16::try_from(wanted).unwrap_or(u16::MAX)
}

/// The next message, once an attempt at it may begin. While the broker takes no publishes none may:
/// its outcome could not be made safe.
async fn next(
    subscription: &mut Subscription,
    line: &Line,
    blocked: &mut watch::Receiver<bool>,
) -> Option<(Taken, OwnedSemaphorePermit)> {
    let permit = line.pace.permit().await?;
    let taken = subscription.next().await?;
    blocked.wait_for(|blocked| !blocked).await.ok()?;
    Some((taken, permit))
}

/// Moves everything to the dead-letter queue. Who sees neither messages nor consumers on the queue
/// knows that it is empty, so the consumer stays for as long as anything taken from the queue, by it
/// or by those before it, is not settled.
async fn bury_all(line: Line, told: Told, deliveries: TaskTracker) -> Result<Ended, Error> {
    let queue = line.session.topology().endpoint(&line.endpoint.id);
    let depth = line.session.depth(&queue).await?;
    let idle = told.replaced.is_none() && line.pace.under_way.is_empty();
    if idle && depth.is_none_or(|depth| depth.ready == 0) {
        // A consumer now would only keep the gateway from deleting the queue.
        return Ok(Ended::Emptied);
    }
    let mut subscription = match line.session.subscribe_alone(&queue, BURIALS).await {
        Err(Error::NoQueue { .. }) => return Ok(Ended::Emptied),
        subscribed => subscribed?,
    };
    drop(told.replaced);
    let permits = Arc::new(Semaphore::new(BURIALS.into()));
    let ended = loop {
        let next = tokio::select! {
            biased;
            () = told.stop.cancelled() => break Ended::Stopped,
            next = timeout(QUIET, subscription.next()) => next,
        };
        match next {
            Ok(Some(taken)) => {
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                    break Ended::Lost;
                };
                line.clone().begin(&deliveries, |line| line.bury(taken, permit));
            }
            Ok(None) => break Ended::Lost,
            Err(_quiet) if line.pace.under_way.is_empty() => break Ended::Emptied,
            Err(_quiet) => {}
        }
    };
    tokio::select! {
        () = line.pace.under_way.wait() => {}
        () = line.session.lost() => {}
    }
    subscription.stop().await;
    Ok(ended)
}

/// Whether an endpoint's queue is taken from at all.
pub(crate) fn is_consumed(state: &EndpointState) -> bool {
    matches!(state, EndpointState::Active | EndpointState::Removed { .. })
}

#[cfg(test)]
mod tests {
    use relay_event::{Secret, Timestamp};

    use super::*;

    fn taken(max_in_flight: u16, timeout_ms: u64, rate_limit: Option<u32>) -> u16 {
        let (url, pattern) = ("http://127.0.0.1/".parse().unwrap(), "#".parse().unwrap());
        let mut endpoint = Endpoint::new(url, vec![pattern], Secret::generate(), Timestamp::now());
        endpoint.max_in_flight = max_in_flight;
        endpoint.timeout_ms = timeout_ms;
        endpoint.rate_limit = rate_limit;
        prefetch(&endpoint)
    }

    #[test]
    fn takes_ahead_but_not_for_longer_than_the_broker_allows() {
        assert_eq!(taken(32, 30_000, None), 80);
        assert_eq!(taken(1_000, 30_000, None), 2_016);
        assert_eq!(taken(1, 120_000, None), 5, "five times two minutes");
        assert_eq!(taken(1_000, 100, Some(1)), 600, "one a second for ten minutes");
    }
}
