//! What keeping the log costs delivery.

use relay_testkit::private_broker;
use relay_tests::{Database, World};
use serde_json::json;

use super::Scale;
use crate::{
    event::Events,
    receiver::{Answers, Receiver},
    relay::{self, Door},
    report::Figure,
};

const EVENTS: usize = 20_000;
const ROUNDS: usize = 3;

/// Without a recorder the archive only fills. PostgreSQL is the tests' server, whose `fsync` is off.
const KINDS: [(Option<Database>, &str); 3] = [
    (None, "without a recorder"),
    (Some(Database::Sqlite), "recorder on SQLite"),
    (Some(Database::Postgres), "recorder on PostgreSQL (no fsync)"),
];

/// One endpoint, events over AMQP.
pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let mut rates = [const { Vec::new() }; KINDS.len()];
    let broker = private_broker().await;
    for round in 1..=scale.rounds(ROUNDS) {
        for ((kind, name), rates) in KINDS.iter().zip(&mut rates) {
            let rate = measure(broker.amqp_url(), *kind, scale.events(EVENTS)).await;
            println!("    round {round}, {name}: {rate:.0} deliveries/s");
            rates.push(rate);
        }
    }
    let without = rates[0].clone();
    let of_kind = |((_, name), rates): (&(_, &str), &Vec<f64>)| {
        let against = format!("{name}, against without one");
        let ratio = Figure::ratio(against, rates, &without);
        [Figure::new(*name, "deliveries/s", rates), ratio]
    };
    KINDS.iter().zip(&rates).flat_map(of_kind).collect()
}

async fn measure(amqp_url: &str, kind: Option<Database>, events: usize) -> f64 {
    let mut world = World::calm(amqp_url, kind.unwrap_or(Database::Sqlite)).await;
    world.add_deliverer().await;
    if kind.is_some() {
        world.add_recorder().await;
    }
    let receiver = Receiver::start(1, Answers::AtOnce).await;
    let settings = json!({"types": ["#"], "max_in_flight": 100});
    relay::add(&world, &receiver, 0, settings).await;
    relay::deliver(&world, &[receiver], Door::Amqp, &Events::new(events)).await
}
