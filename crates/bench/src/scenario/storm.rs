//! How late retries are when many are due at once.

use std::time::Duration;

use relay_testkit::private_broker;
use serde_json::json;

use super::Scale;
use crate::{
    event::Events,
    numbers::per_mille,
    receiver::{Answers, Receiver},
    relay::{self, Door},
    report::Figure,
};

const EVENTS: usize = 20_000;
const ROUNDS: usize = 3;
const FAILURES: u32 = 2;
const DELAY: Duration = Duration::from_secs(1);

pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let count = scale.events(EVENTS);
    let (mut p50, mut p99, mut most) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=scale.rounds(ROUNDS) {
        let late: Vec<Duration> = storm(count).await;
        p50.push(per_mille(late.clone(), 500) / 1000.0);
        p99.push(per_mille(late.clone(), 990) / 1000.0);
        most.push(per_mille(late, 1000) / 1000.0);
        println!(
            "    round {round}: p99 {:.3} s late, all delivered",
            p99[round - 1]
        );
    }
    vec![
        Figure::new("a retry beyond its delay, p99", "s late", &p99).at_most(1.0),
        Figure::new("a retry beyond its delay, p50", "s late", &p50),
        Figure::new("a retry beyond its delay, the latest", "s late", &most),
    ]
}

/// How much later than its delay each retry came. Returns when every event was delivered.
async fn storm(count: usize) -> Vec<Duration> {
    let broker = private_broker().await;
    let world = relay::start(&broker).await;
    let receiver = Receiver::start(1, Answers::Failing(FAILURES)).await;
    // More retries than are needed, for an attempt may be made twice.
    let settings = json!({"types": ["#"], "max_in_flight": 100, "retry": ["1s", "1s", "1s", "1s"]});
    relay::add(&world, &receiver, 0, settings).await;
    relay::consumed(&world, 1).await;
    let events = Events::new(count);
    receiver.expect(&events);
    relay::publish(&world, Door::Amqp, &events).await;
    receiver.arrived(count).await;
    let returns = receiver.returns().into_iter();
    returns.map(|after| after.saturating_sub(DELAY)).collect()
}
