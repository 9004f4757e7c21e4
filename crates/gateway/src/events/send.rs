//! Events go out to the broker, and are counted by what came of them.

use futures_util::future::join_all;
use relay_broker::PublishError;
use relay_event::{Event, Timestamp};
use tokio::time::timeout;

use crate::{gateway::Gateway, metrics::Refusal};

/// An event is safe with the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Now,
    /// It had been there already, and was not sent again.
    Before,
}

/// An event is not known to be safe with the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The broker was away, and nothing was sent.
    Unavailable,
    /// It may have arrived.
    Unconfirmed,
}

/// Sends an event that cannot have come before, nor again.
pub(super) async fn new(gateway: &Gateway, event: &Event) -> Result<Sent, Unsent> {
    let sent = confirmed(gateway, event).await.map(|()| Sent::Now);
    count(gateway, event, sent);
    sent
}

/// Sends those of the events that were not confirmed before, all at once.
pub(super) async fn once(gateway: &Gateway, events: &[Event]) -> Vec<Result<Sent, Unsent>> {
    let before = gateway.idempotency.confirmed(events).await;
    let all = events.iter().zip(before).map(async |(event, before)| {
        let sending = Box::pin(confirmed(gateway, event)); // or each holds it four times over
        let sent = gateway.idempotency.once(event, before, sending).await;
        count(gateway, event, sent);
        sent
    });
    join_all(all).await
}

async fn confirmed(gateway: &Gateway, event: &Event) -> Result<(), Unsent> {
    let publishing = gateway.broker.publish_event(event, Timestamp::now());
    match timeout(gateway.config.confirm_timeout, publishing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(PublishError::Unavailable(_))) => Err(Unsent::Unavailable),
        Ok(Err(PublishError::Lost | PublishError::Refused)) | Err(_) => Err(Unsent::Unconfirmed),
    }
}

fn count(gateway: &Gateway, event: &Event, sent: Result<Sent, Unsent>) {
    let (id, metrics) = (event.webhook_id(), &gateway.metrics);
    match sent {
        Ok(Sent::Now) => {
            metrics.published.inc();
            tracing::debug!(event = %id, "published");
        }
        Ok(Sent::Before) => {
            metrics.replayed.inc();
            tracing::debug!(event = %id, "published before, and not sent again");
        }
        Err(Unsent::Unavailable) => metrics.refused(Refusal::Unavailable),
        Err(Unsent::Unconfirmed) => {
            metrics.refused(Refusal::Unconfirmed);
            tracing::debug!(event = %id, "not confirmed");
        }
    }
}
