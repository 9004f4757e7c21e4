//! Working through the dead-letter queue. Every message is held while the work lasts; what is not
//! removed returns to the queue when the session is closed, or ends in any other way.

use std::time::Duration;

use lapin::{message::Delivery, options::BasicAckOptions};
use relay_event::{DeadLetter, EndpointId, Event, Standing, Timestamp};
use tokio::time::timeout;

use crate::{
    channels::Subscription,
    publisher::PublishError,
    session::{Error, Session},
    wire::{self, Headers},
};

const PREFETCH: u16 = 2_000;
/// Messages kept on one consumer before another one is opened, so that its prefetch never fills up
/// with those alone.
const KEPT_PER_CONSUMER: u16 = PREFETCH / 2;

/// A dead letter, held.
pub struct DeadMessage {
    /// Its facts.
    pub letter: DeadLetter,
    /// The event, or what keeps the message from being one.
    pub event: Result<Event, String>,
    /// The run of its schedule that ended here: when that began, if it is known.
    pub run: Option<Timestamp>,
    delivery: Delivery,
}

impl DeadMessage {
    /// The message's body as it came.
    pub fn body(&self) -> &[u8] {
        &self.delivery.data
    }

    /// The message's content type, if it has one.
    pub fn content_type(&self) -> Option<&str> {
        self.delivery
            .properties
            .content_type()
            .as_ref()
            .map(|given| given.as_str())
    }

    /// The CloudEvents attributes among the message's headers, for a message in binary mode.
    pub fn attributes(&self) -> Vec<(String, String)> {
        Headers::of(&self.delivery.properties).attributes()
    }

    /// Takes the message off the queue for good. Only once it is safe elsewhere, or unwanted.
    ///
    /// # Errors
    /// The session is over: the message is back in the queue.
    pub async fn remove(self) -> Result<(), PublishError> {
        match self.delivery.acker.ack(BasicAckOptions::default()).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(PublishError::Lost),
        }
    }
}

/// The dead letters that were there when the work began, oldest first.
pub struct DeadLetters {
    session: Session,
    consumer: Subscription,
    kept: u16,
    left: u32,
}

impl DeadLetters {
    /// Begins to take dead letters.
    ///
    /// # Errors
    /// The broker went away.
    pub async fn open(session: &Session) -> Result<Self, Error> {
        let queue = session.topology().dead();
        let left = session.depth(&queue).await?.map_or(0, |depth| depth.ready);
        let consumer = session.subscribe(&queue, PREFETCH).await?;
        Ok(Self {
            session: session.clone(),
            consumer,
            kept: 0,
            left,
        })
    }

    /// How many were there and have not been handed out.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// The next one; `None` after the last of those that were there at the beginning.
    ///
    /// # Errors
    /// The broker went away: what was not removed is back in the queue.
    pub async fn next(&mut self) -> Result<Option<DeadMessage>, Error> {
        const QUIET: Duration = Duration::from_millis(500);
        while self.left > 0 {
            match timeout(QUIET, self.consumer.next_delivery()).await {
                Ok(Some(delivery)) => {
                    self.left -= 1;
                    return Ok(Some(self.read(delivery)));
                }
                // Somebody else may have taken the rest.
                Err(_) if self.depth().await? == 0 => self.left = 0,
                Err(_) => {}
                Ok(None) => return Err(Error::Lost),
            }
        }
        Ok(None)
    }

    /// Holds a message without removing it, until the session ends.
    ///
    /// # Errors
    /// The broker went away.
    pub async fn keep(&mut self, message: DeadMessage) -> Result<(), Error> {
        drop(message); // Unsettled: it stays with its channel.
        self.kept += 1;
        if self.kept >= KEPT_PER_CONSUMER {
            let queue = self.session.topology().dead();
            let next = self.session.subscribe(&queue, PREFETCH).await?;
            std::mem::replace(&mut self.consumer, next).stop().await;
            self.kept = 0;
        }
        Ok(())
    }

    /// Sends the event to its endpoint once more, with its schedule begun anew after the run `before`.
    ///
    /// # Errors
    /// It is not confirmed, so the dead letter must not be removed.
    pub async fn redeliver(
        &self,
        endpoint: &EndpointId,
        event: &Event,
        before: Option<Timestamp>,
    ) -> Result<(), PublishError> {
        let topology = self.session.topology();
        let run = Standing::run_after(before, Timestamp::now());
        self.session
            .publish_safely(|| wire::redeliver(topology, endpoint, event, run))
            .await
    }

    fn read(&self, delivery: Delivery) -> DeadMessage {
        let letter = wire::dead_letter(&delivery, self.session.topology());
        let headers = Headers::of(&delivery.properties);
        let event = wire::event_of_letter(&delivery, &headers, self.session.topology())
            .map_err(|invalid| invalid.to_string());
        DeadMessage {
            letter,
            event,
            run: wire::published_at(&delivery.properties, &headers),
            delivery,
        }
    }

    async fn depth(&self) -> Result<u32, Error> {
        let depth = self.session.depth(&self.session.topology().dead()).await?;
        Ok(depth.map_or(0, |depth| depth.ready))
    }
}
