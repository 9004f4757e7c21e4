//! An event that comes again, after the gateway's memory of it is gone or although it was recorded.

use lapin::{
    BasicProperties, Channel, Connection,
    options::{BasicPublishOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use relay_broker::Queue;
use relay_event::{Event, Timestamp};
use relay_store::{NewEvent, Record, Store};
use relay_testkit::{confirming, shared_broker, wait_until};
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};

use super::{BATCH, WHOLE, event, is_replayed, post, request, take};
use crate::relay::{Relay, folder};

/// As the recorder would: what the broker's archive took is recorded, confirmed or not.
async fn record(store: &Store, id: &str) {
    let recorded = Record::Event(NewEvent {
        event: Event::parse(event(id).to_string().into()).unwrap(),
        published_at: None,
        routed_to: Vec::new(),
    });
    store.record(&[recorded], Timestamp::now()).await.unwrap();
}

/// A queue for all events, which is full.
struct Full {
    channel: Channel,
    name: ShortString,
    _connection: Connection,
}

impl Full {
    async fn bind(relay: &Relay) -> Self {
        let url = shared_broker().await;
        let (connection, channel) = confirming(url).await.unwrap();
        let name = ShortString::from(format!("{}.full", relay.config.namespace));
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        let overflow = AMQPValue::LongString("reject-publish".into());
        arguments.insert("x-overflow".into(), overflow);
        let options = QueueDeclareOptions::default();
        let declared = channel.queue_declare(name.clone(), options, arguments).await;
        declared.unwrap();
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let filled = channel.basic_publish("".into(), name.clone(), options, b"", properties);
        filled.await.unwrap().await.unwrap();
        let events = ShortString::from(format!("{}.events", relay.config.namespace));
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let bound = channel.queue_bind(name.clone(), events, "#".into(), options, none);
        bound.await.unwrap();
        Self {
            channel,
            name,
            _connection: connection,
        }
    }

    /// Takes one event from now on.
    async fn empty(&self) {
        let purged = self
            .channel
            .queue_purge(self.name.clone(), QueuePurgeOptions::default());
        assert_eq!(purged.await.unwrap(), 1);
    }
}

/// The store's file, past the gateway.
async fn database(relay: &Relay) -> SqliteConnection {
    let path = relay.config.store.path().unwrap().display().to_string();
    let url = format!("sqlite:{path}");
    SqliteConnection::connect(&url).await.unwrap()
}

pub(crate) async fn execute(relay: &Relay, sql: &'static str) {
    let mut database = database(relay).await;
    sqlx::query(sql).execute(&mut database).await.unwrap();
}

/// How many events are noted.
async fn noted(relay: &Relay) -> i64 {
    let mut database = database(relay).await;
    let count = sqlx::query_scalar("SELECT COUNT(*) FROM confirmed").fetch_one(&mut database);
    count.await.unwrap()
}

async fn are_confirmed<const N: usize>(relay: &Relay, ids: [&str; N]) -> Vec<bool> {
    let names = ids.map(|id| (id.parse().unwrap(), "/orders".to_owned()));
    relay.store.are_confirmed(&names).await.unwrap()
}

/// One queue refused it and others took it: that it is recorded says nothing about the one.
#[tokio::test]
async fn what_was_refused_and_recorded_is_sent_again() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let full = Full::bind(&relay).await;
    let batch = || json!([event("1")]);
    let refused = post(&relay, WHOLE, event("1")).await;
    refused.problem(503, "unconfirmed");
    wait_until("the event in the other queue", || async {
        let waiting = relay.waiting(Queue::Work).await;
        (waiting == 1).then_some(()).ok_or(format!("{waiting}"))
    })
    .await;
    record(&relay.store, "1").await;
    post(&relay, BATCH, batch()).await.problem(503, "unconfirmed");
    full.empty().await;
    assert!(!is_replayed(&post(&relay, WHOLE, event("1")).await));
    assert!(is_replayed(&post(&relay, BATCH, batch()).await));
    assert_eq!(take(&relay, 3).await.len(), 3);
    full.empty().await; // It held the event.
}

#[tokio::test]
async fn what_is_recorded_and_was_never_confirmed_is_sent() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    record(&relay.store, "old").await;
    assert!(!is_replayed(&post(&relay, WHOLE, event("old")).await));
    assert!(is_replayed(&post(&relay, WHOLE, event("old")).await));
    assert_eq!(relay.waiting(Queue::Work).await, 1);
}

/// The memory of the gateway that sent it is gone, and nothing is recorded.
#[tokio::test]
async fn what_an_earlier_gateway_sent_is_not_sent_again() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    assert!(!is_replayed(&post(&relay, WHOLE, event("1")).await));
    let batch = |more: &str| json!([event("2"), event(more)]);
    assert!(!is_replayed(&post(&relay, BATCH, batch("3")).await));
    let keyed = request(&relay, "application/json", json!({"type": "a"})).header("idempotency-key", "k1");
    assert!(!is_replayed(&relay.send(keyed).await));
    // Nobody can send this one again.
    relay.publish(&["a.b"]).await;
    relay.context.shutdown.cancel();
    relay.running.await.unwrap().unwrap();

    let relay = Relay::start_with(relay.config).await;
    relay.until_ready().await;
    assert!(is_replayed(&post(&relay, WHOLE, event("1")).await));
    assert!(is_replayed(&post(&relay, BATCH, batch("3")).await));
    assert!(!is_replayed(&post(&relay, BATCH, batch("4")).await));
    let keyed = request(&relay, "application/json", json!({"type": "a"})).header("idempotency-key", "k1");
    assert!(is_replayed(&relay.send(keyed).await));
    assert_eq!(relay.waiting(Queue::Work).await, 6);
    wait_until("the last to be noted", || async {
        are_confirmed(&relay, ["4"]).await == [true]
    })
    .await;
    // 1 to 4 and the key's: of the one whose id the gateway made there is nothing to know.
    assert_eq!(noted(&relay).await, 5);
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_does_not_stop_events() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    execute(&relay, "ALTER TABLE confirmed RENAME TO elsewhere").await;
    for id in ["1", "2"] {
        assert!(!is_replayed(&post(&relay, WHOLE, event(id)).await));
    }
    assert!(is_replayed(&post(&relay, WHOLE, event("1")).await));
    let batch = json!([event("2"), event("3")]);
    assert!(!is_replayed(&post(&relay, BATCH, batch).await));
    assert_eq!(relay.waiting(Queue::Work).await, 3);

    execute(&relay, "ALTER TABLE elsewhere RENAME TO confirmed").await;
    wait_until("all of them to be noted", || async {
        are_confirmed(&relay, ["1", "2", "3"]).await == [true; 3]
    })
    .await;
    assert_eq!(relay.metric("relay_gateway_events_unnoted_total"), 0.0);
}
