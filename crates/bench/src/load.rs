//! What is published, by which door, and how fast it arrives.

use std::time::{Duration, Instant};

use relay_event::{Event, Timestamp};
use relay_testkit::{Receiver, wait_until_within};
use relay_tests::World;
use serde_json::json;
use tokio::task::JoinSet;

/// Publishes over AMQP awaiting their confirm at once.
pub(crate) const WINDOW: usize = 500;

/// Connections to the gateway, each with one request at a time.
const CONNECTIONS: usize = 64;

/// As long as a machine full of other work may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// How events are published.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Door {
    /// Over AMQP, to the exchange.
    Amqp,
    /// Over HTTP, so many in a request.
    Http(usize),
}

/// An event of about 1 KiB.
pub(crate) fn event(number: usize) -> Event {
    let event = json!({
        "specversion": "1.0", "id": format!("event-{number:08}"), "source": "/bench", "type": "order.created",
        "datacontenttype": "application/json", "data": {"number": number, "padding": "x".repeat(850)},
    });
    Event::parse(event.to_string().into()).unwrap()
}

/// Deliveries a second, from the first publish to the last arrival, to so many endpoints of the world.
pub(crate) async fn deliver(world: &World, door: Door, endpoints: usize, events: usize) -> f64 {
    let mut receivers = Vec::new();
    for _ in 0..endpoints {
        let receiver = Receiver::start().await;
        let settings = json!({"max_in_flight": 100});
        world.api.add(&receiver, &["#"], settings).await;
        receivers.push(receiver);
    }
    let began = Instant::now();
    match door {
        Door::Amqp => publish_amqp(world, events).await,
        Door::Http(batch) => publish_http(world, events, batch).await,
    }
    arrived(&receivers.iter().collect::<Vec<_>>(), events).await;
    rate(events * endpoints, began)
}

async fn publish_amqp(world: &World, events: usize) {
    let session = world.session().await;
    let mut publishers = JoinSet::new();
    for first in 0..WINDOW {
        let session = session.clone();
        publishers.spawn(async move {
            for number in (first..events).step_by(WINDOW) {
                let event = event(number);
                let published = session.publish_event(&event, Timestamp::now());
                published.await.unwrap();
            }
        });
    }
    publishers.join_all().await;
    session.close().await;
}

async fn publish_http(world: &World, events: usize, batch: usize) {
    let requests = events.div_ceil(batch);
    let mut clients = JoinSet::new();
    for first in 0..CONNECTIONS {
        let api = world.api.clone();
        clients.spawn(async move {
            for request in (first..requests).step_by(CONNECTIONS) {
                let numbers = request * batch..((request + 1) * batch).min(events);
                let (content_type, body) = body(numbers, batch);
                let answer = api.post_event(content_type, body).await;
                assert_eq!(answer.status(), 202);
            }
        });
    }
    clients.join_all().await;
}

fn body(numbers: std::ops::Range<usize>, batch: usize) -> (&'static str, String) {
    let text = |number| String::from_utf8(event(number).body().to_vec()).unwrap();
    let events: Vec<String> = numbers.map(text).collect();
    if batch == 1 {
        ("application/cloudevents+json", events.concat())
    } else {
        let list = format!("[{}]", events.join(","));
        ("application/cloudevents-batch+json", list)
    }
}

/// Waits until each has so many requests.
pub(crate) async fn arrived(receivers: &[&Receiver], count: usize) {
    wait_until_within(PATIENCE, "all deliveries", || async {
        let least = receivers.iter().map(|receiver| receiver.count()).min();
        let least = least.unwrap_or_default();
        (least >= count).then_some(()).ok_or(least)
    })
    .await;
}

#[allow(clippy::cast_precision_loss, reason = "a count of events")]
pub(crate) fn rate(count: usize, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
