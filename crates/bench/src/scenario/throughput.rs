//! How much of the floor the relay reaches.

use std::time::Instant;

use relay_testkit::{PrivateBroker, namespace, private_broker};
use serde_json::json;

use super::Scale;
use crate::{
    event::Events,
    floor::Floor,
    numbers,
    publish::Producer,
    receiver::{Answers, Receiver},
    relay::{self, Door},
    report::Figure,
    usage::Usage,
};

const EVENTS: usize = 20_000;
const ROUNDS: usize = 3;
const FANOUT: usize = 10;

/// What is measured in turns.
#[derive(Clone, Copy)]
enum Kind {
    Floor,
    /// By this door, to so many endpoints.
    Relay(Door, usize),
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Floor, "the floor"),
    (Kind::Relay(Door::Amqp, 1), "events over AMQP"),
    (Kind::Relay(Door::Http(1), 1), "events over HTTP"),
    (Kind::Relay(Door::Http(100), 1), "batches of 100 over HTTP"),
    (
        Kind::Relay(Door::Amqp, FANOUT),
        "events over AMQP, to 10 endpoints",
    ),
];

/// The rounds of one kind.
#[derive(Default)]
struct Rounds {
    /// Deliveries a second.
    rates: Vec<f64>,
    /// CPU seconds of each process for 1,000 events.
    cpu: Vec<Vec<(&'static str, f64)>>,
}

pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let mut kinds: [Rounds; KINDS.len()] = Default::default();
    let broker = private_broker().await;
    for round in 1..=scale.rounds(ROUNDS) {
        for ((kind, name), rounds) in KINDS.iter().zip(&mut kinds) {
            let (rate, cpu) = measure(&broker, *kind, scale.events(EVENTS)).await;
            println!("    round {round}, {name}: {rate:.0} deliveries/s");
            rounds.rates.push(rate);
            rounds.cpu.push(cpu);
        }
    }
    let [floor, amqp, http, batches, ten] = &kinds;
    let against = |name: &str, kind: &Rounds| {
        let name = format!("{name} against the floor");
        Figure::ratio(name, &kind.rates, &floor.rates)
    };
    let mut figures = vec![
        against("events over AMQP", amqp).at_least(0.8),
        against("events over HTTP", http).at_least(0.5),
        against("batches of 100 over HTTP", batches).at_least(0.75),
        Figure::ratio("to 10 endpoints against to one", &ten.rates, &amqp.rates).at_least(1.5),
    ];
    for ((_, name), rounds) in KINDS.iter().zip(&kinds) {
        figures.push(Figure::new(*name, "deliveries/s", &rounds.rates));
        figures.extend(cpu_figures(name, &rounds.cpu));
    }
    figures
}

fn cpu_figures(name: &str, rounds: &[Vec<(&'static str, f64)>]) -> Vec<Figure> {
    let figure = |place: usize, process: &str| {
        let seconds: Vec<f64> = rounds.iter().map(|round| round[place].1).collect();
        Figure::new(format!("{name}: {process} for 1,000 events"), "CPU s", &seconds)
    };
    let processes = rounds[0].iter().enumerate();
    processes
        .map(|(place, (process, _))| figure(place, process))
        .collect()
}

async fn measure(broker: &PrivateBroker, kind: Kind, deliveries: usize) -> (f64, Vec<(&'static str, f64)>) {
    let (rate, spent, events) = match kind {
        Kind::Floor => {
            let (rate, spent) = measure_floor(broker, deliveries).await;
            (rate, spent, deliveries)
        }
        Kind::Relay(door, endpoints) => {
            let events = deliveries / endpoints;
            let (rate, spent) = measure_relay(broker, door, endpoints, events).await;
            (rate, spent, events)
        }
    };
    #[allow(clippy::cast_precision_loss, reason = "a count of events")]
    let thousands = events as f64 / 1000.0;
    let spent = spent
        .into_iter()
        .map(|(name, seconds)| (name, seconds / thousands));
    (rate, spent.collect())
}

async fn measure_floor(broker: &PrivateBroker, count: usize) -> (f64, Vec<(&'static str, f64)>) {
    let (namespace, events) = (namespace(), Events::new(count));
    let receiver = Receiver::start(1, Answers::AtOnce).await;
    let _floor = Floor::start(broker.amqp_url(), &namespace, vec![receiver.url(0)]).await;
    let producer = Producer::connect(broker.amqp_url(), &namespace).await;
    receiver.expect(&events);
    let used = || Usage::of([("broker", broker.pid())]);
    let (before, began) = (used(), Instant::now());
    producer.publish(&events).await;
    let last = receiver.arrived(count).await;
    (numbers::rate(count, last - began), used().cpu_since(&before))
}

async fn measure_relay(
    broker: &PrivateBroker,
    door: Door,
    endpoints: usize,
    count: usize,
) -> (f64, Vec<(&'static str, f64)>) {
    let world = relay::start(broker).await;
    let mut receivers = Vec::new();
    for _ in 0..endpoints {
        let receiver = Receiver::start(1, Answers::AtOnce).await;
        let settings = json!({"types": ["#"], "max_in_flight": 100});
        relay::add(&world, &receiver, 0, settings).await;
        receivers.push(receiver);
    }
    let before = relay::usage(&world, broker);
    let rate = relay::deliver(&world, &receivers, door, &Events::new(count)).await;
    // What is written down a little later is a part of what an event costs.
    relay::recorded(&world).await;
    let spent = relay::usage(&world, broker).cpu_since(&before);
    #[allow(clippy::cast_precision_loss, reason = "a count of endpoints")]
    let all = rate * endpoints as f64;
    (all, spent)
}
