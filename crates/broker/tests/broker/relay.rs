//! A relay's objects in a namespace of a test's own.

use std::time::Duration;

use lapin::{BasicProperties, options::BasicPublishOptions};
use relay_broker::{Config, Namespace, Queue, Received, Session, Settlement, Subscription, Taken};
use relay_event::{DEFAULT_MAX_EVENT_BYTES, EndpointId, Event, Timestamp};
use relay_testkit::{confirming, namespace, shared_broker, wait_until};

pub(crate) const MAX_BYTES: usize = DEFAULT_MAX_EVENT_BYTES;
pub(crate) const TYPE: &str = "order.created";

pub(crate) struct Relay {
    pub(crate) session: Session,
    config: Config,
}

impl Relay {
    pub(crate) async fn start() -> Self {
        Self::with_largest(MAX_BYTES).await
    }

    /// A relay whose events have at most so many bytes.
    pub(crate) async fn with_largest(max_event_bytes: usize) -> Self {
        Self::connected(shared_broker().await, max_event_bytes).await
    }

    /// A relay that reaches its broker by this URL.
    pub(crate) async fn connected(url: &str, max_event_bytes: usize) -> Self {
        let namespace: Namespace = namespace().parse().unwrap();
        let config = Config {
            url: url.parse().unwrap(),
            namespace,
            name: "test".to_owned(),
            new_queue_wait: Duration::ZERO,
            max_event_bytes,
        };
        let session = Session::open(&config, None).await.unwrap();
        Self { session, config }
    }

    /// The same relay with another limit.
    pub(crate) async fn with_limit(mut self, max_event_bytes: usize) -> Self {
        self.config.max_event_bytes = max_event_bytes;
        self.again().await;
        self
    }

    /// Ends the session, and begins another.
    pub(crate) async fn again(&mut self) {
        self.session.close().await;
        self.session = Session::open(&self.config, None).await.unwrap();
    }

    pub(crate) async fn publish(&self, event: &Event) {
        let published = self.session.publish_event(event, Timestamp::now());
        published.await.unwrap();
    }

    /// Publishes as any producer may.
    pub(crate) async fn publish_raw(&self, properties: BasicProperties, body: &[u8]) {
        let (connection, channel) = confirming(self.config.url.as_str()).await.unwrap();
        let exchange = format!("{}.events", self.config.namespace);
        let options = BasicPublishOptions::default();
        let confirm = channel
            .basic_publish(exchange.into(), TYPE.into(), options, body, properties)
            .await
            .unwrap();
        assert!(confirm.await.unwrap().is_ack());
        connection.close(200, "OK".into()).await.unwrap();
    }

    pub(crate) async fn consume(&self, queue: Queue) -> Subscription {
        self.session.consume(queue, 32).await.unwrap()
    }

    /// The first message of a queue, and its consumer, which must outlive it.
    pub(crate) async fn take(&self, queue: Queue) -> (Taken, Subscription) {
        let mut consumer = self.consume(queue).await;
        (consumer.next().await.unwrap(), consumer)
    }

    /// The first message of a queue, read and acked.
    pub(crate) async fn received(&self, queue: Queue) -> Received {
        let (mut taken, consumer) = self.take(queue).await;
        let received = taken.read(&self.session, MAX_BYTES);
        taken.ack();
        consumer.stop().await;
        received
    }

    /// Publishes an event and puts it off for an endpoint, as after a failed attempt. Returns it as it was taken.
    pub(crate) async fn put_off(&self, endpoint: &EndpointId, event: &Event, max_bytes: usize) -> Received {
        self.publish(event).await;
        let (mut taken, consumer) = self.take(Queue::Work).await;
        let received = taken.read(&self.session, max_bytes);
        let [part] = taken.divide(1).try_into().ok().unwrap();
        let (session, history) = (&self.session, &received.history);
        let retry = Settlement::Retry("1s".parse().unwrap());
        let settled = part.settle(session, endpoint, &received, history, retry, None);
        settled.await.unwrap();
        consumer.stop().await;
        self.wait_for(Queue::Again, 1).await;
        received
    }

    pub(crate) async fn ready(&self, queue: Queue) -> u32 {
        self.session.depth(queue).await.unwrap().unwrap().ready
    }

    pub(crate) async fn wait_for(&self, queue: Queue, ready: u32) {
        wait_until(format!("{ready} messages in {queue}"), || async {
            let seen = self.ready(queue).await;
            (seen == ready).then_some(()).ok_or(seen)
        })
        .await;
    }

    /// Takes and drops the first message of a queue until the queue has returned it so often that it moves on.
    pub(crate) async fn return_too_often(&self, queue: Queue, to: Queue) {
        let mut consumer = self.consume(queue).await;
        let returning = async {
            while let Some(taken) = consumer.next().await {
                drop(taken);
            }
        };
        tokio::select! {
            () = returning => panic!("the consumer ended"),
            () = self.wait_for(to, 1) => {}
        }
        consumer.stop().await;
        assert_eq!(self.ready(queue).await, 0);
    }
}

pub(crate) fn event() -> Event {
    event_of(1)
}

/// An event with so many bytes of data.
pub(crate) fn event_of(bytes: usize) -> Event {
    let data = "x".repeat(bytes);
    let body = format!(r#"{{"specversion":"1.0","id":"1","source":"/x","type":"{TYPE}","data":"{data}"}}"#);
    Event::parse(body.into()).unwrap()
}

pub(crate) fn endpoints<const N: usize>() -> [EndpointId; N] {
    std::array::from_fn(|_| EndpointId::generate())
}
