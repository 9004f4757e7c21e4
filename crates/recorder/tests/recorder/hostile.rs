//! What is no event and no record goes to the dead-letter queue with the reason, and keeps nothing
//! else from the log.

use relay_broker::{Dispatched, Queue};
use relay_event::{DeadLetter, DeadReason, Event, History};
use relay_store::StoreUrl;
use relay_testkit::{shared_broker, wait_until};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::dispatch::{Deliverer, until_held};
use crate::relay::{Producer, Relay, STRUCTURED, config, event, folder};

const NDJSON: &str = "application/x-ndjson";

fn set_aside(relay: &Relay, reason: DeadReason) -> f64 {
    relay.metric(&format!("relay_recorder_set_aside_total{{reason=\"{reason}\"}}"))
}

fn record(event_id: &str) -> Value {
    json!({
        "id": relay_event::AttemptId::generate(), "event_id": event_id, "event_source": "/test",
        "event_type": "a", "endpoint": relay_event::EndpointId::generate(), "attempt": 1,
        "at": "2026-01-01T00:00:00Z", "duration_ms": 5, "status": 204, "state": "delivered",
        "deliverer": "d",
    })
}

#[tokio::test]
async fn hostile_messages_are_set_aside_and_the_good_ones_recorded() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let producer = Producer::connect(&relay.config).await;
    let (first, last) = (event("good"), event("good"));
    relay.publish(&first).await;
    producer.publish_event("a", b"no event").await;
    producer.publish_event("other.key", event("a").body()).await;
    let large =
        json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "a", "data": "x".repeat(1_000)});
    producer.publish_event("a", large.to_string().as_bytes()).await;
    producer.publish("events", "a", "text/plain", b"").await;
    relay.publish(&last).await;

    let dead = relay.dead(4).await;
    for part in ["JSON", "routing key", "1000", "neither structured"] {
        let of = |letter: &&DeadLetter| {
            letter
                .detail
                .as_deref()
                .is_some_and(|detail| detail.contains(part))
        };
        let letter = dead.iter().find(of).unwrap_or_else(|| panic!("{part}: {dead:?}"));
        assert_eq!(
            (letter.reason, &letter.endpoint),
            (DeadReason::InvalidEvent, &None)
        );
    }
    let logged = relay.logged(2).await;
    assert_eq!([&logged[1].id, &logged[0].id], [first.id(), last.id()]);
    // The one that is too large is set aside twice: RabbitMQ moves it to the late queue first.
    assert_eq!(set_aside(&relay, DeadReason::InvalidEvent), 5.0);
    relay.stop_and_find_the_queues_empty().await;
}

#[tokio::test]
async fn of_a_message_to_the_delivery_log_the_good_lines_are_recorded() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let producer = Producer::connect(&relay.config).await;
    let event = event("a");
    relay.publish(&event).await;
    let mut bad = record(event.id().as_str());
    bad["attempt"] = json!(0);
    let lines = format!(
        "{}\n{bad}\n{}\n",
        record(event.id().as_str()),
        record(event.id().as_str())
    );
    for body in [lines.as_bytes(), b"nonsense", b""] {
        producer.publish("records", "", NDJSON, body).await;
    }
    producer.put_into("records", NDJSON, b"past the exchange").await;
    // Neither is of an endpoint, so the delivery log has nothing to learn from them.
    producer.publish("dead", "", "text/plain", b"what is this?").await;
    producer.publish("dead", "", STRUCTURED, event.body()).await;

    let dead = relay.dead(6).await;
    let mut details = Vec::new();
    for letter in dead
        .iter()
        .filter(|letter| letter.reason == DeadReason::InvalidRecord)
    {
        details.push(letter.detail.as_deref().unwrap());
    }
    assert_eq!(details.len(), 4, "{dead:?}");
    assert!(
        details.iter().any(|detail| detail.starts_with("line 2: attempt")),
        "{details:?}"
    );
    let sequence = relay.logged(1).await[0].sequence;
    let attempts = relay.store.attempts_of(sequence, None, None, 10).await;
    assert_eq!(attempts.unwrap().len(), 2);
    assert_eq!(set_aside(&relay, DeadReason::InvalidRecord), 4.0);
    relay.stop_and_find_the_queues_empty().await;
}

