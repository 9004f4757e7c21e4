//! The event log and the delivery log agree with what happened, whatever is killed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use relay_broker::Queue;
use relay_broker::Session;
use relay_event::{Attempt, DeadReason, DeliveryState, Event, Timestamp};
use relay_store::{EventFilter, LoggedDelivery, LoggedEvent, Store};
use relay_testkit::{Answer, Receiver, Request, wait_until, wait_until_within};
use relay_tests::{Database, World};
use serde_json::json;
use sqlx::Connection;
use tokio::task::JoinSet;

const EVENTS: usize = 10_000;
const SOURCE: &str = "/log";

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_the_log_agrees_with_what_the_receivers_saw() {
    the_log_agrees_with_what_the_receivers_saw(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_the_log_agrees_with_what_the_receivers_saw() {
    the_log_agrees_with_what_the_receivers_saw(Database::Postgres).await;
}

/// An endpoint of the journey, and what its receiver answers.
struct Consumer {
    receiver: Receiver,
    id: String,
    wants: fn(usize) -> bool,
    answers: fn(usize, usize) -> u16,
    ends: (DeliveryState, Option<DeadReason>),
}

impl Consumer {
    async fn add(
        world: &World,
        types: &str,
        wants: fn(usize) -> bool,
        answers: fn(usize, usize) -> u16,
        ends: (DeliveryState, Option<DeadReason>),
    ) -> Self {
        let receiver = Receiver::start().await;
        receiver.respond_by(move |request| Answer::status(answers(number(&request.json()), request.attempt)));
        let settings = json!({"retry": ["1s"], "max_in_flight": 100});
        let id = world.api.add(&receiver, &[types], settings).await.id;
        Self {
            receiver,
            id,
            wants,
            answers,
            ends,
        }
    }

    /// The requests it is to get in the end.
    fn requests_expected(&self) -> usize {
        let tries = |event| {
            if (200..300).contains(&(self.answers)(event, 1)) {
                1
            } else {
                2
            }
        };
        (0..EVENTS).filter(|event| (self.wants)(*event)).map(tries).sum()
    }
}

fn number(event: &serde_json::Value) -> usize {
    usize::try_from(event["data"].as_u64().unwrap()).unwrap()
}

fn is_invoice(event: usize) -> bool {
    event.is_multiple_of(4)
}

fn event(number: usize) -> Event {
    let event_type = if is_invoice(number) {
        "invoice.sent"
    } else {
        "order.created"
    };
    let event = json!({"specversion": "1.0", "id": format!("e{number}"), "source": SOURCE, "type": event_type, "data": number});
    Event::parse(event.to_string().into()).unwrap()
}

/// Publishes all events, many at once.
async fn publish(session: &Session, events: std::ops::Range<usize>) {
    const PUBLISHERS: usize = 40;
    let mut publishers = JoinSet::new();
    for first in 0..PUBLISHERS {
        let (session, events) = (session.clone(), events.clone());
        publishers.spawn(async move {
            for number in events.skip(first).step_by(PUBLISHERS) {
                session
                    .publish_event(&event(number), Timestamp::now())
                    .await
                    .unwrap();
            }
        });
    }
    publishers.join_all().await;
}

async fn recorded(store: &Store) -> i64 {
    let newest = store
        .logged_events(&EventFilter::default(), None, 1)
        .await
        .unwrap();
    newest.events.first().map_or(0, |event| event.sequence)
}

async fn the_log_agrees_with_what_the_receivers_saw(database: Database) {
    let mut world = World::recorded(database).await;
    world.add_recorder().await;
    let consumers = [
        Consumer::add(
            &world,
            "#",
            |_| true,
            |_, _| 204,
            (DeliveryState::Delivered, None),
        )
        .await,
        Consumer::add(
            &world,
            "order.*",
            |event| !is_invoice(event),
            |event, attempt| if event % 3 == 0 && attempt == 1 { 500 } else { 204 },
            (DeliveryState::Delivered, None),
        )
        .await,
        Consumer::add(
            &world,
            "invoice.#",
            is_invoice,
            |_, _| 500,
            (DeliveryState::Dead, Some(DeadReason::AttemptsExhausted)),
        )
        .await,
    ];
    let store = world.store().await;
    let session = world.session().await;
    let publishing = tokio::spawn(async move { publish(&session, 0..EVENTS).await });
    for part in [EVENTS / 4, EVENTS / 2] {
        let part = i64::try_from(part).unwrap();
        wait_until_within(Duration::from_secs(60), "a part to be recorded", || async {
            let recorded = recorded(&store).await;
            (recorded >= part).then_some(()).ok_or(recorded)
        })
        .await;
        // The oldest is the one that writes; the other takes over.
        let victim = world.recorders.remove(0);
        victim.kill_9();
        victim.wait_exit().await;
        world.add_recorder().await;
    }
    publishing.await.unwrap();
    everything_is_settled(&consumers, &store).await;
    compare(&consumers, &store).await;
}

/// Waits until the receivers have all they will get and the log has nothing under way.
async fn everything_is_settled(consumers: &[Consumer], store: &Store) {
    for consumer in consumers {
        let (what, expected) = (
            format!("the requests of {}", consumer.id),
            consumer.requests_expected(),
        );
        // Deliveries that a killed recorder had claimed are held again after three minutes.
        wait_until_within(Duration::from_secs(360), what, || async {
            let seen = consumer.receiver.requests().len();
            (seen >= expected)
                .then_some(())
                .ok_or(format!("{seen} of {expected}"))
        })
        .await;
        let endpoint = consumer.id.parse().unwrap();
        wait_until_within(Duration::from_secs(60), "the log to know all of it", || async {
            let under_way = store.under_way(&endpoint).await.unwrap();
            let stats = store
                .attempt_stats(&endpoint, Timestamp::default())
                .await
                .unwrap();
            let logged = usize::try_from(stats.delivered + stats.failed).unwrap();
            let waiting = under_way.pending + under_way.retrying;
            if waiting == 0 && logged >= expected {
                Ok(())
            } else {
                Err(format!("{logged} of {expected} attempts, {under_way:?}"))
            }
        })
        .await;
    }
}

/// Every event, every attempt, every state.
async fn compare(consumers: &[Consumer], store: &Store) {
    let events = all_events(store).await;
    assert_eq!(events.len(), EVENTS);
    let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), EVENTS);
    let seen: Vec<BTreeMap<String, Vec<Request>>> = consumers
        .iter()
        .map(|consumer| by_event(consumer.receiver.requests()))
        .collect();
    for logged in &events {
        let body = store.event_body(logged.sequence).await.unwrap().unwrap();
        let number = number(&serde_json::from_slice(&body).unwrap());
        assert_eq!(body, *event(number).body());
        let deliveries = store.deliveries_of(logged.sequence).await.unwrap();
        let wanted = consumers
            .iter()
            .filter(|consumer| (consumer.wants)(number))
            .count();
        assert_eq!(deliveries.len(), wanted, "{deliveries:?}");
        let attempts = store.attempts_of(logged.sequence, None, None, 100).await.unwrap();
        for (consumer, seen) in consumers.iter().zip(&seen) {
            let requests = seen.get(logged.id.as_str()).map_or(&[][..], Vec::as_slice);
            compare_one(consumer, number, requests, &deliveries, &attempts);
        }
    }
}

