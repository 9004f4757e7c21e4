//! Taking messages: consumers share channels, because each connection has a thread and each
//! channel some processes in the broker, and a thousand endpoints want a thousand consumers.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all};
use lapin::{
    Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tokio::{
    sync::Mutex,
    time::{error::Elapsed, timeout},
};

use crate::{
    acks::{Acks, WeakAcks},
    settle::Taken,
};

/// How long the end of a consumer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Channels that are opened before consumers share them. A channel error ends every consumer on it, and
/// acks of one are gathered best where no other's messages are among them.
const CHANNELS: usize = 512;

/// A channel and its acks.
struct Lane {
    channel: Channel,
    acks: Acks,
    /// Held by who begins to consume: the prefetch is that of the consumer started next.
    beginning: Mutex<()>,
}

/// The consuming channels of a session.
#[derive(Default)]
pub(crate) struct Channels {
    /// Those that are shared, each with the queue whose consumer began last on it.
    shared: Mutex<Vec<(String, Arc<Lane>)>>,
    /// For messages taken one by one.
    single: Mutex<Option<Arc<Lane>>>,
    /// Queues whose consumers have begun and not come to be. A queue without its majority makes the broker
    /// stop a channel for minutes and then close it, so it must not do that to others' again and again.
    troubled: StdMutex<HashSet<String>>,
    /// Of every channel that may still be open.
    acks: StdMutex<Vec<WeakAcks>>,
}

impl Channels {
    /// Begins to take messages from `queue`, at most `prefetch` unsettled at once.
    pub(crate) async fn subscribe(
        &self,
        connection: &Connection,
        queue: &str,
        prefetch: u16,
    ) -> lapin::Result<Subscription> {
        let lane = if lock(&self.troubled).insert(queue.to_owned()) {
            self.lane(connection, queue).await?
        } else {
            self.open(connection).await?
        };
        let subscription = consume(lane, queue, prefetch).await?;
        lock(&self.troubled).remove(queue);
        Ok(subscription)
    }

    /// The same on a channel of its own, which nobody else loses should the queue go away.
    pub(crate) async fn subscribe_alone(
        &self,
        connection: &Connection,
        queue: &str,
        prefetch: u16,
    ) -> lapin::Result<Subscription> {
        consume(self.open(connection).await?, queue, prefetch).await
    }

    /// The channel that the queue is consumed by already; or the one with the fewest consumers, and none
    /// that is just beginning if possible.
    async fn lane(&self, connection: &Connection, queue: &str) -> lapin::Result<Arc<Lane>> {
        let mut lanes = self.shared.lock().await;
        lanes.retain(|(_, lane)| lane.channel.status().connected());
        let load = |(name, lane): &&mut (String, Arc<Lane>)| {
            let begins = lane.beginning.try_lock().is_err();
            (begins, name != queue, Arc::strong_count(lane))
        };
        let full = lanes.len() >= CHANNELS;
        let least = lanes.iter_mut().min_by_key(load);
        let usable =
            |(name, lane): &&mut (String, Arc<Lane>)| name == queue || Arc::strong_count(lane) == 1 || full;
        if let Some((name, lane)) = least.filter(usable) {
            queue.clone_into(name);
            return Ok(Arc::clone(lane));
        }
        let lane = self.open(connection).await?;
        lanes.push((queue.to_owned(), Arc::clone(&lane)));
        Ok(lane)
    }

    async fn open(&self, connection: &Connection) -> lapin::Result<Arc<Lane>> {
        let channel = connection.create_channel().await?;
        let acks = Acks::start(channel.clone());
        let mut all = lock(&self.acks);
        all.retain(|acks| acks.upgrade().is_some());
        all.push(acks.downgrade());
        Ok(Arc::new(Lane {
            channel,
            acks,
            beginning: Mutex::default(),
        }))
    }

    /// Acks at once all that is settled.
    pub(crate) async fn flush(&self) {
        let all: Vec<Acks> = lock(&self.acks).iter().filter_map(WeakAcks::upgrade).collect();
        join_all(all.iter().map(Acks::flush)).await;
    }

    /// Takes the first message of `queue` and no other. To be awaited to its end: the broker may hand
    /// the message out to one who no longer listens.
    pub(crate) async fn take_one(
        &self,
        connection: &Connection,
        queue: &str,
    ) -> lapin::Result<Option<Taken>> {
        let Ok(mut single) = self.single.try_lock() else {
            let lane = self.open(connection).await?;
            return get(&lane, queue).await;
        };
        let lane = match single.take().filter(|lane| lane.channel.status().connected()) {
            Some(lane) => lane,
            None => self.open(connection).await?,
        };
        get(single.insert(lane), queue).await
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn get(lane: &Lane, queue: &str) -> lapin::Result<Option<Taken>> {
    let options = BasicGetOptions::default();
    let taken = lane.channel.basic_get(queue.into(), options).await?;
    Ok(taken.map(|message| Taken::new(message.delivery, lane.acks.clone())))
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
        let _ = self.try_cancel().await;
    }

    /// Of a connection that is cut in the middle of this, lapin may never say anything, and a channel that
    /// waits for another queue says nothing for minutes.
    async fn try_cancel(&mut self) -> Result<(), Elapsed> {
        if self.cancelled || self.ended {
            return Ok(());
        }
        let tag = self.consumer.tag();
        let cancelling = self.lane.channel.basic_cancel(tag, BasicCancelOptions::default());
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
            if !self.lane.channel.status().connected() {
                return;
            }
        }
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
