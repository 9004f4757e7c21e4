//! A running recorder, and what its tests look at.

use std::time::Duration;

use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use relay_broker::{Broker, DeadLetters, Queue, Session};
use relay_event::{DeadLetter, Endpoint, Event, EventId, Secret, Timestamp};
use relay_recorder::{Config, DispatchTimes};
use relay_service::{Context, Health};
use relay_store::{EventFilter, LoggedEvent, Store, StoreUrl};
use relay_testkit::{confirming, shared_broker, wait_until};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A recorder, and the broker and the store as others see them.
pub(crate) struct Relay {
    pub(crate) config: Config,
    pub(crate) context: Context,
    pub(crate) store: Store,
    /// A connection of the test's own.
    pub(crate) broker: Broker,
    running: Option<JoinHandle<()>>,
}

/// The settings of a test, with a namespace and a store of its own.
pub(crate) fn config(amqp_url: &str, folder: &TempDir) -> Config {
    Config {
        amqp_url: amqp_url.parse().unwrap(),
        namespace: relay_testkit::namespace().parse().unwrap(),
        store: StoreUrl::sqlite(folder.path().join("relay.db")),
        max_event_bytes: 1_000,
        recheck: Duration::from_millis(300),
        batch_records: 2_000,
        retain_events: Duration::from_secs(3600),
        retain_attempts: Duration::from_secs(3600),
        retention_interval: Duration::from_millis(200),
        dispatch: DispatchTimes::default(),
    }
}

impl Relay {
    /// With the broker that all tests share, and ready.
    pub(crate) async fn start(folder: &TempDir) -> Self {
        let url = shared_broker().await;
        let mut relay = Self::without_recorder(config(url, folder), url).await;
        relay.record();
        relay.until_ready().await;
        relay
    }

    /// The recorder will go by `config`, and the test reaches the broker at `amqp_url`.
    pub(crate) async fn without_recorder(config: Config, amqp_url: &str) -> Self {
        relay_service::install_crypto();
        let mut own = config.broker("test");
        own.url = amqp_url.parse().unwrap();
        Self {
            broker: Broker::start(own, None),
            context: context(),
            store: Store::open(&config.store).await.unwrap(),
            config,
            running: None,
        }
    }

    /// Starts the recorder.
    pub(crate) fn record(&mut self) {
        let (config, context, store) = (self.config.clone(), self.context.clone(), self.store.clone());
        self.running = Some(tokio::spawn(run(config, context, store)));
    }

    pub(crate) async fn until_ready(&self) {
        wait_until("the recorder to be ready", || async {
            // Before it has begun, nothing is needed yet.
            !self.context.registry.gather().is_empty() && self.context.health.is_ready()
        })
        .await;
    }

    pub(crate) async fn session(&self) -> Session {
        self.broker.session().await
    }

    /// An endpoint that is in the store and announced.
    pub(crate) async fn add_endpoint(&self, pattern: &str) -> Endpoint {
        let (url, pattern) = ("http://127.0.0.1/".parse().unwrap(), pattern.parse().unwrap());
        let endpoint = Endpoint::new(url, vec![pattern], Secret::generate(), Timestamp::now());
        self.store.insert(&endpoint).await.unwrap();
        let session = self.session().await;
        session.announce_change(&endpoint.id).await.unwrap();
        endpoint
    }

    /// Publishes an event and waits for its confirm.
    pub(crate) async fn publish(&self, event: &Event) {
        let session = self.session().await;
        session.publish_event(event, Timestamp::now()).await.unwrap();
    }

    /// The events of the log, newest first.
    pub(crate) async fn events(&self) -> Vec<LoggedEvent> {
        let all = EventFilter::default();
        self.store
            .logged_events(&all, None, 100_000)
            .await
            .unwrap()
            .events
    }

    /// Waits until so many events are in the log, and answers with them, newest first.
    pub(crate) async fn logged(&self, count: usize) -> Vec<LoggedEvent> {
        wait_until(format!("{count} events in the log"), || async {
            let events = self.events().await;
            if events.len() == count {
                Ok(events)
            } else {
                Err(events.len())
            }
        })
        .await
    }

    /// Waits until so many dead letters are there, and answers with their facts.
    pub(crate) async fn dead(&self, count: usize) -> Vec<DeadLetter> {
        wait_until(format!("{count} dead letters"), || async {
            let session = Session::open(&self.config.broker("look"), None).await.unwrap();
            let mut letters = DeadLetters::open(&session).await.unwrap();
            let mut dead = Vec::new();
            while let Some(message) = letters.next().await.unwrap() {
                dead.push(message.letter.clone());
                letters.keep(message).await.unwrap();
            }
            session.close().await;
            if dead.len() == count {
                Ok(dead)
            } else {
                Err(dead.len())
            }
        })
        .await
    }

    /// Ends the recorder as a signal would.
    pub(crate) async fn stop(&mut self) {
        self.context.shutdown.cancel();
        self.running.take().unwrap().await.unwrap();
    }

