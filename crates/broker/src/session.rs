use std::{sync::Arc, time::Duration};

use lapin::{Channel, Connection, options::ConfirmSelectOptions};
use relay_event::{Delay, Event, Timestamp};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Metrics, Namespace, Queue,
    batches::Batches,
    channels::{Channels, Subscription, Twin},
    connection::{connect, open_channel, watch_connection},
    inspector::Inspector,
    new_queues::NewQueues,
    publisher::{Outgoing, PublishError, Publisher},
    reconnect::Delays,
    topology::{LAST_DECLARED, Topology},
    wire,
};

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An operation on the broker that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made.
    #[error("cannot connect to the broker at {to}")]
    Connect {
        /// Host, port and virtual host.
        to: String,
        /// Why.
        source: lapin::Error,
    },
    /// The broker did not answer in time.
    #[error("the broker at {to} did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// Host, port and virtual host.
        to: String,
    },
    /// The namespace holds objects of an older version, of the same names and another kind.
    #[error(
        "the broker at {to} holds the objects of an older relay in the namespace `{namespace}`, which this version \
         cannot use; nothing of them was changed: let the older version deliver what waits there and then delete \
         them, or choose another namespace (--namespace, RELAY_NAMESPACE)"
    )]
    OlderRelay {
        /// Host, port and virtual host.
        to: String,
        /// The namespace.
        namespace: Namespace,
    },
    /// There is no such queue.
    #[error("there is no queue {queue}")]
    NoQueue {
        /// Its name.
        queue: String,
    },
    /// The connection ended in the middle of something.
    #[error("the broker connection was lost")]
    Lost,
    /// The broker refused something, or went away meanwhile.
    #[error("cannot {doing}")]
    Operation {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: lapin::Error,
    },
}

impl Error {
    pub(crate) fn doing(doing: impl Into<String>) -> impl FnOnce(lapin::Error) -> Self {
        let doing = doing.into();
        |source| Self::Operation { doing, source }
    }
}

/// How full a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueDepth {
    /// Messages ready to be taken; those taken and not settled do not count.
    pub ready: u32,
    /// Consumers on it.
    pub consumers: u32,
}

/// One connected stay with the broker, from connecting to the first thing that goes wrong on
/// either of its connections. Cheap to clone.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    // The broker blocks a connection that publishes during an alarm, its acks included, so what
    // consumes has one of its own.
    publishing: Connection,
    consuming: Connection,
    topology: Topology,
    publisher: Publisher,
    attempts: Batches,
    holds: Batches,
    channels: Channels,
    inspector: Inspector,
    new_queues: NewQueues,
    max_event_bytes: usize,
    blocked: watch::Receiver<bool>,
    lost: CancellationToken,
}

impl Session {
    /// Connects once and declares what every relay has. What was not there before is left alone for
    /// [`Config::new_queue_wait`]: nothing may be confirmed by it that a crash would take.
    ///
    /// # Errors
    /// The broker cannot be reached, or holds other objects by these names. If those are an older relay's, it is
    /// [`Error::OlderRelay`], which no other try changes.
    pub async fn open(config: &Config, metrics: Option<Metrics>) -> Result<Self, Error> {
        let topology = Topology::new(config.namespace.clone());
        let lost = CancellationToken::new();
        let (blocking, blocked) = watch::channel(false);
        let consuming = connect(config, "consume").await?;
        let publishing = connect(config, "publish").await?;
        tokio::spawn(watch_connection(consuming.events_listener(), lost.clone(), None));
        tokio::spawn(watch_connection(
            publishing.events_listener(),
            lost.clone(),
            Some(blocking),
        ));

        let inspector = Inspector::new(config.clone());
        let is_there = config.new_queue_wait.is_zero()
            || inspector.look_at(&topology.queue(LAST_DECLARED)).await?.is_some();
        // Of a connection that is cut in the middle of this, lapin may never say anything.
        let prepared = timeout(
            CONNECT_TIMEOUT,
            prepare(config, &topology, &consuming, &publishing),
        );
        let publishing_channel = prepared.await.unwrap_or_else(|_| {
            let to = config.url.to_string();
            Err(Error::Timeout { to })
        })?;
        if !is_there {
            sleep(config.new_queue_wait).await;
        }
        let publisher = Publisher::start(publishing_channel, lost.clone(), metrics);
        let attempts = Batches::start(publisher.clone(), topology.records());
        let holds = Batches::start(publisher.clone(), topology.holds());
        Ok(Self(Arc::new(Inner {
            publishing,
            consuming,
            topology,
            publisher,
            attempts,
            holds,
            channels: Channels::default(),
            inspector,
            new_queues: NewQueues::new(config.new_queue_wait),
            max_event_bytes: config.max_event_bytes,
            blocked,
            lost,
        })))
    }

