//! One endpoint's queue: taking from it while the endpoint works, trying now and then while it is
//! closed off, and clearing it when it is removed.

use std::{sync::Arc, time::Duration};

use relay_broker::Error;
use relay_event::EndpointState;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{delivery::Line, fetch::Fetch, probe::probe_all, take::take_all};

/// Settlements of a removed endpoint's messages under way at once.
pub(crate) const BURIALS: u16 = 200;

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

/// How one way of taking from a queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// All of it.
    Ended(Ended),
    /// To go on in another way.
    Over,
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

async fn deliver_all(line: Line, mut told: Told, deliveries: TaskTracker) -> Result<Ended, Error> {
    let mut fetch = Fetch::few(&line.endpoint);
    // One that was closed off before, perhaps with other settings, is tried at once.
    let mut at_once = true;
    loop {
        let turn = if line.pace.is_closed_off() {
            fetch = Fetch::few(&line.endpoint);
            probe_all(&line, &mut told, at_once, &deliveries).await?
        } else {
            take_all(&line, &mut told, &mut fetch, &deliveries).await?
        };
        match turn {
            Turn::Ended(ended) => return Ok(ended),
            Turn::Over => at_once = false,
        }
    }
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
