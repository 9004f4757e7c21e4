//! How much memory the processes take at most.

use relay_testkit::private_broker;
use relay_tests::{Database, World};

use super::Scale;
use crate::{
    event::Events,
    numbers::median,
    receiver::{Answers, Receiver},
    relay::{self, Door},
    report::Figure,
};

const EVENTS: usize = 100_000;
const ENDPOINTS: usize = 1_000;
const ROUNDS: usize = 1;

/// The events come in batches over HTTP while no deliverer runs; then one starts, and finds them all
/// waiting at all endpoints at once. Each process is at its worst somewhere in between.
pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let mut rounds: Vec<Vec<(&'static str, f64)>> = Vec::new();
    for _ in 0..scale.rounds(ROUNDS) {
        rounds.push(round(scale).await);
    }
    let figure = |place: usize, name: &'static str| {
        let peaks: Vec<f64> = rounds.iter().map(|round| round[place].1).collect();
        println!("    {name}: {:.1} MiB", median(&peaks));
        let figure = Figure::new(format!("the {name} at its peak"), "MiB", &peaks);
        // What Erlang takes is not the relay's.
        if name == "broker" {
            figure
        } else {
            figure.at_most(64.0)
        }
    };
    let processes = rounds[0].iter().enumerate();
    processes.map(|(place, (name, _))| figure(place, name)).collect()
}

async fn round(scale: Scale) -> Vec<(&'static str, f64)> {
    let endpoints = scale.endpoints(ENDPOINTS);
    let events = Events::new(scale.events(EVENTS)).of_kinds(0..endpoints);
    let broker = private_broker().await;
    let mut world = World::calm(broker.amqp_url(), Database::Sqlite).await;
    world.add_recorder().await;
    let receiver = Receiver::start(endpoints, Answers::AtOnce).await;
    relay::add_many(&world, &receiver, endpoints).await;
    receiver.expect(&events);
    relay::publish(&world, Door::Http(100), &events).await;
    world.add_deliverer().await;
    receiver.arrived(events.count()).await;
    relay::recorded(&world).await;
    relay::usage(&world, &broker).peak_memory()
}
