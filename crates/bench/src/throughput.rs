//! How much of the floor the relay reaches.

use relay_testkit::{PrivateBroker, private_broker};
use relay_tests::{Database, World};

use crate::{
    cpu,
    floor::Floor,
    load::{Door, deliver, median},
};

/// The settings of the scenario.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Events in each round
    #[arg(long, default_value_t = 20_000)]
    events: usize,

    /// Rounds of each kind, one after the other in turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// What is measured.
#[derive(Clone, Copy)]
enum Kind {
    Floor,
    Relay(Door),
    Fanout(usize),
}

const KINDS: [(Kind, &str, Option<f64>); 5] = [
    (Kind::Floor, "the floor", None),
    (Kind::Relay(Door::Amqp), "events over AMQP", Some(0.8)),
    (Kind::Relay(Door::Http(1)), "events over HTTP", Some(0.5)),
    (
        Kind::Relay(Door::Http(100)),
        "batches of 100 over HTTP",
        Some(0.75),
    ),
    (Kind::Fanout(10), "events over AMQP, to 10 endpoints", None),
];

/// One endpoint, the recorder on SQLite, and the floor beside it.
pub(crate) async fn run(args: &Args) {
    let mut rates = [const { Vec::new() }; KINDS.len()];
    let broker = private_broker().await;
    for round in 1..=args.rounds {
        for ((kind, name, _), rates) in KINDS.iter().zip(&mut rates) {
            let rate = measure(&broker, *kind, args.events).await;
            println!("round {round}, {name}: {rate:.0} deliveries/s");
            rates.push(rate);
        }
    }
    let medians = rates.map(median);
    println!(
        "\n{:<36} {:>14} {:>13} {:>6}",
        "", "deliveries/s", "of the floor", "goal"
    );
    for ((_, name, goal), rate) in KINDS.iter().zip(medians) {
        let goal = goal.map_or_else(String::new, |goal| format!("{goal:.2}"));
        println!("{name:<36} {rate:>14.0} {:>13.2} {goal:>6}", rate / medians[0]);
    }
    let (one, ten) = (medians[1], medians[4]);
    println!("\nto 10 endpoints against one: {:.2} (goal 1.50)", ten / one);
}

async fn measure(broker: &PrivateBroker, kind: Kind, events: usize) -> f64 {
    let (door, endpoints) = match kind {
        Kind::Floor => {
            let floor = Floor::start(broker.amqp_url(), &relay_testkit::namespace()).await;
            return floor.deliver(events).await;
        }
        Kind::Relay(door) => (door, 1),
        Kind::Fanout(endpoints) => (Door::Amqp, endpoints),
    };
    let mut world = World::on(broker.amqp_url(), Database::Sqlite).await;
    world.add_deliverer().await;
    world.add_recorder().await;
    let rate = deliver(&world, door, endpoints, events / endpoints).await;
    println!("    CPU of {} events: {}", events / endpoints, cpu::of(&world));
    rate
}
