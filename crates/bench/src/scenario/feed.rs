//! How soon the feed tells what was recorded, and what those who wait for it cost.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use relay_testkit::{PrivateBroker, private_broker, wait_until_within};
use relay_tests::{Database, World, metrics_address};
use reqwest::Method;
use tokio::time::sleep;

use super::{Scale, latency::Percentiles};
use crate::{
    event::Events,
    follower::Follower,
    http,
    publish::Producer,
    receiver::PATIENCE,
    relay,
    report::Figure,
    usage::{Usage, memory},
};

const EVENTS: usize = 500;
const ROUNDS: usize = 3;
const CLIENTS: usize = 2_000;

/// Slow enough that one event is everywhere before the next.
const RATE: f64 = 10.0;

/// With some heartbeats in it.
const WATCHED: Duration = Duration::from_secs(60);

const POLLS: usize = 50_000;

const CONNECTED_AT_ONCE: usize = 64;

/// Events that somebody follows, and those of which there are none.
const TYPES: (&str, &str) = ("bench.%23", "other.%23");

pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let mut measured = Measured::default();
    for _ in 0..scale.rounds(ROUNDS) {
        round(scale, &mut measured).await;
    }
    measured.figures()
}

#[derive(Default)]
struct Measured {
    alone: Percentiles,
    beside: Percentiles,
    kib: Vec<f64>,
    percent: Vec<f64>,
    everybody: Percentiles,
    known: Vec<f64>,
    unknown: Vec<f64>,
    bare: Vec<f64>,
}

impl Measured {
    fn figures(&self) -> Vec<Figure> {
        let clients = CLIENTS;
        vec![
            Figure::ratio(
                format!("beside {clients} idle streams: p50 against alone"),
                &self.beside.p50,
                &self.alone.p50,
            ),
            Figure::ratio("p99 against alone", &self.beside.p99, &self.alone.p99),
            Figure::new("one stream alone: p50", "ms", &self.alone.p50),
            Figure::new("p99", "ms", &self.alone.p99),
            Figure::new(
                format!("beside {clients} idle streams: p50"),
                "ms",
                &self.beside.p50,
            ),
            Figure::new("p99", "ms", &self.beside.p99),
            Figure::new(format!("all of {clients} get it: p50"), "ms", &self.everybody.p50),
            Figure::new("p99", "ms", &self.everybody.p99),
            Figure::new("memory of the gateway for an idle stream", "KiB", &self.kib),
            Figure::new(
                format!("the gateway with {clients} idle streams"),
                "% of a core",
                &self.percent,
            ),
            Figure::ratio(
                "idle polls with a tag against the barest answer",
                &self.known,
                &self.bare,
            ),
            Figure::ratio("idle polls without against it", &self.unknown, &self.bare),
            Figure::new("idle polls with a tag", "/s", &self.known),
            Figure::new("the barest answer", "/s", &self.bare),
        ]
    }
}

async fn round(scale: Scale, measured: &mut Measured) {
    let events = Events::new(scale.events(EVENTS));
    let broker = private_broker().await;
    let mut world = World::calm(broker.amqp_url(), Database::Sqlite).await;
    world.add_recorder().await;
    // There is something in the log when it is asked where it ends.
    let lone = [Follower::start(&world, TYPES.0).await];
    followed(&world, 1).await;
    measured.alone.add("alone", times(&world, &lone, &events).await);
    poll(&world, measured).await;

    let before = memory(world.gateway().pid(), "VmRSS");
    let idle = follow(&world, TYPES.1).await;
    #[allow(clippy::cast_precision_loss, reason = "a count of clients")]
    let kib = (memory(world.gateway().pid(), "VmRSS") - before) * 1024.0 / CLIENTS as f64;
    measured.kib.push(kib);
    measured.percent.push(cpu(&world, &broker).await);
    let next = events.of_round(1);
    measured
        .beside
        .add("beside idle streams", times(&world, &lone, &next).await);
    drop(idle);
    followed(&world, 1).await;

    let everybody = follow(&world, TYPES.0).await;
    let next = events.of_round(2);
    measured
        .everybody
        .add("everybody", times(&world, &everybody, &next).await);
}

/// From when each event was meant to be sent until each of these clients had it.
async fn times(world: &World, clients: &[Follower], events: &Events) -> Vec<Duration> {
    clients.iter().for_each(Follower::forget);
    let producer = Producer::connect(&world.amqp_url, &world.namespace).await;
    let due = producer.publish_at(events, RATE).await;
    let mut times = Vec::new();
    for client in clients {
        let arrived = client.arrived(events.count()).await;
        times.extend(arrived.iter().zip(&due).map(|(arrived, due)| *arrived - *due));
    }
    times
}

async fn follow(world: &World, types: &str) -> Vec<Follower> {
    let connecting = stream::iter(0..CLIENTS).map(|_| Follower::start(world, types));
    let clients = connecting.buffer_unordered(CONNECTED_AT_ONCE).collect().await;
    followed(world, CLIENTS + 1).await;
    clients
}

/// Waits until so many streams are open.
async fn followed(world: &World, count: usize) {
    let address = metrics_address(world.gateway()).await;
    let line = format!("relay_feed_followers{{how=\"stream\"}} {count}\n");
    wait_until_within(PATIENCE, "the streams to be open", || async {
        world.api.metrics(&address).await.contains(&line)
    })
    .await;
}

/// What the gateway takes of a core with nothing to tell.
async fn cpu(world: &World, broker: &PrivateBroker) -> f64 {
    let (before, began) = (relay::usage(world, broker), Instant::now());
    sleep(WATCHED).await;
    let spent: Vec<(&str, f64)> = Usage::cpu_since(&relay::usage(world, broker), &before);
    let gateway = spent.iter().find(|(name, _)| *name == "gateway").unwrap();
    100.0 * gateway.1 / began.elapsed().as_secs_f64()
}

/// Asks for what comes after the end, as a client that knows and as one that does not; and for nothing.
async fn poll(world: &World, measured: &mut Measured) {
    let page = world.api.json(Method::GET, "/v1/feed?after=now", None).await;
    let path = format!("/v1/feed?after={}", page["next"].as_str().unwrap());
    let answer = world.api.call(Method::GET, &path, None).await;
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let known = format!("if-none-match: {tag}\r\n");
    for (rates, path, headers, code) in [
        (&mut measured.bare, "/v1/nothing", "", 404),
        (&mut measured.known, &path, &known, 304),
        (&mut measured.unknown, &path, "", 200),
    ] {
        let rate = http::ask(world, POLLS, path, headers, code).await;
        println!("    {code}: {rate:.0} a second");
        rates.push(rate);
    }
}
