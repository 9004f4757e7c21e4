//! How late retries are when most attempts fail.

use std::time::{Duration, Instant};

use relay_testkit::private_broker;
use serde_json::json;

use super::Scale;
use crate::{
    event::Events,
    numbers::{self, per_mille},
    publish::Producer,
    receiver::{Answers, Receiver},
    relay::{self, Door},
    report::Figure,
};

const EVENTS: usize = 20_000;
const ROUNDS: usize = 3;
const FAILURES: u32 = 2;
const ATTEMPTS: usize = 3;
const DELAY: Duration = Duration::from_secs(1);

/// Attempts come at this part of the rate one endpoint can take. When more come than can be made, a
/// retry waits behind other events for its turn, and how late it is tells how long the queue is.
const LOAD: f64 = 0.5;

pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let events = Events::new(scale.events(EVENTS));
    let most = {
        let broker = private_broker().await;
        let (world, receiver) = relay::start_with_one(&broker).await;
        relay::deliver(&world, &[receiver], Door::Amqp, &events).await
    };
    #[allow(clippy::cast_precision_loss, reason = "a count of attempts")]
    let rate = most * LOAD / ATTEMPTS as f64;
    println!("    {most:.0} deliveries/s at most; events come at {rate:.0} a second");
    let (mut paced, mut burst, mut attempts) = (Late::default(), Late::default(), Vec::new());
    for _ in 0..scale.rounds(ROUNDS) {
        paced.add("at that rate", storm(&events, Some(rate)).await.0);
        let (late, seconds) = storm(&events, None).await;
        burst.add("all at once", late);
        attempts.push(numbers::rate(events.count() * ATTEMPTS, seconds));
    }
    vec![
        Figure::new("a retry beyond its delay, p99", "s late", &paced.p99).at_most(1.0),
        Figure::new("a retry beyond its delay, p50", "s late", &paced.p50),
        Figure::new("events came at", "events/s", &[rate]),
        Figure::new("all at once: a retry beyond its delay, p99", "s late", &burst.p99),
        Figure::new("all at once: until all are delivered", "attempts/s", &attempts),
    ]
}

/// How much later than its delay each retry came, and how long it took until every event was delivered.
async fn storm(events: &Events, rate: Option<f64>) -> (Vec<Duration>, Duration) {
    let broker = private_broker().await;
    let world = relay::start(&broker).await;
    let receiver = Receiver::start(1, Answers::Failing(FAILURES)).await;
    // More retries than are needed, for an attempt may be made twice.
    let settings = json!({"types": ["#"], "max_in_flight": 100, "retry": ["1s", "1s", "1s", "1s"]});
    relay::add(&world, &receiver, 0, settings).await;
    let producer = Producer::connect(&world.amqp_url, &world.namespace).await;
    receiver.expect(events);
    let began = Instant::now();
    match rate {
        Some(rate) => drop(producer.publish_at(events, rate).await),
        None => producer.publish(events).await,
    }
    let last = receiver.arrived(events.count()).await;
    let returns = receiver.returns().into_iter();
    let late = returns.map(|after| after.saturating_sub(DELAY));
    (late.collect(), last - began)
}

/// Of each round, in seconds.
#[derive(Default)]
struct Late {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Late {
    fn add(&mut self, name: &str, late: Vec<Duration>) {
        let (p50, p99) = (
            per_mille(late.clone(), 500) / 1000.0,
            per_mille(late, 990) / 1000.0,
        );
        println!("    {name}: all delivered, retries late by p50 {p50:.3} s, p99 {p99:.3} s");
        self.p50.push(p50);
        self.p99.push(p99);
    }
}