fn by_event(requests: Vec<Request>) -> BTreeMap<String, Vec<Request>> {
    let mut by_event: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    for request in requests {
        let id = request.event_id().unwrap();
        by_event.entry(id).or_default().push(request);
    }
    by_event
}

fn compare_one(
    consumer: &Consumer,
    event: usize,
    requests: &[Request],
    deliveries: &[LoggedDelivery],
    attempts: &[Attempt],
) {
    let answered: Vec<(u32, Option<u16>)> = requests
        .iter()
        .map(|request| {
            (
                u32::try_from(request.attempt).unwrap(),
                Some((consumer.answers)(event, request.attempt)),
            )
        })
        .collect();
    let logged: Vec<(u32, Option<u16>)> = attempts
        .iter()
        .filter(|attempt| attempt.endpoint.as_str() == consumer.id)
        .map(|attempt| (attempt.attempt, attempt.status))
        .collect();
    assert_eq!(
        logged, answered,
        "the attempts of event {event} at {}",
        consumer.id
    );
    let delivery = deliveries
        .iter()
        .find(|delivery| delivery.endpoint.as_str() == consumer.id);
    let stands = delivery.map(|delivery| {
        (
            (delivery.standing.state, delivery.standing.reason),
            delivery.standing.attempts,
        )
    });
    let expected = (consumer.wants)(event).then(|| (consumer.ends, u32::try_from(answered.len()).unwrap()));
    assert_eq!(stands, expected, "event {event} at {}", consumer.id);
}

