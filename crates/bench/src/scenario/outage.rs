//! How fast an endpoint that was away has what it missed.

use std::time::{Duration, Instant};

use relay_testkit::private_broker;
use serde_json::json;

use super::Scale;
use crate::{
    event::Events,
    numbers,
    receiver::{Answers, Receiver},
    relay::{self, Door},
    report::Figure,
};

const EVENTS: usize = 50_000;
const ROUNDS: usize = 3;

/// How long the endpoint is away, or longer if its events take longer to come: long enough for whoever
/// sends to it to have given up trying often.
const AWAY: Duration = Duration::from_secs(30);

/// Rates are measured until this part has arrived: what failed while the endpoint was away has its retry
/// by its schedule, after up to minutes, and says nothing of how fast a backlog drains.
const MOST: f64 = 0.9;

/// What is compared: the same backlog behind an endpoint that was paused.
pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let (mut first, mut drained, mut steady) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.rounds(ROUNDS) {
        let measured = round(scale.events(EVENTS)).await;
        println!(
            "    the first after {:.2} s, then {:.0} deliveries/s; when it was paused {:.0} deliveries/s",
            measured.first, measured.drained, measured.steady
        );
        first.push(measured.first);
        drained.push(measured.drained);
        steady.push(measured.steady);
    }
    vec![
        Figure::new("from the endpoint's return to the first delivery", "s", &first).at_most(5.0),
        Figure::ratio("drain rate against that after a pause", &drained, &steady).at_least(0.9),
        Figure::new("after the outage", "deliveries/s", &drained),
        Figure::new("after a pause", "deliveries/s", &steady),
    ]
}

struct Measured {
    first: f64,
    drained: f64,
    steady: f64,
}

async fn round(count: usize) -> Measured {
    let broker = private_broker().await;
    let world = relay::start(&broker).await;
    let mut receiver = Receiver::start(1, Answers::AtOnce).await;
    let settings = json!({"types": ["#"], "max_in_flight": 100, "paused": true});
    let id = relay::add(&world, &receiver, 0, settings).await;

    let events = Events::new(count);
    receiver.expect(&events);
    relay::publish(&world, Door::Amqp, &events).await;
    relay::recorded(&world).await;
    world.api.change(&id, json!({"paused": false})).await;
    let steady = drain(&receiver, count).await.1;
    receiver.arrived(count).await;
    relay::recorded(&world).await;

    let events = events.of_round(1);
    receiver.expect(&events);
    receiver.go_away().await;
    let over = tokio::time::Instant::now() + AWAY;
    relay::publish(&world, Door::Amqp, &events).await;
    relay::recorded(&world).await;
    tokio::time::sleep_until(over).await;
    let back = receiver.come_back();
    let (first, drained) = drain(&receiver, count).await;
    Measured {
        first: (first - back).as_secs_f64(),
        drained,
        steady,
    }
}

/// When the first arrived, and how fast most of them did from then on.
async fn drain(receiver: &Receiver, count: usize) -> (Instant, f64) {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of events"
    )]
    let most = (count as f64 * MOST) as usize;
    receiver.arrived(most).await;
    let mut arrivals: Vec<Instant> = receiver.arrivals().into_iter().flatten().collect();
    arrivals.sort_unstable();
    let (first, last) = (arrivals[0], arrivals[most - 1]);
    (first, numbers::rate(most - 1, last - first))
}
