//! Fills a log, and says how fast it was, how much room it takes, and how long each question takes then:
//!
//! `cargo run --release -p relay-store --example log_size -- URL [EVENTS] [BATCH]`
//!
//! Each event has a body of 1 KiB and two deliveries with three attempts: one to an endpoint that gets
//! everything at once, and one of 199 others, which fails once. The database must be empty.

#![allow(clippy::unwrap_used, reason = "a measurement: a panic is the report")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_event::{
    Attempt, AttemptId, DeadReason, DeliveryState, EndpointId, ErrorClass, Event, Selection, Timestamp,
};
use relay_store::{DeliveryFilter, EventFilter, NewEvent, Record, Retention, Store, StoreUrl, Undelivered};

const ENDPOINTS: u64 = 200;
const TYPES: u64 = 20;
/// Between two events.
const STEP: Duration = Duration::from_millis(800);

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let url = args.next().expect("the store's URL");
    let mut number = |default: u64| args.next().map_or(default, |text| text.parse().unwrap());
    let (events, batch) = (number(1_000_000), number(1_000));
    let store = Store::open(&url.parse::<StoreUrl>().unwrap()).await.unwrap();
    if store.oldest_event().await.unwrap().is_none() {
        fill(&store, events, batch).await;
    }
    if std::env::var_os("UNSETTLED").is_none() {
        settle(&url).await;
    }
    println!(
        "{:.0} bytes an event, all in all",
        size(&url).await as f64 / events as f64
    );
    ask(&store, events).await;
}

async fn fill(store: &Store, events: u64, batch: u64) {
    let started = Instant::now();
    let mut round = Instant::now();
    for first in (0..events).step_by(usize::try_from(batch).unwrap()) {
        let records: Vec<Record> = (first..events.min(first + batch)).flat_map(records).collect();
        store.record(&records, time(first)).await.unwrap();
        if (first + batch).is_multiple_of(100_000) {
            let rate = 100_000.0 / round.elapsed().as_secs_f64();
            println!("{} events, {rate:.0} a second", first + batch);
            round = Instant::now();
        }
    }
    let rate = events as f64 / started.elapsed().as_secs_f64();
    println!(
        "{events} events, {} attempts, {batch} events at a time: {rate:.0} events a second",
        3 * events
    );
}

/// What PostgreSQL's autovacuum does by itself a minute later.
async fn settle(url: &str) {
    if url.starts_with("postgres") {
        let pool = sqlx::PgPool::connect(url).await.unwrap();
        sqlx::query("VACUUM ANALYZE").execute(&pool).await.unwrap();
    }
}

async fn size(url: &str) -> i64 {
    match url.strip_prefix("sqlite:") {
        Some(path) => i64::try_from(std::fs::metadata(path).unwrap().len()).unwrap(),
        None => {
            let pool = sqlx::PgPool::connect(url).await.unwrap();
            sqlx::query_scalar("SELECT pg_database_size(current_database())")
                .fetch_one(&pool)
                .await
                .unwrap()
        }
    }
}

fn time(n: u64) -> Timestamp {
    Timestamp::from_millis(1_780_000_000_000).unwrap() + STEP * u32::try_from(n).unwrap()
}