/// Makes the store refuse some events in a table, as a defect in it would.
async fn refuse(url: &StoreUrl, table: &str, events: &[&Event]) {
    let path = format!("sqlite:{}", url.path().unwrap().display());
    let mut store = SqliteConnection::connect(&path).await.unwrap();
    let ids: Vec<_> = events.iter().map(|event| format!("'{}'", event.id())).collect();
    let trigger = format!(
        "CREATE TRIGGER refuse BEFORE INSERT ON {table} WHEN NEW.id IN ({})
         BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        ids.join(",")
    );
    sqlx::query(AssertSqlSafe(trigger))
        .execute(&mut store)
        .await
        .unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_the_store_refuses_is_found_among_all_that_it_takes() {
    const EVENTS: usize = 300;
    let (folder, url) = (folder(), shared_broker().await);
    let mut relay = Relay::without_recorder(config(url, &folder), url).await;
    let events: Vec<_> = (0..EVENTS).map(|_| event("a")).collect();
    let poison = [&events[0], &events[123], &events[124]];
    refuse(&relay.config.store, "events", &poison).await;
    for event in &events {
        relay.publish(event).await;
    }
    relay.record();

    let dead = relay.dead(poison.len()).await;
    for event in poison {
        let of = |letter: &&DeadLetter| letter.event_id.as_deref() == Some(event.id().as_str());
        let letter = dead.iter().find(of).unwrap();
        assert_eq!(letter.reason, DeadReason::InvalidEvent);
        assert!(letter.detail.as_deref().unwrap().contains("not this one"));
    }
    relay.logged(EVENTS - poison.len()).await;
    relay.until_ready().await;
    relay.stop_and_find_the_queues_empty().await;
}

/// Their message was read so that its body is no longer there.
#[tokio::test]
async fn held_deliveries_that_the_broker_moved_and_the_store_refuses_are_dead_letters_with_their_events() {
    let (folder, url) = (folder(), shared_broker().await);
    let mut relay = Relay::without_recorder(config(url, &folder), url).await;
    let events = [event("a"), event("a"), event("a")];
    refuse(&relay.config.store, "kept", &[&events[0], &events[2]]).await;
    let endpoint = relay_event::EndpointId::generate();
    let delivery = |event: &Event| Dispatched {
        event: event.clone(),
        published_at: None,
        hop: 1,
        history: History {
            attempts: 2,
            ..History::default()
        },
        alone: false,
    };
    let session = relay.session().await;
    let batch = events.each_ref().map(delivery);
    session.dispatch(&endpoint, &batch).await.unwrap();
    let mut consumer = session.consume(Queue::Dispatch, 1).await.unwrap();
    let returning = async {
        while let Some(taken) = consumer.next().await {
            drop(taken);
        }
    };
    let moved = wait_until("the batch to be moved", || async {
        let depth = session.depth(Queue::Holds).await.unwrap().unwrap();
        if depth.ready == 1 {
            Ok(())
        } else {
            Err(depth.ready)
        }
    });
    tokio::select! {
        () = returning => panic!("the consumer ended"),
        () = moved => {}
    }
    consumer.stop().await;
    relay.record();

    let dead = relay.dead(2).await;
    for event in [&events[0], &events[2]] {
        let of = |letter: &&DeadLetter| letter.event_id.as_deref() == Some(event.id().as_str());
        let letter = dead.iter().find(of).unwrap_or_else(|| panic!("{dead:?}"));
        assert_eq!(letter.reason, DeadReason::InvalidRecord);
        assert_eq!((letter.endpoint.as_ref(), letter.attempts), (Some(&endpoint), 2));
        assert!(letter.detail.as_deref().unwrap().contains("not this one"));
    }
    let mut deliverer = Deliverer::start(session).await;
    assert_eq!(deliverer.deliver(1).await, [events[1].id().as_str()]);
    drop(deliverer);
    until_held(&relay, 0).await;
    relay.stop_and_find_the_queues_empty().await;
}