async fn all_events(store: &Store) -> Vec<LoggedEvent> {
    let (mut events, mut before) = (Vec::new(), None);
    loop {
        let page = store
            .logged_events(&EventFilter::default(), before, 1_000)
            .await
            .unwrap();
        events.extend(page.events);
        if page.before.is_none() {
            return events;
        }
        before = page.before;
    }
}

/// Both are in the middle of writing the same events when one of them dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_killed_within_a_transaction_leaves_nothing_and_loses_nothing() {
    for database in [Database::Sqlite, Database::Postgres] {
        let mut world = World::recorded(database).await;
        world.add_recorder().await;
        let store = world.store().await;
        let receiver = Receiver::start().await;
        world.api.add(&receiver, &["#"], json!({"paused": true})).await;
        publish(&world.session().await, 0..10).await;
        wait_until("the first events", || async {
            all_events(&store).await.len() == 10
        })
        .await;

        let lock = Lock::take(&world.store_url).await;
        publish(&world.session().await, 10..60).await;
        wait_until("the recorder to have taken all", || async {
            world.waiting(Queue::Archive).await == 0
        })
        .await;
        lock.is_waited_for().await;
        let writing = world.recorders.remove(0);
        writing.kill_9();
        writing.wait_exit().await;
        lock.release().await;

        wait_until("all of them", || async {
            let events = all_events(&store).await.len();
            (events == 60).then_some(()).ok_or(events)
        })
        .await;
        let sequences: BTreeSet<i64> = all_events(&store).await.iter().map(|e| e.sequence).collect();
        assert_eq!(sequences.len(), 60);
    }
}

/// What the recorder has to wait for in the middle of its transaction: on PostgreSQL with events
/// written and deliveries not; on SQLite at its beginning, for there only one can be in the middle.
enum Lock {
    Sqlite(sqlx::SqliteConnection),
    Postgres(sqlx::PgConnection, String),
}

impl Lock {
    async fn take(url: &str) -> Self {
        if url.starts_with("sqlite:") {
            let mut holder = sqlx::SqliteConnection::connect(url).await.unwrap();
            let begin = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut holder);
            begin.await.unwrap();
            return Self::Sqlite(holder);
        }
        let mut holder = sqlx::PgConnection::connect(url).await.unwrap();
        let lock = sqlx::raw_sql("BEGIN; LOCK TABLE deliveries IN EXCLUSIVE MODE").execute(&mut holder);
        lock.await.unwrap();
        Self::Postgres(holder, url.to_owned())
    }

    /// Waits until a transaction waits for the lock. SQLite does not tell.
    async fn is_waited_for(&self) {
        const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        if let Self::Postgres(_, url) = self {
            wait_until("the recorder to wait for the lock", || async {
                let mut other = sqlx::PgConnection::connect(url).await.unwrap();
                let waiting: i64 = sqlx::query_scalar(WAITING).fetch_one(&mut other).await.unwrap();
                waiting > 0
            })
            .await;
        }
    }

    async fn release(self) {
        match self {
            Self::Sqlite(holder) => holder.close().await.unwrap(),
            Self::Postgres(holder, _) => holder.close().await.unwrap(),
        }
    }
}
