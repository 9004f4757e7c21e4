//! Taking messages: consumers share channels, because each connection has a thread and each
//! channel some processes in the broker, and a thousand endpoints want a thousand consumers.

use std::{
    collections::HashSet,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tokio::{sync::Mutex, time::timeout};

use crate::{acks::Acks, settle::Taken};

/// How long the end of a consumer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Channels that are opened before consumers share them. A channel error ends every consumer on it, and
/// acks of one are gathered best where no other's messages are among them.
const CHANNELS: usize = 64;

/// A channel and its acks.
struct Lane {
    channel: Channel,
    acks: Acks,
    /// Held by who begins to consume: the prefetch is that of the consumer started next.
    beginning: Mutex<()>,
}

impl Lane {
    async fn open(connection: &Connection) -> lapin::Result<Arc<Self>> {
        let channel = connection.create_channel().await?;
        let acks = Acks::start(channel.clone());
        Ok(Arc::new(Self {
            channel,
            acks,
            beginning: Mutex::default(),
        }))
    }
}

/// The consuming channels of a session.
#[derive(Default)]
pub(crate) struct Channels {
    consuming: Mutex<Vec<Arc<Lane>>>,
    /// For messages taken one by one.
    single: Mutex<Option<Arc<Lane>>>,
    /// Queues whose consumers have begun and not come to be. A queue without its majority makes the broker
    /// stop a channel for minutes and then close it, so it must not do that to others' again and again.
    troubled: std::sync::Mutex<HashSet<String>>,
}

impl Channels {
    /// Begins to take messages from `queue`, at most `prefetch` unsettled at once.
    pub(crate) async fn subscribe(
        &self,
        connection: &Connection,
        queue: &str,
        prefetch: u16,
    ) -> lapin::Result<Subscription> {
        let lane = if self.troubled().insert(queue.to_owned()) {
            self.lane(connection).await?
        } else {
            Lane::open(connection).await?
        };
        let subscription = consume(lane, queue, prefetch).await?;
        self.troubled().remove(queue);
        Ok(subscription)
    }

    /// The channel with the fewest consumers, and none that is just beginning if possible.
    async fn lane(&self, connection: &Connection) -> lapin::Result<Arc<Lane>> {
        let mut lanes = self.consuming.lock().await;
        lanes.retain(|lane| lane.channel.status().connected());
        let load = |lane: &&Arc<Lane>| (lane.beginning.try_lock().is_err(), Arc::strong_count(lane));
        match lanes.iter().min_by_key(load) {
            Some(lane) if Arc::strong_count(lane) == 1 || lanes.len() >= CHANNELS => Ok(Arc::clone(lane)),
            _ => {
                let lane = Lane::open(connection).await?;
                lanes.push(Arc::clone(&lane));
                Ok(lane)
            }
        }
    }

    fn troubled(&self) -> MutexGuard<'_, HashSet<String>> {
        self.troubled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acks at once all that is settled.
    pub(crate) async fn flush(&self) {
        let consuming = self.consuming.lock().await;
        let single = self.single.lock().await;
        for lane in consuming.iter().chain(single.as_ref()) {
            lane.acks.flush().await;
        }
    }

    /// Takes the first message of `queue` and no other. To be awaited to its end: the broker may hand
    /// the message out to one who no longer listens.
    pub(crate) async fn take_one(
        &self,
        connection: &Connection,
        queue: &str,
    ) -> lapin::Result<Option<Taken>> {
        let Ok(mut single) = self.single.try_lock() else {
            let lane = Lane::open(connection).await?;
            return get(&lane, queue).await;
        };
        let lane = match single.take().filter(|lane| lane.channel.status().connected()) {
            Some(lane) => lane,
            None => Lane::open(connection).await?,
        };
        get(single.insert(lane), queue).await
    }
}

async fn get(lane: &Lane, queue: &str) -> lapin::Result<Option<Taken>> {
    let options = BasicGetOptions::default();
    let taken = lane.channel.basic_get(queue.into(), options).await?;
    Ok(taken.map(|message| Taken::new(message.delivery, lane.acks.clone())))
}

/// The same on a channel of its own, which nobody else loses should the queue go away.
pub(crate) async fn subscribe_alone(
    connection: &Connection,
    queue: &str,
    prefetch: u16,
) -> lapin::Result<Subscription> {
    consume(Lane::open(connection).await?, queue, prefetch).await
}

async fn consume(lane: Arc<Lane>, queue: &str, prefetch: u16) -> lapin::Result<Subscription> {
    let beginning = lane.beginning.lock().await;
    let channel = &lane.channel;
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
    let consumer = channel
        .basic_consume(queue.into(), tag, options, FieldTable::default())
        .await?;
    drop(beginning);
    Ok(Subscription {
        lane,
        consumer,
        cancelled: false,
        ended: false,
    })
}

/// A consumer on one queue. Dropping it leaves what was fetched unsettled until the session ends,
/// so end it with [`Subscription::stop`].
pub struct Subscription {
    lane: Arc<Lane>,
    consumer: Consumer,
    cancelled: bool,
    ended: bool,
}

impl Subscription {
    /// The next message; `None` once the consumer ended (its queue was deleted, or the channel or
    /// connection is gone).
    pub async fn next(&mut self) -> Option<Taken> {
        let delivery = self.next_delivery().await?;
        Some(Taken::new(delivery, self.lane.acks.clone()))
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
        let cancelled = self.lane.channel.basic_cancel(tag, BasicCancelOptions::default());
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
        self.lane.acks.flush().await;
    }
}
