//! Taking messages: consumers share channels, because each connection has a thread and each
//! channel some processes in the broker, and a thousand endpoints want a thousand consumers.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tokio::{sync::Mutex, time::timeout};

use crate::settle::Taken;

/// How long the end of a consumer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A channel error ends every consumer on it, so not too many.
const CONSUMERS_PER_CHANNEL: usize = 100;

/// The consuming channels of a session.
#[derive(Default)]
pub(crate) struct Channels {
    consuming: Mutex<Vec<Arc<Channel>>>,
    /// For messages taken one by one.
    single: Mutex<Option<Channel>>,
}

impl Channels {
    /// Begins to take messages from `queue`, at most `prefetch` unsettled at once.
    pub(crate) async fn subscribe(
        &self,
        connection: &Connection,
        queue: &str,
        prefetch: u16,
    ) -> lapin::Result<Subscription> {
        // Held over both calls: the prefetch is that of the consumer started next on the channel.
        let mut channels = self.consuming.lock().await;
        channels.retain(|channel| channel.status().connected());
        let free = channels
            .iter()
            .find(|channel| Arc::strong_count(channel) <= CONSUMERS_PER_CHANNEL);
        let channel = match free {
            Some(channel) => Arc::clone(channel),
            None => {
                let channel = Arc::new(connection.create_channel().await?);
                channels.push(Arc::clone(&channel));
                channel
            }
        };
        consume(channel, queue, prefetch).await
    }

    /// Takes the first message of `queue` and no other. To be awaited to its end: the broker may hand
    /// the message out to one who no longer listens.
    pub(crate) async fn take_one(
        &self,
        connection: &Connection,
        queue: &str,
    ) -> lapin::Result<Option<Taken>> {
        let mut single = self.single.lock().await;
        let channel = match single.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => connection.create_channel().await?,
        };
        let taken = channel.basic_get(queue.into(), BasicGetOptions::default()).await;
        *single = Some(channel);
        Ok(taken?.map(|message| Taken::new(message.delivery)))
    }
}

/// The same on a channel of its own, which nobody else loses should the queue go away.
pub(crate) async fn subscribe_alone(
    connection: &Connection,
    queue: &str,
    prefetch: u16,
) -> lapin::Result<Subscription> {
    consume(Arc::new(connection.create_channel().await?), queue, prefetch).await
}

async fn consume(channel: Arc<Channel>, queue: &str, prefetch: u16) -> lapin::Result<Subscription> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
    let consumer = channel
        .basic_consume(queue.into(), tag, options, FieldTable::default())
        .await?;
    Ok(Subscription {
        channel,
        consumer,
        cancelled: false,
        ended: false,
    })
}

/// A consumer on one queue. Dropping it leaves what was fetched unsettled until the session ends,
/// so end it with [`Subscription::stop`].
pub struct Subscription {
    channel: Arc<Channel>,
    consumer: Consumer,
    cancelled: bool,
    ended: bool,
}

impl Subscription {
    /// The next message; `None` once the consumer ended (its queue was deleted, or the channel or
    /// connection is gone).
    pub async fn next(&mut self) -> Option<Taken> {
        self.next_delivery().await.map(Taken::new)
    }

    pub(crate) async fn next_delivery(&mut self) -> Option<Delivery> {
        let next = self.consumer.next().await.and_then(Result::ok);
        self.ended |= next.is_none();
        next
    }

    /// Fetches no more. What was fetched goes on to be handed out, and then [`Subscription::next`] is
    /// `None`.
    pub async fn cancel(&mut self) {
        if self.cancelled || self.ended {
            return;
        }
        let tag = self.consumer.tag();
        let cancelled = self.channel.basic_cancel(tag, BasicCancelOptions::default());
        self.cancelled = cancelled.await.is_ok();
    }

    /// Takes no more, and gives back what was fetched and not handed out. What was handed out stays
    /// with its holder.
    pub async fn stop(self) {
        // Of a connection that is cut in the middle of this, lapin may never say anything; then what
        // was fetched is back in its queue.
        let _ = timeout(PATIENCE, self.give_back()).await;
    }

    async fn give_back(mut self) {
        self.cancel().await;
        if self.ended || !self.cancelled {
            // By the broker, and lapin tells of that once, so there is nothing to wait for. Or the
            // channel is gone, and what was fetched is back in its queue.
            return;
        }
        while let Some(taken) = self.next().await {
            taken.give_back().await;
        }
    }
}