    /// With the recorder stopped nothing is held, so what was not acked would be in the queues.
    pub(crate) async fn stop_and_find_the_queues_empty(mut self) {
        self.stop().await;
        let session = self.session().await;
        for queue in [
            Queue::Archive,
            Queue::ArchiveLate,
            Queue::Suspects,
            Queue::Records,
            Queue::Holds,
            Queue::BlindMatches,
        ] {
            let depth = session.depth(queue).await.unwrap().unwrap();
            assert_eq!((depth.ready, depth.consumers), (0, 0), "{queue}");
        }
    }

    /// Waits until so many rows of `table` are counted, which happens a moment after they can be seen.
    pub(crate) async fn counted(&self, table: &str, rows: f64) {
        let series = format!("relay_recorder_rows_total{{table=\"{table}\"}}");
        wait_until(format!("{rows} rows of {table} to be counted"), || async {
            let counted = self.metric(&series);
            if counted == rows { Ok(()) } else { Err(counted) }
        })
        .await;
    }

    /// The value of a metric, by its name and labels as they are written.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&self.context.registry.gather())
            .unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no {series} in {text}"))
            .parse()
            .unwrap()
    }
}

fn context() -> Context {
    Context {
        registry: prometheus::Registry::new(),
        health: Health::default(),
        shutdown: CancellationToken::new(),
        metrics_address: "127.0.0.1:0".parse().unwrap(),
    }
}

/// What the binary's `main` does.
async fn run(config: Config, context: Context, store: Store) {
    let broker = Broker::start(config.broker("relay-recorder"), None);
    relay_recorder::run(&config, &context, &broker, &store)
        .await
        .unwrap();
    broker.close().await;
}

/// Any AMQP client.
pub(crate) struct Producer {
    _connection: Connection,
    channel: Channel,
    namespace: String,
}

impl Producer {
    pub(crate) async fn connect(config: &Config) -> Self {
        let url = config.amqp_url.as_str();
        let (connection, channel) = confirming(url).await.unwrap();
        Self {
            _connection: connection,
            channel,
            namespace: config.namespace.to_string(),
        }
    }

    /// Publishes to one of the relay's exchanges, such as `events`, and waits for the confirm.
    pub(crate) async fn publish(&self, exchange: &str, key: &str, content_type: &str, body: &[u8]) {
        let exchange = format!("{}.{exchange}", self.namespace);
        self.send(exchange, key.to_owned(), content_type, body).await;
    }

    /// Past the exchanges, as the broker's default exchange lets anybody do.
    pub(crate) async fn put_into(&self, queue: &str, content_type: &str, body: &[u8]) {
        let queue = format!("{}.{queue}", self.namespace);
        self.send(String::new(), queue, content_type, body).await;
    }

    async fn send(&self, exchange: String, key: String, content_type: &str, body: &[u8]) {
        // The version of the wire format, which records must have.
        let mut headers = FieldTable::default();
        headers.insert("relay-wire".into(), AMQPValue::LongLongInt(1));
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_headers(headers)
            .with_content_type(content_type.into());
        let sent = self
            .channel
            .basic_publish(
                exchange.into(),
                key.into(),
                BasicPublishOptions::default(),
                body,
                properties,
            )
            .await;
        assert_eq!(sent.unwrap().await.unwrap(), Confirmation::Ack(None));
    }

    /// Makes the broker refuse whatever is sent to the dead-letter queue, until the queue [`FULL`] is
    /// deleted: it takes no more, and so the exchange's publishes are not confirmed.
    pub(crate) async fn refuse_dead_letters(&self) {
        let full = ShortString::from(format!("{}.{FULL}", self.namespace));
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert(
            "x-overflow".into(),
            AMQPValue::LongString("reject-publish".into()),
        );
        let declared = self
            .channel
            .queue_declare(full.clone(), QueueDeclareOptions::default(), arguments);
        declared.await.unwrap();
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let filled = self
            .channel
            .basic_publish("".into(), full.clone(), options, b"", properties);
        filled.await.unwrap().await.unwrap();
        let dead = ShortString::from(format!("{}.dead", self.namespace));
        let (key, options) = (ShortString::default(), QueueBindOptions::default());
        let bound = self
            .channel
            .queue_bind(full, dead, key, options, FieldTable::default());
        bound.await.unwrap();
    }

    pub(crate) async fn delete_queue(&self, queue: &str) {
        let queue = format!("{}.{queue}", self.namespace);
        let deleted = self
            .channel
            .queue_delete(queue.into(), QueueDeleteOptions::default());
        deleted.await.unwrap();
    }

    pub(crate) async fn publish_event(&self, key: &str, body: &[u8]) {
        self.publish("events", key, STRUCTURED, body).await;
    }
}

/// A queue that takes no more.
pub(crate) const FULL: &str = "full";

pub(crate) const STRUCTURED: &str = "application/cloudevents+json";

/// A new event of this type.
pub(crate) fn event(event_type: &str) -> Event {
    let id = EventId::generate();
    let json = json!({"specversion": "1.0", "id": id, "source": "/test", "type": event_type});
    Event::parse(json.to_string().into()).unwrap()
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}
