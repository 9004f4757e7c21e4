//! What endpoints that never answer cost one that does.

use relay_testkit::{PrivateBroker, private_broker};
use relay_tests::World;
use serde_json::json;

use super::{
    Scale,
    latency::{Percentiles, times},
};
use crate::{
    event::{Events, event_type},
    publish::Producer,
    receiver::{Answers, Receiver},
    relay::{self, Door},
    report::Figure,
};

const EVENTS: usize = 10_000;
const ROUNDS: usize = 3;
const HANGING: usize = 200;
const WAITING: usize = 1_000;

/// The kinds of events of the healthy one, and of those that hang.
const HEALTHY: usize = 0;
const HUNG: usize = 1;

/// What the healthy endpoint gets, in each round.
#[derive(Default)]
struct Healthy {
    rates: Vec<f64>,
    times: Percentiles,
}

pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let (mut alone, mut beside) = (Healthy::default(), Healthy::default());
    let mut peaks = Vec::new();
    for _ in 0..scale.rounds(ROUNDS) {
        let broker = private_broker().await;
        peaks.push(round(scale, &broker, &mut alone, &mut beside).await);
    }
    let hanging = scale.endpoints(HANGING);
    let name = |figure: &str| format!("{figure} beside {hanging} that hang, against alone");
    vec![
        Figure::ratio(name("p99"), &beside.times.p99, &alone.times.p99).at_most(1.3),
        Figure::ratio(name("deliveries/s"), &beside.rates, &alone.rates).at_least(0.9),
        Figure::new("p99 alone", "ms", &alone.times.p99),
        Figure::new("p99 beside them", "ms", &beside.times.p99),
        Figure::new("p50 alone", "ms", &alone.times.p50),
        Figure::new("p50 beside them", "ms", &beside.times.p50),
        Figure::new("alone", "deliveries/s", &alone.rates),
        Figure::new("beside them", "deliveries/s", &beside.rates),
        Figure::new("the deliverer's memory at its peak", "MiB", &peaks),
    ]
}

/// One relay: alone first, then with those that hang. Returns the deliverer's memory.
async fn round(scale: Scale, broker: &PrivateBroker, alone: &mut Healthy, beside: &mut Healthy) -> f64 {
    let world = relay::start(broker).await;
    let healthy = Receiver::start(1, Answers::AtOnce).await;
    let settings = json!({"types": [event_type(HEALTHY)], "max_in_flight": 100});
    relay::add(&world, &healthy, 0, settings).await;
    relay::consumed(&world, 1).await;
    let healthy = [healthy];
    let producer = Producer::connect(&world.amqp_url, &world.namespace).await;
    let events = |part: usize| Events::new(scale.events(EVENTS)).of_round(part);

    let most = relay::deliver(&world, &healthy, Door::Amqp, &events(0)).await;
    let rate = most / 4.0;
    println!("    alone: {most:.0} deliveries/s; times measured at {rate:.0} events/s");
    alone.rates.push(most);
    relay::recorded(&world).await;
    let measured = times(&producer, &healthy[0], &events(1), rate).await;
    alone.times.add("alone", measured);

    let hung = Receiver::start(scale.endpoints(HANGING), Answers::Never).await;
    hang(scale, &world, &hung, events(4).first()).await;
    let most = relay::deliver(&world, &healthy, Door::Amqp, &events(2)).await;
    println!(
        "    beside {} that hang: {most:.0} deliveries/s",
        scale.endpoints(HANGING)
    );
    beside.rates.push(most);
    relay::recorded(&world).await;
    let measured = times(&producer, &healthy[0], &events(3), rate).await;
    beside.times.add("beside them", measured);
    let peaks = relay::usage(&world, broker).peak_memory();
    let deliverer = peaks.iter().find(|(name, _)| *name == "deliverer");
    deliverer.unwrap().1
}

/// Adds the endpoints that hang, each with its events waiting, and waits until they were sent to.
async fn hang(scale: Scale, world: &World, hung: &Receiver, first: usize) {
    let hanging = scale.endpoints(HANGING);
    for port in 0..hanging {
        let settings = json!({"types": [event_type(HUNG)]});
        relay::add(world, hung, port, settings).await;
    }
    relay::consumed(world, hanging + 1).await;
    // The same events for all of them: published once, they wait in every queue.
    let events = Events::new(WAITING.min(scale.events(WAITING)));
    let events = events.from(first).of_kinds(HUNG..HUNG + 1);
    relay::publish(world, Door::Amqp, &events).await;
    hung.requested(hanging).await;
    relay::recorded(world).await;
}
