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
    let mut failed = Vec::new();
    for _ in 0..scale.rounds(ROUNDS) {
        let (peaks, attempts) = round(scale).await;
        rounds.push(peaks);
        failed.push(attempts);
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
    let mut figures: Vec<Figure> = processes.map(|(place, (name, _))| figure(place, name)).collect();
    figures.push(Figure::new("at endpoints that answer at once, failed", "attempts", &failed).at_most(0.0));
    figures
}

/// The memory of each process, and how many attempts failed.
#[allow(clippy::cast_precision_loss, reason = "a count of attempts")]
async fn round(scale: Scale) -> (Vec<(&'static str, f64)>, f64) {
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
    let failed = relay::failed_attempts(&world).await as f64;
    (relay::usage(&world, &broker).peak_memory(), failed)
}
