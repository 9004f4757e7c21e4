//! Working through the dead-letter queue. Every message is held while the work lasts; what is not
//! removed returns to the queue when the session is closed, or ends in any other way. It returns in no order
//! to rely on: RabbitMQ puts it back consumer by consumer, behind what others put back before.

use std::time::{Duration, Instant};

use lapin::{Channel, message::Delivery, options::BasicAckOptions};
use relay_event::{DeadLetter, EndpointId, Event, Standing, Timestamp};
use tokio::time::timeout;

use crate::{
    Queue,
    channels::Subscription,
    publisher::PublishError,
    session::{Error, Session},
    wire::{self, Headers},
};

/// The bytes that the largest letters may take up on their way here. The broker counts messages only.
const ON_THE_WAY: usize = 128 * 1024 * 1024;

/// Letters on their way. Each has at most twice the bytes of the largest event.
fn prefetch(max_event_bytes: usize) -> u16 {
    const FEWEST: usize = 8;
    const MOST: usize = 2_000;
    let fitting = (ON_THE_WAY / max_event_bytes.saturating_mul(2).max(1)).clamp(FEWEST, MOST);
    u16::try_from(fitting).unwrap_or(u16::MAX)
}

/// A dead letter, held.
pub struct DeadMessage {
    /// Its facts.
    pub letter: DeadLetter,
    /// The event, or what keeps the message from being one; an event that is too large unpacked is not kept.
    pub event: Result<Event, String>,
    /// The run of its schedule that ended here: when that began, if it is known.
    pub run: Option<Timestamp>,
    /// The bytes of its whole body, if [`DeadMessage::body`] is only the beginning of it.
    pub cut_from: Option<u64>,
    /// The size of the unpacked event in bytes, if this process takes no event of that size and no relay ever
    /// let it in.
    pub too_large: Option<u64>,
    delivery: Delivery,
}

impl DeadMessage {
    /// The message's body as it came, as far as this process takes it.
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

    /// The encoding of the message's body, if it has one, such as `gzip`.
    pub fn content_encoding(&self) -> Option<&str> {
        self.delivery
            .properties
            .content_encoding()
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

/// The dead letters that were there when the work began, in any order: only [`DeadLetter::dead_at`] tells
/// which are the oldest.
pub struct DeadLetters {
    session: Session,
    consumer: Subscription,
    prefetch: u16,
    kept: u16,
    /// Those of earlier consumers, with letters that are kept.
    channels: Vec<Channel>,
    left: u32,
}

impl DeadLetters {
    /// Begins to take dead letters.
    ///
    /// # Errors
    /// The broker went away.
    pub async fn open(session: &Session) -> Result<Self, Error> {
        let left = session.depth(Queue::Dead).await?.map_or(0, |depth| depth.ready);
        let prefetch = prefetch(session.max_event_bytes());
        let consumer = session.consume(Queue::Dead, prefetch).await?;
        Ok(Self {
            session: session.clone(),
            consumer,
            prefetch,
            kept: 0,
            channels: Vec::new(),
            left,
        })
    }

    /// How many were there and have not been handed out.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// The most letters that may be held at once beside those kept. While more are, no other comes.
    pub fn batch(&self) -> usize {
        usize::from(self.prefetch / 2)
    }

    /// The next one; `None` after the last of those that were there at the beginning.
    ///
    /// # Errors
    /// The broker went away: what was not removed is back in the queue.
    pub async fn next(&mut self) -> Result<Option<DeadMessage>, Error> {
        const QUIET: Duration = Duration::from_millis(500);
        /// The time that a large letter, or a busy broker, may take.
        const ON_ITS_WAY: Duration = Duration::from_secs(10);
        let waiting = Instant::now();
        while self.left > 0 {
            match timeout(QUIET, self.consumer.next_delivery()).await {
                Ok(Some(delivery)) => {
                    self.left -= 1;
                    return Ok(Some(self.read(delivery)));
                }
                // Somebody else may have taken the rest.
                Err(_) if self.depth().await? == 0 && waiting.elapsed() > ON_ITS_WAY => self.left = 0,
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
        drop(message); // Unsettled: it stays with its channel, as long as that is open.
        self.kept += 1;
        // Kept letters would fill up the prefetch of one consumer.
        if self.kept >= self.prefetch / 2 {
            let next = self.session.consume(Queue::Dead, self.prefetch).await?;
            let full = std::mem::replace(&mut self.consumer, next);
            self.channels.push(full.channel());
            full.stop().await;
            self.kept = 0;
        }
        Ok(())
    }

    /// Sends the event to its endpoint once more, with its schedule begun anew after the run `before`. Should
    /// it come back without another attempt, it has the facts of `letter` again. A letter without an endpoint goes
    /// to all that want its event, with the time of its publishing if that is known.
    ///
    /// # Errors
    /// It is not confirmed, so the dead letter must not be removed.
    pub async fn redeliver(
        &self,
        endpoint: Option<&EndpointId>,
        event: &Event,
        before: Option<Timestamp>,
        letter: &DeadLetter,
    ) -> Result<(), PublishError> {
        let (topology, now) = (self.session.topology(), Timestamp::now());
        let run = Standing::run_after(before, now);
        self.session
            .publish_safely(|| match endpoint {
                Some(endpoint) => wire::redeliver(topology, endpoint, event, run, Some(letter)),
                None => wire::publish(topology, event, before.unwrap_or(now)),
            })
            .await
    }

    fn read(&self, delivery: Delivery) -> DeadMessage {
        let max_bytes = self.session.max_event_bytes();
        let letter = wire::letter(&delivery, self.session.topology(), max_bytes);
        // Some kilobytes unpack to many megabytes, and many letters are held at once.
        let event = match (letter.event, letter.too_large) {
            (Ok(event), Some(bytes)) if event.body().len() > delivery.data.len() => Err(format!(
                "event: is {bytes} bytes when unpacked; at most {max_bytes} are allowed"
            )),
            (event, _) => event.map_err(|invalid| invalid.to_string()),
        };
        DeadMessage {
            letter: letter.facts,
            event,
            run: letter.run,
            cut_from: letter.cut_from,
            too_large: letter.too_large,
            delivery,
        }
    }

    async fn depth(&self) -> Result<u32, Error> {
        let depth = self.session.depth(Queue::Dead).await?;
        Ok(depth.map_or(0, |depth| depth.ready))
    }
}
