//! The settlement rules. A taken message is acked only after the outcome of each of its parts is safe: a copy (a
//! retry or a dead letter) if there is one, the record of an attempt or of a hold, all confirmed by the broker.
//! Until then it is the broker's to redeliver. So a crash at any moment may deliver twice, and never loses.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use lapin::{
    message::Delivery,
    options::{BasicNackOptions, BasicRejectOptions},
};
use relay_event::{Attempt, DeadReason, Delay, EndpointId, History, HoldReason, Timestamp};

use crate::{
    Queue,
    acks::Acks,
    publisher::PublishError,
    session::{Error, Session},
    wire::{self, Received, Refused},
};

/// The endpoints in one record of a match that was made without the store: some 200 KB.
const MATCHED: usize = 5_000;

/// The end of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The endpoint has it.
    Delivered,
    /// It waits in the broker for another attempt.
    Retry(Delay),
    /// It waits in the log.
    Held(HoldReason),
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
    queue: Queue,
    acks: Acks,
    /// Whether the broker has its answer, so that dropping this gives nothing back.
    answered: bool,
}

impl Taken {
    /// `acks` are those of the channel it came by.
    pub(crate) fn new(delivery: Delivery, queue: Queue, acks: Acks) -> Self {
        Self {
            delivery: Box::new(delivery),
            queue,
            acks,
            answered: false,
        }
    }

    /// Reads a message that is one event: of any queue but [`Queue::Dispatch`], [`Queue::Records`],
    /// [`Queue::Holds`] and [`Queue::Dead`]. `max_bytes` is the largest event allowed.
    pub fn read(&mut self, session: &Session, max_bytes: usize) -> Received {
        Received::read(&mut self.delivery, self.queue, session.topology(), max_bytes)
    }

    /// Reads a message of [`Queue::Dispatch`]: one for each of its events, in their order.
    ///
    /// # Errors
    /// The message is no batch.
    pub fn read_batch(&mut self, session: &Session) -> Result<Vec<Received>, Box<Refused>> {
        Received::read_batch(&mut self.delivery, self.queue, session.topology())
    }

    /// Returns true if it is in a twin because it was returned too often, or for a reason that is not known.
    pub(crate) fn was_returned(&self) -> bool {
        wire::was_returned(&self.delivery)
    }

    /// The bytes of it that are in this process.
    pub fn size(&self) -> usize {
        self.delivery.data.len()
    }

    pub(crate) fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    pub(crate) fn delivery_mut(&mut self) -> &mut Delivery {
        &mut self.delivery
    }

    /// Divides the message into so many parts, one for each delivery that it is settled for. It is acked once
    /// each of them is safe; at once if there are none.
    pub fn divide(self, count: usize) -> Vec<Part> {
        let whole = Arc::new(Whole {
            taken: Some(self),
            worst: AtomicU8::new(Fate::Safe as u8),
        });
        let part = || Part {
            whole: Arc::clone(&whole),
            fate: Fate::Dropped,
        };
        std::iter::repeat_with(part).take(count).collect()
    }

    /// Puts a message that is no event into the dead-letter queue, then acks it. If only the beginning of its
    /// body is in this process, RabbitMQ moves it there, at least once and whole: from some queues by way of
    /// another, where it is taken and set aside again.
    ///
    /// # Errors
    /// The session ended first.
    pub async fn set_aside(
        self,
        session: &Session,
        refused: &Refused,
        reason: DeadReason,
    ) -> Result<(), Unsettled> {
        if refused.is_for_the_broker() {
            return self.reject().await;
        }
        session.set_aside(refused, reason).await?;
        self.ack();
        Ok(())
    }

    /// Acks the message, when all that is in it is safe. Should the ack not arrive, it comes again: twice,
    /// but not lost.
    pub fn ack(mut self) {
        self.answered = true;
        self.acks.settled(self.delivery.delivery_tag);
    }

    /// Has the broker move the message to where its queue moves messages.
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

/// The end of a part, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Its outcome is safe.
    Safe,
    /// It was given back.
    GivenBack,
    /// It was dropped: its task panicked, was ended, or could not settle it.
    Dropped,
}

/// A message that was divided. The last of its parts answers for it.
struct Whole {
    /// `None` once it is answered for.
    taken: Option<Taken>,
    /// The worst [`Fate`] of its parts that are over.
    worst: AtomicU8,
}

impl Drop for Whole {
    fn drop(&mut self) {
        let Some(taken) = self.taken.take() else { return };
        match *self.worst.get_mut() {
            safe if safe == Fate::Safe as u8 => taken.ack(),
            given_back if given_back == Fate::GivenBack as u8 => {
                // Without a runtime it is dropped, and so is its connection.
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(taken.give_back());
                }
            }
            _ => drop(taken),
        }
    }
}

/// The part of a message that is one delivery. The message is acked once each of its parts is settled. If one is
/// given back or dropped, so is the message, once no other part is under way: then it comes again for all.
#[must_use = "a part of a taken message must be settled"]
pub struct Part {
    whole: Arc<Whole>,
    fate: Fate,
}

impl Part {
    /// Makes the outcome safe. `message` is what was read, and `history` includes the attempt just made, if one
    /// was.
    ///
    /// # Errors
    /// The session ended first.
    pub async fn settle(
        mut self,
        session: &Session,
        endpoint: &EndpointId,
        message: &Received,
        history: &History,
        settlement: Settlement,
        attempt: Option<Box<Attempt>>,
    ) -> Result<(), Unsettled> {
        // Rarely anything; it is large while it is, and thousands are settled at once.
        let kept = Box::pin(keep(session, endpoint, message, history, settlement));
        let recorded = async {
            match attempt {
                Some(attempt) => session.record(attempt).await.map_err(Unsettled::from),
                None => Ok(()),
            }
        };
        tokio::try_join!(kept, recorded)?;
        self.fate = Fate::Safe;
        Ok(())
    }

    /// Records that the event was matched without the store, and for which endpoints: so those that nobody told
    /// the taker of get it later.
    ///
    /// # Errors
    /// The session ended first.
    pub async fn match_blindly(
        mut self,
        session: &Session,
        message: &Received,
        endpoints: Vec<EndpointId>,
    ) -> Result<(), Unsettled> {
        if let Ok(event) = &message.event {
            let matched = message.match_blindly(event, endpoints, Timestamp::now());
            for record in matched.split(MATCHED) {
                session.match_blindly(&record).await?;
            }
        }
        self.fate = Fate::Safe;
        Ok(())
    }

    /// Puts the message back where it was, once no other part of it is under way.
    pub fn give_back(mut self) {
        self.fate = Fate::GivenBack;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.whole.worst.fetch_max(self.fate as u8, Ordering::AcqRel);
    }
}

/// Makes safe what is to come of a delivery.
async fn keep(
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
            let retry = || wire::retry(topology, delay, endpoint, message, event, history);
            Ok(session.publish_safely(retry).await?)
        }
        (Settlement::Held(reason), Ok(event)) => {
            let hold = message.hold(event, endpoint, history, reason, Timestamp::now());
            Ok(session.hold(hold).await?)
        }
        (Settlement::Dead(reason), _) => dead(session, endpoint, message, history, reason).await,
        (Settlement::Retry(_) | Settlement::Held(_), Err(_)) => {
            dead(session, endpoint, message, history, DeadReason::InvalidEvent).await
        }
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
