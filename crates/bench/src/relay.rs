//! The relay to be measured: its real processes on the scenario's broker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use relay_broker::Queue;
use relay_testkit::{PrivateBroker, Process, wait_until_within};
use relay_tests::{Database, World, metrics_address};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    event::{Events, event_type},
    http, numbers,
    publish::Producer,
    receiver::{Answers, PATIENCE, Receiver},
    usage::Usage,
};

/// Endpoints that are added at once.
const ADDED_AT_ONCE: usize = 16;

/// How events are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Over AMQP, to the exchange.
    Amqp,
    /// Over HTTP, so many in a request.
    Http(usize),
}

/// A gateway, a deliverer and a recorder on SQLite.
pub(crate) async fn start(broker: &PrivateBroker) -> World {
    let mut world = World::calm(broker.amqp_url(), Database::Sqlite).await;
    world.add_deliverer().await;
    world.add_recorder().await;
    world
}

/// `relay up` with a private broker, in this folder, and with these settings.
pub(crate) async fn all_in_one(folder: &TempDir, settings: &[(&str, &str)]) -> Process {
    let server = std::env::var("RELAY_RABBITMQ_SERVER").ok();
    let mut environment = vec![("RELAY_DATA", folder.path().to_str().unwrap())];
    environment.extend(server.as_deref().map(|server| ("RELAY_RABBITMQ_SERVER", server)));
    environment.extend(settings);
    let args = ["up", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let relay = Process::spawn("relay", &environment, &args);
    wait_until_within(PATIENCE, "the relay to be ready", || async {
        assert_eq!(relay.exit_status(), None, "{}", relay.output());
        relay.output().contains("The relay is ready.")
    })
    .await;
    relay
}

/// The same, with one endpoint that takes everything at once.
pub(crate) async fn start_with_one(broker: &PrivateBroker) -> (World, Receiver) {
    let world = start(broker).await;
    let receiver = Receiver::start(1, Answers::AtOnce).await;
    let settings = json!({"types": ["#"], "max_in_flight": 100});
    add(&world, &receiver, 0, settings).await;
    (world, receiver)
}

/// Adds an endpoint at one of the receiver's ports, and returns its id.
pub(crate) async fn add(world: &World, receiver: &Receiver, port: usize, mut settings: Value) -> String {
    settings["url"] = receiver.url(port).into();
    let added = world.api.json(Method::POST, "/v1/endpoints", Some(settings));
    added.await["id"].as_str().unwrap().to_owned()
}

/// Adds so many endpoints, each with a port and a kind of events of its own, and returns the time that each took.
pub(crate) async fn add_many(world: &World, receiver: &Receiver, count: usize) -> Vec<Duration> {
    let began = Instant::now();
    let adding = stream::iter(0..count).map(|number| async move {
        let began = Instant::now();
        // What fails for want of something is not to hold up the end by minutes.
        let settings = json!({"types": [event_type(number)], "retry": vec!["5s"; 20]});
        add(world, receiver, number, settings).await;
        began.elapsed()
    });
    let times = adding.buffer_unordered(ADDED_AT_ONCE).collect().await;
    let seconds = began.elapsed().as_secs_f64();
    println!("    {count} endpoints added in {seconds:.1} s");
    times
}

/// Attempts that were answered with anything but success, or not at all.
pub(crate) async fn failed_attempts(world: &World) -> u64 {
    let attempts = of_deliverer(world, "relay_attempts_total").await;
    let failed = attempts.iter().filter(|(series, _)| !series.contains("\"2xx\""));
    failed.map(|(_, count)| count).sum()
}

/// What the deliverer says of one of its metrics, by series.
async fn of_deliverer(world: &World, name: &str) -> BTreeMap<String, u64> {
    let address = metrics_address(world.deliverers.last().unwrap()).await;
    let text = world.api.metrics(&address).await;
    let series = text.lines().filter_map(|line| line.split_once(' '));
    series
        .filter(|(series, _)| series.split('{').next() == Some(name))
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .collect()
}

/// Waits until the recorder has written down all there is.
pub(crate) async fn recorded(world: &World) {
    let session = world.session().await;
    for queue in [Queue::Archive, Queue::Records, Queue::Holds] {
        wait_until_within(PATIENCE, "the recorder", || async {
            let ready = session.depth(queue).await.unwrap().unwrap().ready;
            (ready == 0).then_some(()).ok_or(ready)
        })
        .await;
    }
    session.close().await;
}

pub(crate) async fn publish(world: &World, door: Door, events: &Events) {
    match door {
        Door::Amqp => {
            let producer = Producer::connect(&world.amqp_url, &world.namespace).await;
            producer.publish(events).await;
        }
        Door::Http(batch) => http::publish(world, events, batch).await,
    }
}

/// Deliveries a second to each of the receivers, from the first publish to the last arrival.
pub(crate) async fn deliver(world: &World, receivers: &[Receiver], door: Door, events: &Events) -> f64 {
    for receiver in receivers {
        receiver.expect(events);
    }
    let began = Instant::now();
    publish(world, door, events).await;
    let mut last = began;
    for receiver in receivers {
        last = last.max(receiver.arrived(events.count()).await);
    }
    numbers::rate(events.count(), last - began)
}

/// What the relay and its broker have used so far.
pub(crate) fn usage(world: &World, broker: &PrivateBroker) -> Usage {
    let daemons = [("deliverer", &world.deliverers), ("recorder", &world.recorders)];
    let daemons = daemons.into_iter().flat_map(|(name, all)| {
        let first = all.first();
        first.map(|process| (name, process.pid()))
    });
    let gateway = ("gateway", world.gateway().pid());
    Usage::of([("broker", broker.pid()), gateway].into_iter().chain(daemons))
}
