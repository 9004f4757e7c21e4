//! Taking from the queue of an endpoint that works, as fast as its limits and its window allow.

use std::{pin::pin, time::Duration};

use relay_broker::{Error, Subscription, Taken};
use tokio::{
    sync::watch,
    time::{error::Elapsed, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    consume::{Ended, Told, Turn},
    delivery::Line,
    fetch::Fetch,
    pace::Permit,
};

/// How long nothing comes until the room for many messages is left to others.
const IDLE: Duration = Duration::from_secs(10);

/// Takes until told to stop, until the endpoint is closed off, or until more or fewer messages are to
/// be fetched: how many a consumer fetches is fixed when it begins.
pub(crate) async fn take_all(
    line: &Line,
    told: &mut Told,
    fetch: &mut Fetch,
    deliveries: &TaskTracker,
) -> Result<Turn, Error> {
    let queue = line.session.topology().endpoint(&line.endpoint.id);
    let prefetch = fetch.ahead();
    let mut subscription = line.session.subscribe(&queue, prefetch).await?;
    drop(told.replaced.take());
    tracing::debug!(endpoint = %line.endpoint.id, prefetch, "taking");
    let mut blocked = line.session.blocked();
    let mut closed_off = pin!(line.pace.until_closed_off());
    let mut patience = if fetch.is_many() { IDLE } else { Duration::MAX };
    let mut last = None;
    let turn = loop {
        let next = tokio::select! {
            biased;
            () = told.stop.cancelled() => break Turn::Ended(Ended::Stopped),
            () = line.gone.cancelled() => break Turn::Ended(Ended::Gone),
            () = &mut closed_off => break Turn::Over,
            next = next(&mut subscription, line, &mut blocked, patience) => next,
        };
        match next {
            Ok(Some((taken, permit))) => line.clone().begin(deliveries, |line| line.deliver(taken, permit)),
            Ok(None) if last.is_some() => break Turn::Over,
            Ok(None) => break Turn::Ended(Ended::Lost),
            Err(_idle) => last = Some(Fetch::few(&line.endpoint)),
        }
        if fetch.is_too_much(line) {
            last = Some(Fetch::few(&line.endpoint));
            break Turn::Over;
        }
        if last.is_none() {
            last = fetch.more(line);
        }
        if last.is_some() {
            // What was fetched before is begun before.
            subscription.cancel().await;
            patience = Duration::MAX;
        }
    };
    subscription.stop().await;
    if let Some(other) = last {
        *fetch = other;
    }
    Ok(turn)
}

/// The next message, once an attempt at it may begin. While the broker takes no publishes none may:
/// its outcome could not be made safe.
async fn next(
    subscription: &mut Subscription,
    line: &Line,
    blocked: &mut watch::Receiver<bool>,
    patience: Duration,
) -> Result<Option<(Taken, Permit)>, Elapsed> {
    let permit = line.pace.permit().await;
    let Some(taken) = timeout(patience, subscription.next()).await? else {
        return Ok(None);
    };
    if blocked.wait_for(|blocked| !blocked).await.is_err() {
        return Ok(None);
    }
    Ok(Some((taken, permit.with_slot().await)))
}
