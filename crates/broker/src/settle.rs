//! The settlement rules. A message taken from an endpoint's queue is acked only after its outcome
//! is safe: its copy (a retry or a dead letter), if there is one, and the record of its attempt are
//! confirmed by the broker. Until then it is the broker's to redeliver. So a crash at any moment
//! may deliver twice, and never loses.

use lapin::{
    message::Delivery,
    options::{BasicNackOptions, BasicRejectOptions},
};
use relay_event::{Attempt, DeadReason, Delay, EndpointId, History, Timestamp};

use crate::{
    acks::Acks,
    publisher::PublishError,
    session::{Error, Session},
    wire::{self, Received},
};

/// What becomes of a taken message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The endpoint has it.
    Delivered,
    /// It waits in the broker for another attempt.
    Retry(Delay),
    /// It goes to the dead-letter queue.
    Dead(DeadReason),
}

/// The session ended before the outcome was safe; the broker will redeliver the message.
#[derive(Debug, thiserror::Error)]
#[error("a message could not be settled and will be redelivered")]
pub struct Unsettled(#[source] Box<dyn std::error::Error + Send + Sync>);

impl From<PublishError> for Unsettled {
    fn from(error: PublishError) -> Self {
        Self(error.into())
    }
}

impl From<Error> for Unsettled {
    fn from(error: Error) -> Self {
        Self(error.into())
    }
}

/// A message taken from a queue and not settled yet. Settling consumes it, so it happens once;
/// dropping it gives it back.
#[must_use = "a taken message must be settled"]
pub struct Taken {
    delivery: Box<Delivery>,
    acks: Acks,
    /// Whether the broker has its answer, so that dropping this gives nothing back.
    answered: bool,
}

impl Taken {
    /// `acks` are those of the channel it came by.
    pub(crate) fn new(delivery: Delivery, acks: Acks) -> Self {
        Self {
            delivery: Box::new(delivery),
            acks,
            answered: false,
        }
    }

    /// Reads the message. `max_bytes` is the largest event allowed.
    pub fn read(&mut self, session: &Session, max_bytes: usize) -> Received {
        Received::read(&mut self.delivery, session.topology(), max_bytes)
    }

    pub(crate) fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// Makes the outcome safe, then acks. `history` includes the attempt just made, if one was.
    ///
    /// # Errors
    /// The session ended first.
    pub async fn settle(
        self,
        session: &Session,
        endpoint: &EndpointId,
        message: &Received,
        history: &History,
        settlement: Settlement,
        attempt: Option<Box<Attempt>>,
    ) -> Result<(), Unsettled> {
        if let (Settlement::Dead(_), Err(refused)) = (settlement, &message.event)
            && refused.is_for_the_broker()
        {
            return self.reject().await;
        }
        // Rarely anything; it is large while it is, and thousands are settled at once.
        let copied = Box::pin(copy(session, endpoint, message, history, settlement));
        let recorded = async {
            match attempt {
                Some(attempt) => session.record(attempt).await.map_err(Unsettled::from),
                None => Ok(()),
            }
        };
        tokio::try_join!(copied, recorded)?;
        self.ack();
        Ok(())
    }

    /// Acks the message, when all that is in it is safe. Should the ack not arrive, it comes again: twice,
    /// but not lost.
    pub fn ack(mut self) {
        self.answered = true;
        self.acks.settled(self.delivery.delivery_tag);
    }

    /// Has the broker move the message to the dead-letter queue, at least once, whole and as it was published:
    /// this process has only its beginning. Every endpoint's queue has its dead letters moved so.
    async fn reject(mut self) -> Result<(), Unsettled> {
        self.answered = true;
        let reject = BasicRejectOptions { requeue: false };
        match self.delivery.acker.reject(reject).await {
            Ok(true) => {
                self.acks.returned(self.delivery.delivery_tag);
                Ok(())
            }
            // The channel is gone, and the message is back in its queue.
            Ok(false) | Err(_) => Err(PublishError::Lost.into()),
        }
    }

    /// Puts the message back where it was.
    pub async fn give_back(mut self) {
        self.answered = true;
        let requeue = BasicNackOptions {
            requeue: true,
            ..Default::default()
        };
        // On a channel that is gone this fails, and the message is back in its queue already.
        if matches!(self.delivery.acker.nack(requeue).await, Ok(true)) {
            self.acks.returned(self.delivery.delivery_tag);
        }
    }
}

async fn copy(
    session: &Session,
    endpoint: &EndpointId,
    message: &Received,
    history: &History,
    settlement: Settlement,
) -> Result<(), Unsettled> {
    let topology = session.topology();
    match (settlement, &message.event) {
        (Settlement::Delivered, _) => Ok(()),
        (Settlement::Retry(delay), Ok(event)) => {
            session.ensure_delay(delay).await?;
            let retry = || wire::retry(topology, delay, endpoint, event, history);
            Ok(session.publish_safely(retry).await?)
        }
        (Settlement::Retry(_), Err(_)) => {
            dead(session, endpoint, message, history, DeadReason::InvalidEvent).await
        }
        (Settlement::Dead(reason), _) => dead(session, endpoint, message, history, reason).await,
    }
}

async fn dead(
    session: &Session,
    endpoint: &EndpointId,
    message: &Received,
    history: &History,
    reason: DeadReason,
) -> Result<(), Unsettled> {
    let (topology, now) = (session.topology(), Timestamp::now());
    let dead = || wire::dead(topology, endpoint, message, history, reason, now);
    Ok(session.publish_safely(dead).await?)
}

impl Drop for Taken {
    /// A task that panicked, or was ended, must not keep the message from others until the
    /// connection ends.
    fn drop(&mut self) {
        if self.answered || !self.delivery.acker.usable() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Other than a nack, a reject counts towards the delivery limit in every RabbitMQ.
            let reject = BasicRejectOptions { requeue: true };
            let (acker, tag) = (self.delivery.acker.clone(), self.delivery.delivery_tag);
            let acks = self.acks.clone();
            runtime.spawn(async move {
                if matches!(acker.reject(reject).await, Ok(true)) {
                    acks.returned(tag);
                }
            });
        }
    }
}
