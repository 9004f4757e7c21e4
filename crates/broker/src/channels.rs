//! Taking messages. Each consumer has a channel of its own: a channel error ends every consumer on it, acks are
//! gathered best where no other's messages are among them, and RabbitMQ lets a cancelled consumer's messages be
//! settled as long as its channel is open. The channel is closed once the last of its messages is settled.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all};
use lapin::{
    Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tokio::time::{error::Elapsed, timeout};

use crate::{
    Queue,
    acks::{Acks, WeakAcks},
    session::Session,
    settle::Taken,
};

/// How long the end of a consumer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The acks of every consuming channel of a session that may still be open.
#[derive(Default)]
pub(crate) struct Channels(Mutex<Vec<WeakAcks>>);

impl Channels {
    /// Begins to take messages from `queue`, which is called `name`, at most `prefetch` unsettled at once.
    pub(crate) async fn consume(
        &self,
        connection: &Connection,
        queue: Queue,
        name: &str,
        prefetch: u16,
    ) -> lapin::Result<Subscription> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
        let consumer = channel
            .basic_consume(name.into(), tag, options, FieldTable::default())
            .await?;
        let acks = Acks::start(channel.clone());
        let mut all = self.all();
        all.retain(|acks| acks.upgrade().is_some());
        all.push(acks.downgrade());
        Ok(Subscription {
            queue,
            channel,
            acks,
            consumer,
            cancelled: false,
            ended: false,
            twin: None,
        })
    }

    /// Acks at once all that is settled.
    pub(crate) async fn flush(&self) {
        let all: Vec<Acks> = self.all().iter().filter_map(WeakAcks::upgrade).collect();
        join_all(all.iter().map(Acks::flush)).await;
    }

    fn all(&self) -> MutexGuard<'_, Vec<WeakAcks>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A consumer on one queue. Dropping it leaves what was fetched unsettled until the last message
/// that was handed out is settled, so end it with [`Subscription::stop`].
pub struct Subscription {
    queue: Queue,
    channel: Channel,
    acks: Acks,
    consumer: Consumer,
    cancelled: bool,
    ended: bool,
    twin: Option<Twin>,
}

/// The way in which a twin such as [`Queue::WorkLate`] is taken from: many messages at once as long as they have
/// expired or were rejected, and one at a time while they were returned, for one of these may end the process again, and
/// would return the others with it. It begins with one at a time.
pub(crate) struct Twin {
    session: Session,
    /// Messages taken at once that were not returned, at most.
    most: u16,
    takes_many: bool,
}

impl Twin {
    pub(crate) fn new(session: Session, most: u16) -> Self {
        Self {
            session,
            most,
            takes_many: false,
        }
    }
}

impl Subscription {
    /// The next message; `None` once the consumer ended (its queue was deleted, or the channel or
    /// connection is gone).
    pub async fn next(&mut self) -> Option<Taken> {
        loop {
            let taken = self.next_taken().await?;
            let Some(twin) = &self.twin else {
                return Some(taken);
            };
            let was_returned = taken.was_returned();
            if was_returned != twin.takes_many {
                return Some(taken);
            }
            if !was_returned {
                self.begin_anew(true).await?;
                return Some(taken);
            }
            // It comes again, alone, and before those that were fetched after it.
            self.cancel().await;
            taken.give_back().await;
            self.begin_anew(false).await?;
        }
    }

    async fn next_taken(&mut self) -> Option<Taken> {
        let delivery = self.next_delivery().await?;
        Some(Taken::new(delivery, self.queue, self.acks.clone()))
    }

    /// Ends the consumer of a twin, and begins another; `None` if that cannot be.
    async fn begin_anew(&mut self, takes_many: bool) -> Option<()> {
        let twin = self.twin.take()?;
        self.cancel().await;
        if !self.cancelled {
            return None;
        }
        while let Some(fetched) = self.next_taken().await {
            fetched.give_back().await;
        }
        let prefetch = if takes_many { twin.most } else { 1 };
        let next = twin.session.consume_with(self.queue, prefetch).await.ok()?;
        let before = std::mem::replace(self, next);
        before.acks.flush().await;
        self.twin = Some(Twin { takes_many, ..twin });
        Some(())
    }

    /// Makes it the consumer of a twin.
    pub(crate) fn of_twin(mut self, twin: Twin) -> Self {
        self.twin = Some(twin);
        self
    }

    /// The channel, which is open as long as somebody holds it.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) async fn next_delivery(&mut self) -> Option<Delivery> {
        let next = self.consumer.next().await.and_then(Result::ok);
        self.ended |= next.is_none();
        next
    }

    /// Fetches no more. What was fetched goes on to be handed out, and then [`Subscription::next`] is
    /// `None`.
    pub async fn cancel(&mut self) {
        let _ = self.try_cancel().await;
    }

    /// Of a connection that is cut in the middle of this, lapin may never say anything, and a channel that
    /// waits for another queue says nothing for minutes.
    async fn try_cancel(&mut self) -> Result<(), Elapsed> {
        if self.cancelled || self.ended {
            return Ok(());
        }
        let tag = self.consumer.tag();
        let cancelling = self.channel.basic_cancel(tag, BasicCancelOptions::default());
        self.cancelled = timeout(PATIENCE, cancelling).await?.is_ok();
        Ok(())
    }

    /// Takes no more, and gives back what was fetched and not handed out. What was handed out stays
    /// with its holder.
    pub async fn stop(self) {
        // What takes longer goes on: nobody else could take before what is held here.
        let giving_back = tokio::spawn(self.give_back());
        if timeout(PATIENCE, giving_back).await.is_err() {
            tracing::debug!("the end of a consumer takes long");
        }
    }

    async fn give_back(mut self) {
        while self.try_cancel().await.is_err() {
            if !self.channel.status().connected() {
                return;
            }
        }
        if self.ended || !self.cancelled {
            // By the broker, and lapin tells of that once, so there is nothing to wait for. Or the
            // channel is gone, and what was fetched is back in its queue.
            return;
        }
        while let Some(taken) = self.next_taken().await {
            taken.give_back().await;
        }
        self.acks.flush().await;
    }
}
