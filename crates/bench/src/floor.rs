//! The floor: the barest loop on the same broker objects as the relay's. Published with confirms to an
//! exchange with a queue for one endpoint and one for the archive; consumed, posted, acked; and the
//! archive consumed and acked. No log, no signature, no retries, no records of attempts.

use std::time::Instant;

use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use relay_event::Event;
use relay_testkit::Receiver;
use tokio::task::{AbortHandle, JoinSet};

use crate::load::{WINDOW, arrived, event, rate};

/// Posts under way at once, as of the relay's endpoint; and taken ahead of them.
const POSTS: usize = 100;
const PREFETCH: u16 = 200;

/// The loop, running; it ends when dropped.
pub(crate) struct Floor {
    publishing: Channel,
    exchange: ShortString,
    receiver: Receiver,
    running: Vec<AbortHandle>,
    _connections: [Connection; 2],
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.running.iter().for_each(AbortHandle::abort);
    }
}

impl Floor {
    /// Declares the objects under a name of their own, and starts the loop.
    pub(crate) async fn start(amqp_url: &str, namespace: &str) -> Self {
        let receiver = Receiver::start().await;
        let connect = || Connection::connect(amqp_url, ConnectionProperties::default());
        let (publishes, consumes) = (connect().await.unwrap(), connect().await.unwrap());
        let publishing = publishes.create_channel().await.unwrap();
        let confirms = ConfirmSelectOptions::default();
        publishing.confirm_select(confirms).await.unwrap();
        let exchange = ShortString::from(format!("{namespace}.events"));
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        publishing
            .exchange_declare(
                exchange.clone(),
                ExchangeKind::Topic,
                durable,
                FieldTable::default(),
            )
            .await
            .unwrap();
        let endpoint = queue(&publishing, &exchange, &format!("{namespace}.endpoint")).await;
        let archive = queue(&publishing, &exchange, &format!("{namespace}.archive")).await;
        let posting = tokio::spawn(post_all(consume(&consumes, &endpoint).await, receiver.url()));
        let archiving = tokio::spawn(ack_all(consume(&consumes, &archive).await));
        Self {
            publishing,
            exchange,
            receiver,
            running: vec![posting.abort_handle(), archiving.abort_handle()],
            _connections: [publishes, consumes],
        }
    }

    /// Deliveries a second, from the first publish to the last arrival.
    pub(crate) async fn deliver(&self, count: usize) -> f64 {
        let began = Instant::now();
        let mut awaiting = FuturesUnordered::new();
        for number in 0..count {
            if awaiting.len() == WINDOW {
                assert_eq!(awaiting.next().await, Some(Confirmation::Ack(None)));
            }
            awaiting.push(self.publish(event(number)));
        }
        while let Some(confirmation) = awaiting.next().await {
            assert_eq!(confirmation, Confirmation::Ack(None));
        }
        arrived(&[&self.receiver], count).await;
        rate(count, began)
    }

    async fn publish(&self, event: Event) -> Confirmation {
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let key = ShortString::from(event.event_type().as_str());
        let options = BasicPublishOptions::default();
        let sent = self
            .publishing
            .basic_publish(self.exchange.clone(), key, options, event.body(), persistent)
            .await;
        sent.unwrap().await.unwrap()
    }
}

async fn queue(channel: &Channel, exchange: &ShortString, name: &str) -> ShortString {
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let name = ShortString::from(name);
    channel
        .queue_declare(name.clone(), durable, quorum)
        .await
        .unwrap();
    let (key, bind) = (ShortString::from("#"), QueueBindOptions::default());
    channel
        .queue_bind(name.clone(), exchange.clone(), key, bind, FieldTable::default())
        .await
        .unwrap();
    name
}

async fn consume(connection: &Connection, queue: &ShortString) -> lapin::Consumer {
    let channel = connection.create_channel().await.unwrap();
    let qos = BasicQosOptions::default();
    channel.basic_qos(PREFETCH, qos).await.unwrap();
    let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
    let consumer = channel.basic_consume(queue.clone(), tag, options, FieldTable::default());
    consumer.await.unwrap()
}

async fn post_all(mut consumer: lapin::Consumer, url: String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut posts = JoinSet::new();
    while let Some(delivery) = consumer.next().await {
        if posts.len() == POSTS {
            posts.join_next().await.unwrap().unwrap();
        }
        posts.spawn(post(client.clone(), url.clone(), delivery.unwrap()));
    }
}

async fn post(client: reqwest::Client, url: String, delivery: Delivery) {
    let answer = client.post(url).body(delivery.data).send().await.unwrap();
    assert!(answer.status().is_success());
    delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
}

async fn ack_all(mut consumer: lapin::Consumer) {
    while let Some(delivery) = consumer.next().await {
        let acker = delivery.unwrap().acker;
        acker.ack(BasicAckOptions::default()).await.unwrap();
    }
}
