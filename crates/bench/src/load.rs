//! What is published, and how fast it arrives.

use std::time::{Duration, Instant};

use relay_broker::Session;
use relay_event::{Event, Timestamp};
use relay_testkit::{Receiver, wait_until_within};
use relay_tests::World;
use serde_json::json;
use tokio::task::JoinSet;

/// Publishes awaiting their confirm at once.
const WINDOW: usize = 500;

/// As long as a machine full of other work may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// An event of about 1 KiB.
fn event(number: usize) -> Event {
    let event = json!({
        "specversion": "1.0", "id": format!("event-{number:08}"), "source": "/bench", "type": "order.created",
        "datacontenttype": "application/json", "data": {"number": number, "padding": "x".repeat(850)},
    });
    Event::parse(event.to_string().into()).unwrap()
}

/// Publishes so many events over AMQP, each confirmed.
async fn publish(session: &Session, count: usize) {
    let mut publishers = JoinSet::new();
    for first in 0..WINDOW {
        let session = session.clone();
        publishers.spawn(async move {
            for number in (first..count).step_by(WINDOW) {
                session
                    .publish_event(&event(number), Timestamp::now())
                    .await
                    .unwrap();
            }
        });
    }
    publishers.join_all().await;
}

/// Deliveries a second, from the first publish to the last arrival.
pub(crate) async fn deliver(world: &World, count: usize) -> f64 {
    let receiver = Receiver::start().await;
    let settings = json!({"max_in_flight": 100});
    world.api.add(&receiver, &["#"], settings).await;
    let session = world.session().await;
    let began = Instant::now();
    publish(&session, count).await;
    wait_until_within(PATIENCE, "all deliveries", || async {
        let arrived = receiver.count();
        (arrived >= count).then_some(()).ok_or(arrived)
    })
    .await;
    let took = began.elapsed();
    session.close().await;
    #[allow(clippy::cast_precision_loss, reason = "a count of events")]
    let rate = count as f64 / took.as_secs_f64();
    rate
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
