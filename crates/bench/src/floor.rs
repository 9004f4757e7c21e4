//! The floor: the barest loop on the same broker objects as the relay's. Published with confirms to an
//! exchange with a work queue and one for the archive; consumed, posted, acked; and the archive consumed and
//! acked. No log, no signature, no retries, no records of attempts.

use std::collections::HashMap;

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::task::{AbortHandle, JoinSet};

use crate::event::event_type;

/// Posts under way at once, as of the relay's endpoint; and taken ahead of them.
const POSTS: usize = 100;
const PREFETCH: u16 = 200;

/// The loop, running; it ends when dropped.
pub(crate) struct Floor {
    running: [AbortHandle; 2],
    _connection: Connection,
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.running.iter().for_each(AbortHandle::abort);
    }
}

impl Floor {
    /// Declares the objects under this name, and starts the loop, which posts events of each kind to a URL.
    pub(crate) async fn start(amqp_url: &str, namespace: &str, urls: Vec<String>) -> Self {
        let connection = Connection::connect(amqp_url, ConnectionProperties::default());
        let connection = connection.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let exchange = exchange(&channel, format!("{namespace}.events").into()).await;
        let archive = queue(&channel, &exchange, &format!("{namespace}.archive")).await;
        let work = queue(&channel, &exchange, &format!("{namespace}.work")).await;
        let archive = consume(&connection.create_channel().await.unwrap(), &archive).await;
        let work = consume(&channel, &work).await;
        let kinds = urls.into_iter().enumerate();
        let urls = kinds.map(|(kind, url)| (event_type(kind), url)).collect();
        let running = [tokio::spawn(ack_all(archive)), tokio::spawn(post_all(work, urls))];
        Self {
            running: running.map(|task| task.abort_handle()),
            _connection: connection,
        }
    }
}

async fn exchange(channel: &Channel, name: ShortString) -> ShortString {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let declared =
        channel.exchange_declare(name.clone(), ExchangeKind::Topic, durable, FieldTable::default());
    declared.await.unwrap();
    name
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

async fn consume(channel: &Channel, queue: &ShortString) -> lapin::Consumer {
    let qos = BasicQosOptions::default();
    channel.basic_qos(PREFETCH, qos).await.unwrap();
    let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
    let consumer = channel.basic_consume(queue.clone(), tag, options, FieldTable::default());
    consumer.await.unwrap()
}

/// Posts each event to the URL of its type.
async fn post_all(mut consumer: lapin::Consumer, urls: HashMap<String, String>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut posts = JoinSet::new();
    while let Some(delivery) = consumer.next().await {
        if posts.len() == POSTS {
            posts.join_next().await.unwrap().unwrap();
        }
        let delivery = delivery.unwrap();
        let url = urls[delivery.routing_key.as_str()].clone();
        posts.spawn(post(client.clone(), url, delivery));
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
