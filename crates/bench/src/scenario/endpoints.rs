//! Whether many endpoints are as fast as one.

use std::time::Instant;

use relay_testkit::{namespace, private_broker};

use super::Scale;
use crate::{
    event::Events,
    floor::Floor,
    numbers,
    publish::Producer,
    receiver::{Answers, Receiver},
    relay::{self, Door},
    report::Figure,
};

const EVENTS: usize = 20_000;
const ENDPOINTS: usize = 1_000;
const ROUNDS: usize = 3;

/// The longest time in milliseconds that adding an endpoint may take, p99.
const ADDED: f64 = 50.0;

/// One endpoint is measured before the many and after them, so that what changes with time counts for
/// neither; each on a broker of its own.
pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let mut one = to_one(scale).await;
    let (many, added) = to_many(scale).await;
    one.extend(to_one(scale).await);
    let bare = bare(scale).await;
    let endpoints = scale.endpoints(ENDPOINTS);
    let name = format!("to {endpoints} endpoints, each event to one");
    vec![
        Figure::ratio(format!("{name}, against one endpoint"), &many, &one).at_least(0.8),
        Figure::ratio(format!("{name}, against the floor"), &many, &bare),
        Figure::new(
            format!("adding one of {endpoints}, 16 at once: p99"),
            "ms",
            &[added],
        )
        .at_most(ADDED),
        Figure::new(name, "deliveries/s", &many),
        Figure::new(format!("the floor, to {endpoints} ports"), "deliveries/s", &bare),
        Figure::new("to one endpoint", "deliveries/s", &one),
    ]
}

async fn to_one(scale: Scale) -> Vec<f64> {
    let broker = private_broker().await;
    let (world, receiver) = relay::start_with_one(&broker).await;
    let events = Events::new(scale.events(EVENTS));
    measure(scale, &world, &[receiver], events).await
}

/// Deliveries a second, and the time that adding an endpoint took, p99, in milliseconds.
async fn to_many(scale: Scale) -> (Vec<f64>, f64) {
    let endpoints = scale.endpoints(ENDPOINTS);
    let broker = private_broker().await;
    let world = relay::start(&broker).await;
    let receiver = Receiver::start(endpoints, Answers::AtOnce).await;
    let added = relay::add_many(&world, &receiver, endpoints).await;
    let events = Events::new(scale.events(EVENTS)).of_kinds(0..endpoints);
    let rates = measure(scale, &world, &[receiver], events).await;
    (rates, numbers::per_mille(added, 990))
}

/// The barest loop with as many ports to post to.
async fn bare(scale: Scale) -> Vec<f64> {
    let endpoints = scale.endpoints(ENDPOINTS);
    let (broker, namespace) = (private_broker().await, namespace());
    let receiver = Receiver::start(endpoints, Answers::AtOnce).await;
    let urls = (0..endpoints).map(|port| receiver.url(port)).collect();
    let _floor = Floor::start(broker.amqp_url(), &namespace, urls).await;
    let producer = Producer::connect(broker.amqp_url(), &namespace).await;
    let events = Events::new(scale.events(EVENTS)).of_kinds(0..endpoints);
    let mut rates = Vec::new();
    for round in 0..scale.rounds(ROUNDS) {
        let events = events.of_round(round);
        receiver.expect(&events);
        let began = Instant::now();
        producer.publish(&events).await;
        let last = receiver.arrived(events.count()).await;
        rates.push(numbers::rate(events.count(), last - began));
    }
    rates
}

async fn measure(
    scale: Scale,
    world: &relay_tests::World,
    receivers: &[Receiver],
    events: Events,
) -> Vec<f64> {
    let mut rates = Vec::new();
    for round in 0..scale.rounds(ROUNDS) {
        let rate = relay::deliver(world, receivers, Door::Amqp, &events.of_round(round)).await;
        println!("    round {}: {rate:.0} deliveries/s", round + 1);
        rates.push(rate);
        relay::recorded(world).await;
    }
    rates
}
