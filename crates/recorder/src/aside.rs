//! Messages that cannot be recorded, deliveries that ended their deliverers, and events that claim to have been moved
//! by a broker. A copy of the message goes to the dead-letter queue, or the event is published once more; the message
//! is acked once that is confirmed. The log does not wait for these: during an alarm the broker confirms nothing, and only a log that
//! goes on empties it.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use relay_broker::{Session, Settlement, Unsettled};
use relay_event::DeadReason;
use tokio::time::timeout;

use crate::{
    batch::Item,
    metrics::Metrics,
    write::{Ended, HOLD},
};

/// How long a shutdown waits for copies under way. What is left comes again, and is copied twice.
const FINISH: Duration = Duration::from_secs(5);

/// Messages on their way to the dead-letter queue. Those dropped on their way are given back.
#[derive(Default)]
pub(crate) struct Asides(FuturesUnordered<BoxFuture<'static, Result<(), Ended>>>);

impl Asides {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Begins to set a refused message aside, or to send an event again.
    pub(crate) fn begin(&mut self, session: &Session, item: Item, metrics: &Metrics) {
        let (session, metrics) = (session.clone(), metrics.clone());
        self.0.push(set_aside(session, item, metrics).boxed());
    }

    /// Resolves when one is done; at once if there is none.
    ///
    /// # Errors
    /// It was held for too long, or the session is over.
    pub(crate) async fn next(&mut self) -> Result<(), Ended> {
        self.0.next().await.unwrap_or(Ok(()))
    }

    /// Waits for those under way, for a while.
    pub(crate) async fn finish(mut self) {
        let all = async { while !self.is_empty() && self.next().await.is_ok() {} };
        let _ = timeout(FINISH, all).await;
    }
}

async fn set_aside(session: Session, item: Item, metrics: Metrics) -> Result<(), Ended> {
    let reason = item.reason();
    let Item {
        taken,
        refused,
        again,
        exhausted,
        room,
        ..
    } = item;
    let publishing = async {
        if let Some((event, published_at)) = &again {
            session.publish_again(event, *published_at).await?;
        }
        if let Some(received) = &exhausted
            && let Some(endpoint) = &received.endpoint
        {
            let (part, dead) = (
                taken.divide(1).remove(0),
                Settlement::Dead(DeadReason::DeliveryLimit),
            );
            part.settle(&session, endpoint, received, &received.history, dead, None)
                .await?;
            metrics.set_aside(DeadReason::DeliveryLimit);
            return Ok(());
        }
        match refused.split_last() {
            Some((last, others)) => {
                for refused in others {
                    session.set_aside(refused, reason).await?;
                }
                taken.set_aside(&session, last, reason).await?;
            }
            None => taken.ack(),
        }
        Ok::<(), Unsettled>(())
    };
    match timeout(HOLD, publishing).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err(Ended::Lost),
        Err(_) => return Err(Ended::Held),
    }
    drop(room);
    if !refused.is_empty() {
        metrics.set_aside(reason);
    }
    Ok(())
}