/// Spreads numbers so that they look random.
fn spread(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    let n = (n ^ (n >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    n ^ (n >> 33)
}

/// Half of the events are of the first type, a quarter of the second, and so on; the last are rare.
fn event_type(n: u64) -> String {
    let kind = u64::from(spread(n).trailing_zeros()).min(TYPES - 1);
    format!("shop{}.order.t{kind}", kind % 2)
}

fn endpoint(n: u64) -> EndpointId {
    EndpointId::from_bytes((u128::from(spread(n)) << 64 | u128::from(n)).to_be_bytes())
}

fn name(n: u64) -> String {
    format!("01980000-0000-7000-8000-{n:012x}")
}

fn records(n: u64) -> Vec<Record> {
    let source = format!("/shops/{}", spread(n + 1) % 5);
    let subject = format!("order-{}", spread(n + 2) % 10_000);
    let head = format!(
        r#"{{"specversion":"1.0","id":"{}","source":"{source}","type":"{}","subject":"{subject}","data":""#,
        name(n),
        event_type(n),
    );
    let data: String = (0..56)
        .map(|part| format!("{:016x}", spread(n * 64 + part)))
        .collect();
    let event = Event::parse(Bytes::from(format!(r#"{head}{data}"}}"#))).unwrap();
    let other = endpoint(1 + spread(n + 3) % (ENDPOINTS - 1));
    let waits = n.is_multiple_of(500);
    let mut routed_to = vec![endpoint(0)];
    if waits {
        routed_to.push(other.clone());
    }
    let attempt = |endpoint: EndpointId, number: u32, state: DeliveryState| Attempt {
        id: AttemptId::generate(),
        event_id: event.id().clone(),
        event_source: source.clone(),
        event_type: event.event_type().clone(),
        published_at: Some(time(n)),
        endpoint,
        attempt: number,
        hop: 0,
        at: time(n) + Duration::from_secs(u64::from(number)),
        duration_ms: 5 + spread(n + u64::from(number)) % 2_000,
        first_byte_ms: Some(5),
        status: Some(if state == DeliveryState::Delivered {
            200
        } else {
            503
        }),
        error: (state == DeliveryState::Dead).then_some(ErrorClass::Body),
        detail: None,
        answer: r#"{"ok":true}"#.to_owned(),
        state,
        next_at: (state == DeliveryState::Retrying).then(|| time(n) + Duration::from_secs(30)),
        reason: (state == DeliveryState::Dead).then_some(DeadReason::AttemptsExhausted),
        deliverer: "deliverer-7f9c".to_owned(),
    };
    let mut attempts = vec![attempt(endpoint(0), 1, DeliveryState::Delivered)];
    if !waits {
        let last = match n % 100 {
            0..2 => DeliveryState::Dead,
            2 => DeliveryState::Retrying,
            _ => DeliveryState::Delivered,
        };
        attempts.push(attempt(other.clone(), 1, DeliveryState::Retrying));
        attempts.push(attempt(other, 2, last));
    }
    let new = NewEvent {
        published_at: Some(time(n)),
        routed_to,
        event,
    };
    let attempts = attempts.into_iter().map(Record::Attempt);
    std::iter::once(Record::Event(new)).chain(attempts).collect()
}

/// Asks each question several times, and prints the median and the longest.
async fn ask(store: &Store, events: u64) {
    let all = EventFilter::default();
    let types = |pattern: &str| EventFilter {
        types: vec![pattern.parse().unwrap()],
        ..all.clone()
    };
    let middle = i64::try_from(events / 2).unwrap();
    let old = Some(time(events / 10));
    let filters = [
        ("all", all.clone()),
        ("of half of the types", types("shop0.#")),
        ("of a rare type", types("*.*.t15")),
        ("of a type that is not there", types("none")),
        (
            "of a source",
            EventFilter {
                source: Some("/shops/3".into()),
                ..all.clone()
            },
        ),
        (
            "of no source",
            EventFilter {
                source: Some("/none".into()),
                ..all.clone()
            },
        ),
        (
            "of a source and a rare type",
            EventFilter {
                source: Some("/shops/3".into()),
                ..types("*.*.t14")
            },
        ),
        (
            "of a subject",
            EventFilter {
                subject: Some("order-77".into()),
                ..all.clone()
            },
        ),
        (
            "of a subject, a source and half of the types",
            EventFilter {
                subject: Some("order-77".into()),
                source: Some("/shops/3".into()),
                ..types("shop0.#")
            },
        ),
        (
            "until long ago",
            EventFilter {
                until: old,
                ..all.clone()
            },
        ),
        (
            "of a rare type until long ago",
            EventFilter {
                until: old,
                ..types("*.*.t12")
            },
        ),
        (
            "since now",
            EventFilter {
                since: Some(time(2 * events)),
                ..all.clone()
            },
        ),
    ];
    for (what, filter) in &filters {
        time_of(&format!("events {what}"), async |_| {
            store.logged_events(filter, None, 100).await.unwrap().events.len()
        })
        .await;
    }
    time_of("events before the middle", async |_| {
        store
            .logged_events(&all, Some(middle), 100)
            .await
            .unwrap()
            .events
            .len()
    })
    .await;
    time_of("events, 1000 of them", async |_| {
        store.logged_events(&all, None, 1000).await.unwrap().events.len()
    })
    .await;
    time_of("an event by id", async |n| {
        let id = name(spread(n) % events).parse().unwrap();
        store.logged_event(&id, None).await.unwrap().map_or(0, |_| 1)
    })
    .await;
    time_of("its body", async |n| {
        let place = i64::try_from(spread(n) % events).unwrap();
        store.event_body(place + 1).await.unwrap().map_or(0, |_| 1)
    })
    .await;
    time_of("its deliveries", async |n| {
        let place = i64::try_from(spread(n) % events).unwrap();
        store.deliveries_of(place + 1).await.unwrap().len()
    })
    .await;
    time_of("its attempts", async |n| {
        let place = i64::try_from(spread(n) % events).unwrap();
        store.attempts_of(place + 1, None, None, 100).await.unwrap().len()
    })
    .await;
    ask_of_deliveries(store, events).await;
    ask_of_undelivered(store, events).await;
    time_of("the oldest event", async |_| {
        store.oldest_event().await.unwrap().map_or(0, |_| 1)
    })
    .await;
    time_of("to forget 1000 events and attempts", async |_| {
        let retention = Retention {
            events_before: time(events / 5),
            attempts_before: time(events / 5),
        };
        let forgotten = store.forget(&retention, 1_000).await.unwrap();
        usize::try_from(forgotten.events).unwrap()
    })
    .await;
}

async fn ask_of_deliveries(store: &Store, events: u64) {
    use DeliveryState::{Dead, Delivered, Pending};
    let old = Some(time(events / 10));
    for (what, endpoint, state, until) in [
        ("all", None, None, None),
        ("to a big endpoint", Some(0), None, None),
        ("to a small endpoint", Some(7), None, None),
        ("to a small endpoint, until long ago", Some(7), None, old),
        ("to no endpoint", Some(7_777), None, None),
        ("dead", None, Some(Dead), None),
        ("pending", None, Some(Pending), None),
        ("delivered", None, Some(Delivered), None),
        ("dead until long ago", None, Some(Dead), old),
        ("dead to a big endpoint", Some(0), Some(Dead), None),
        ("dead to a small endpoint", Some(7), Some(Dead), None),
        ("delivered to a big endpoint", Some(0), Some(Delivered), None),
    ] {
        let filter = DeliveryFilter {
            endpoint: endpoint.map(self::endpoint),
            state,
            since: None,
            until,
        };
        time_of(&format!("deliveries {what}"), async |_| {
            store.logged_deliveries(&filter, None, 100).await.unwrap().len()
        })
        .await;
    }
    for (what, endpoint) in [("big", endpoint(0)), ("small", endpoint(7))] {
        for (share, since) in [("all", time(0)), ("the last tenth", time(events / 10 * 9))] {
            time_of(&format!("stats of {share} of a {what} endpoint"), async |_| {
                let stats = store.attempt_stats(&endpoint, since).await.unwrap();
                usize::try_from(stats.delivered + stats.failed).unwrap()
            })
            .await;
        }
        time_of(&format!("under way to a {what} endpoint"), async |_| {
            let under_way = store.under_way(&endpoint).await.unwrap();
            usize::try_from(under_way.pending + under_way.retrying).unwrap()
        })
        .await;
    }
}

async fn ask_of_undelivered(store: &Store, events: u64) {
    for (what, whom, pattern, since) in [
        ("a big endpoint of everything", 0, "#", 0),
        (
            "a big endpoint of everything in the last tenth",
            0,
            "#",
            events / 10 * 9,
        ),
        ("a big endpoint of half of the types", 0, "shop0.#", 0),
        ("a small endpoint of everything", 7, "#", 0),
        ("a small endpoint of a rare type", 7, "*.*.t12", 0),
    ] {
        let of = Undelivered {
            endpoint: endpoint(whom),
            selection: Selection::of_types(vec![pattern.parse().unwrap()]),
            since: time(since),
            until: None,
            waiting_too: true,
        };
        time_of(&format!("undelivered to {what}, counted"), async |_| {
            usize::try_from(store.count_undelivered(&of).await.unwrap()).unwrap()
        })
        .await;
        time_of(&format!("undelivered to {what}, 100 of them"), async |_| {
            store.undelivered(&of, 0, 100).await.unwrap().len()
        })
        .await;
    }
}

async fn time_of(what: &str, question: impl AsyncFn(u64) -> usize) {
    let mut times = Vec::new();
    let mut answer = 0;
    for n in 0..9 {
        let started = Instant::now();
        answer = question(n).await;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{:8.1} ms, at most {:8.1} ms: {what} ({answer})",
        times[4], times[8]
    );
}
