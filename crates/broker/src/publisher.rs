//! Publishing with confirms. One task owns the channel, because lapin can swap the confirms of
//! two tasks that publish on one channel.

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{BasicProperties, Channel, Confirmation, options::BasicPublishOptions};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::Metrics;

/// Publishes awaiting their confirm at once.
const WINDOW: usize = 1_000;

/// Why a message is not known to be safe with the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There is no connection, or it went away before the confirm: the message may have arrived.
    #[error("the broker connection was lost before the confirm")]
    Lost,
    /// The broker refused it (nack).
    #[error("the broker refused the message")]
    Refused,
    /// The broker is not reachable; nothing was sent.
    #[error("the broker cannot be reached: {0}")]
    Unavailable(String),
}

/// A message on its way out.
pub(crate) struct Outgoing {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
    /// Whether it is an error that no queue takes it; so for everything but announcements.
    pub(crate) mandatory: bool,
}

type Done = oneshot::Sender<Result<(), PublishError>>;

struct Job {
    message: Outgoing,
    done: Done,
}

/// Hands messages to the publishing task.
#[derive(Clone)]
pub(crate) struct Publisher {
    jobs: mpsc::Sender<Job>,
}

impl Publisher {
    /// Starts the task on a channel in confirm mode. It ends, and cancels `lost`, when anything is
    /// wrong with the channel.
    pub(crate) fn start(channel: Channel, lost: CancellationToken, metrics: Option<Metrics>) -> Self {
        let (jobs, queue) = mpsc::channel(WINDOW);
        tokio::spawn(async move {
            publish_all(channel, queue, &lost, metrics).await;
            lost.cancel();
        });
        Self { jobs }
    }

    /// Publishes and waits for the confirm. The message is not made before there is room for it. Dropping
    /// the future does not unsend.
    pub(crate) async fn publish(&self, message: impl FnOnce() -> Outgoing) -> Result<(), PublishError> {
        let room = self.jobs.reserve().await.map_err(|_| PublishError::Lost)?;
        let (done, confirmed) = oneshot::channel();
        room.send(Job {
            message: message(),
            done,
        });
        if self.jobs.is_closed() {
            return Err(PublishError::Lost); // or it may lie there for ever
        }
        confirmed.await.unwrap_or(Err(PublishError::Lost))
    }
}

/// Whatever is still awaiting its confirm when this returns is answered with [`PublishError::Lost`]
/// by its dropped sender.
async fn publish_all(
    channel: Channel,
    mut jobs: mpsc::Receiver<Job>,
    lost: &CancellationToken,
    metrics: Option<Metrics>,
) {
    let mut awaiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = lost.cancelled() => return,
            Some((confirmation, done)) = awaiting.next() => {
                let (confirmation, done): (lapin::Result<Confirmation>, Done) = (confirmation, done);
                let result = match confirmation {
                    Ok(Confirmation::Ack(None)) => Ok(()),
                    Ok(Confirmation::Nack(None)) => Err(PublishError::Refused),
                    // A returned message hangs on any confirm, so none of those in flight can be
                    // believed; and on this topology there is always a route.
                    Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => {
                        tracing::error!("the broker returned a message as unroutable: its exchanges or bindings were changed");
                        return;
                    }
                    Ok(Confirmation::NotRequested) | Err(_) => return,
                };
                count(metrics.as_ref(), &result);
                // A caller that no longer waits has its answer by redelivery or resending.
                let _ = done.send(result);
            }
            job = jobs.recv(), if awaiting.len() < WINDOW => {
                let Some(Job { message, done }) = job else { return };
                awaiting.push(confirmed(channel.clone(), message, done));
            }
        }
    }
}

/// Its first poll registers the confirm and queues the frames in one go, so polling many of these
/// in one task keeps confirms and messages paired.
async fn confirmed(
    channel: Channel,
    message: Outgoing,
    done: oneshot::Sender<Result<(), PublishError>>,
) -> (
    lapin::Result<Confirmation>,
    oneshot::Sender<Result<(), PublishError>>,
) {
    let options = BasicPublishOptions {
        mandatory: message.mandatory,
        immediate: false,
    };
    let Outgoing {
        exchange,
        routing_key,
        properties,
        body,
        ..
    } = message;
    let sent = channel
        .basic_publish(exchange.into(), routing_key.into(), options, &body, properties)
        .await;
    let confirmation = match sent {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    (confirmation, done)
}

fn count(metrics: Option<&Metrics>, result: &Result<(), PublishError>) {
    if let Some(metrics) = metrics {
        match result {
            Ok(()) => metrics.confirmed.inc(),
            Err(_) => metrics.refused.inc(),
        }
    }
}