    /// Returns true if a relay has declared its objects in this namespace of the broker. Declares nothing.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub async fn has_relay(config: &Config) -> Result<bool, Error> {
        let inspector = Inspector::new(config.clone());
        let archive = Topology::new(config.namespace.clone()).queue(Queue::Archive);
        let found = inspector.look_at(&archive).await;
        let _ = timeout(CONNECT_TIMEOUT, inspector.close()).await;
        Ok(found?.is_some())
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.0.topology
    }

    /// Resolves when the session is over. What was taken in it will be redelivered.
    pub async fn lost(&self) {
        self.0.lost.cancelled().await;
    }

    /// Whether the session is over.
    pub fn is_lost(&self) -> bool {
        self.0.lost.is_cancelled()
    }

    /// Whether the broker takes no publishes because of an alarm.
    pub fn blocked(&self) -> watch::Receiver<bool> {
        self.0.blocked.clone()
    }

    /// Ends the session; what was taken and not settled returns to its queue.
    pub async fn close(&self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        let _ = timeout(PATIENCE, self.0.channels.flush()).await;
        for connection in [&self.0.consuming, &self.0.publishing] {
            let _ = timeout(PATIENCE, connection.close(200, "OK".into())).await;
        }
        self.0.lost.cancel();
        let _ = timeout(PATIENCE, self.0.inspector.close()).await;
    }

    /// Publishes an event and waits for the broker's confirm.
    ///
    /// # Errors
    /// It is not known to be safe; publishing it again, with the same id, is right.
    pub async fn publish_event(&self, event: &Event, now: Timestamp) -> Result<(), PublishError> {
        self.0
            .publisher
            .publish(|| wire::publish(self.topology(), event, now))
            .await
    }

    /// Begins to take messages from a queue, at most `prefetch` unsettled at once. Consumers of one queue may be
    /// many; each has a channel of its own. Of [`Queue::WorkLate`] and [`Queue::ArchiveLate`] so many come at once that
    /// have expired, and any other alone.
    ///
    /// # Errors
    /// There is no such queue, or the session is over.
    pub async fn consume(&self, queue: Queue, prefetch: u16) -> Result<Subscription, Error> {
        if !matches!(queue, Queue::WorkLate | Queue::ArchiveLate) {
            return self.consume_with(queue, prefetch).await;
        }
        let subscription = self.consume_with(queue, 1).await?;
        Ok(subscription.of_twin(Twin::new(self.clone(), prefetch)))
    }

    /// Begins to take messages of any queue, at most `prefetch` unsettled at once.
    pub(crate) async fn consume_with(&self, queue: Queue, prefetch: u16) -> Result<Subscription, Error> {
        self.while_it_lasts(async {
            // A missing queue would cost the connection a channel.
            if self.depth(queue).await?.is_none() {
                let queue = self.topology().queue(queue);
                return Err(Error::NoQueue { queue });
            }
            let (channels, name) = (&self.0.channels, self.topology().queue(queue));
            let consuming = channels.consume(&self.0.consuming, queue, &name, prefetch);
            consuming
                .await
                .map_err(Error::doing(format!("consume from {name}")))
        })
        .await
    }

    /// Of a connection that is cut in the middle of `work`, lapin may never say anything.
    pub(crate) fn while_it_lasts<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Error>> {
        // Thousands hold what waits here, so it is kept small.
        let work = Box::pin(work);
        async move {
            tokio::select! {
                biased;
                done = work => done,
                () = self.lost() => Err(Error::Lost),
            }
        }
    }

    /// Returns how full a queue is; `None` if there is no such queue.
    ///
    /// # Errors
    /// The broker went away.
    pub async fn depth(&self, queue: Queue) -> Result<Option<QueueDepth>, Error> {
        self.look_at(&self.topology().queue(queue)).await
    }

    /// Returns how many retries wait for `delay` to be over; `None` if nothing ever waited so long.
    ///
    /// # Errors
    /// The broker went away.
    pub async fn waiting(&self, delay: Delay) -> Result<Option<u32>, Error> {
        let depth = self.look_at(&self.topology().retry(delay)).await?;
        Ok(depth.map(|depth| depth.ready))
    }

    pub(crate) async fn look_at(&self, queue: &str) -> Result<Option<QueueDepth>, Error> {
        self.while_it_lasts(self.0.inspector.look_at(queue)).await
    }

    pub(crate) fn max_event_bytes(&self) -> usize {
        self.0.max_event_bytes
    }

    pub(crate) fn consuming(&self) -> &Connection {
        &self.0.consuming
    }

    pub(crate) fn new_queues(&self) -> &NewQueues {
        &self.0.new_queues
    }

    pub(crate) async fn publish_once(&self, message: impl FnOnce() -> Outgoing) -> Result<(), PublishError> {
        self.0.publisher.publish(message).await
    }

    pub(crate) async fn publish_safely(&self, message: impl Fn() -> Outgoing) -> Result<(), PublishError> {
        publish_safely(&self.0.publisher, message).await
    }

    pub(crate) fn attempts(&self) -> &Batches {
        &self.0.attempts
    }

    pub(crate) fn holds(&self) -> &Batches {
        &self.0.holds
    }

    /// A channel for one declaration: an error closes it, and nothing else hangs on it.
    pub(crate) async fn throwaway(&self) -> Result<Channel, Error> {
        open_channel(&self.0.consuming).await
    }
}

/// Declares what every relay has, and opens the channel it publishes on.
async fn prepare(
    config: &Config,
    topology: &Topology,
    consuming: &Connection,
    publishing: &Connection,
) -> Result<Channel, Error> {
    let channel = open_channel(consuming).await?;
    topology.declare(&channel).await.map_err(|undeclared| {
        if topology.is_of_an_older_relay(&undeclared) {
            return Error::OlderRelay {
                to: config.url.to_string(),
                namespace: config.namespace.clone(),
            };
        }
        Error::doing(format!("declare the {}", undeclared.object))(undeclared.error)
    })?;
    let publishing_channel = open_channel(publishing).await?;
    publishing_channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .map_err(Error::doing("turn on publisher confirms"))?;
    Ok(publishing_channel)
}

/// Publishes until the broker confirms. A refusal (a full disk, a queue without its majority) is
/// not an outcome: the message is offered again until it is taken or the session ends.
pub(crate) async fn publish_safely(
    publisher: &Publisher,
    message: impl Fn() -> Outgoing,
) -> Result<(), PublishError> {
    let mut delays = Delays::new();
    loop {
        match publisher.publish(&message).await {
            Err(PublishError::Refused) => delays.wait().await,
            result => return result,
        }
    }
}
