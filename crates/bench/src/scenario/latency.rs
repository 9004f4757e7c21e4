//! How long an event takes from its publishing to its receiver.

use std::time::Duration;

use relay_testkit::{namespace, private_broker};

use super::Scale;
use crate::{
    event::Events,
    floor::Floor,
    numbers::per_mille,
    publish::Producer,
    receiver::{Answers, Receiver},
    relay::{self, Door},
    report::Figure,
};

const EVENTS: usize = 10_000;
const ROUNDS: usize = 3;

pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let broker = private_broker().await;
    let events = Events::new(scale.events(EVENTS));
    let most = {
        let (world, receiver) = relay::start_with_one(&broker).await;
        relay::deliver(&world, &[receiver], Door::Amqp, &events).await
    };
    let rate = most / 4.0;
    println!("    {most:.0} deliveries/s at most; measured at {rate:.0} events/s");
    let (mut floor, mut relay) = (Percentiles::default(), Percentiles::default());
    for _ in 0..scale.rounds(ROUNDS) {
        {
            let (namespace, receiver) = (namespace(), Receiver::start(1, Answers::AtOnce).await);
            let _floor = Floor::start(broker.amqp_url(), &namespace, vec![receiver.url(0)]).await;
            let producer = Producer::connect(broker.amqp_url(), &namespace).await;
            floor.add("the floor", times(&producer, &receiver, &events, rate).await);
        }
        let (world, receiver) = relay::start_with_one(&broker).await;
        let producer = Producer::connect(&world.amqp_url, &world.namespace).await;
        relay.add("the relay", times(&producer, &receiver, &events, rate).await);
    }
    vec![
        Figure::ratio("p50 against the floor's", &relay.p50, &floor.p50).at_most(1.5),
        Figure::ratio("p99 against the floor's", &relay.p99, &floor.p99).at_most(1.5),
        Figure::new("the relay's p50", "ms", &relay.p50),
        Figure::new("the relay's p99", "ms", &relay.p99),
        Figure::new("the floor's p50", "ms", &floor.p50),
        Figure::new("the floor's p99", "ms", &floor.p99),
        Figure::new("measured at", "events/s", &[rate]),
    ]
}

/// How long each event took at this rate, from when it was meant to be sent: if sending falls behind,
/// that counts as well.
pub(super) async fn times(
    producer: &Producer,
    receiver: &Receiver,
    events: &Events,
    rate: f64,
) -> Vec<Duration> {
    receiver.expect(events);
    let due = producer.publish_at(events, rate).await;
    receiver.arrived(events.count()).await;
    let arrivals = receiver.arrivals().into_iter().flatten();
    arrivals.zip(due).map(|(arrived, due)| arrived - due).collect()
}

/// Those of each round, in milliseconds.
#[derive(Default)]
pub(super) struct Percentiles {
    pub(super) p50: Vec<f64>,
    pub(super) p99: Vec<f64>,
}

impl Percentiles {
    pub(super) fn add(&mut self, name: &str, times: Vec<Duration>) {
        let (p50, p99) = (per_mille(times.clone(), 500), per_mille(times, 990));
        println!("    {name}: p50 {p50:.2} ms, p99 {p99:.2} ms");
        self.p50.push(p50);
        self.p99.push(p99);
    }
}
