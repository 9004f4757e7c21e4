//! What keeping the log costs delivery.

use relay_testkit::private_broker;
use relay_tests::{Database, World};

use crate::{
    cpu,
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

/// One endpoint, events over AMQP: without a recorder the archive only fills.
pub(crate) async fn run(args: &Args) {
    let kinds = [None, Some(Database::Sqlite), Some(Database::Postgres)];
    let mut rates = [const { Vec::new() }; 3];
    let broker = private_broker().await;
    for round in 1..=args.rounds {
        for (kind, rates) in kinds.iter().zip(&mut rates) {
            let world = world(broker.amqp_url(), *kind).await;
            let rate = deliver(&world, Door::Amqp, 1, args.events).await;
            let cpu = cpu::of(&world);
            println!(
                "round {round}, {}: {rate:.0} deliveries/s; CPU {cpu}",
                name(*kind)
            );
            rates.push(rate);
        }
    }
    let medians = rates.map(median);
    println!();
    for (kind, rate) in kinds.iter().zip(medians) {
        println!(
            "{:<34} {rate:>8.0} deliveries/s   {:.2}",
            name(*kind),
            rate / medians[0]
        );
    }
}

fn name(kind: Option<Database>) -> &'static str {
    match kind {
        None => "without a recorder",
        Some(Database::Sqlite) => "recorder on SQLite",
        // The tests' server, whose `fsync` is off.
        Some(Database::Postgres) => "recorder on PostgreSQL (no fsync)",
    }
}

async fn world(amqp_url: &str, kind: Option<Database>) -> World {
    let mut world = World::on(amqp_url, kind.unwrap_or(Database::Sqlite)).await;
    world.add_deliverer().await;
    if kind.is_some() {
        world.add_recorder().await;
    }
    world
}
