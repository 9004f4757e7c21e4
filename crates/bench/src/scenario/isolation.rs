//! What endpoints that never answer cost one that does.

use relay_testkit::{PrivateBroker, private_broker};
use relay_tests::World;
use reqwest::Method;
use serde_json::json;

use super::{
    HEALTHY, OTHERS, Scale,
    latency::{Percentiles, times},
};
use crate::{
    event::{Events, event_type},
    publish::Producer,
    receiver::{Answers, Receiver},
    relay::{self, Door},
    report::Figure,
};

const EVENTS: usize = 10_000;
const ROUNDS: usize = 3;
const HANGING: usize = 200;
const WAITING: usize = 1_000;

/// How long an attempt at one that hangs takes: some end while the healthy one is measured.
const TIMEOUT_MS: u64 = 5_000;

/// What the healthy endpoint gets, in each round.
#[derive(Default)]
struct Healthy {
    rates: Vec<f64>,
    times: Percentiles,
    /// CPU seconds of all processes while the times were measured.
    cpu: Vec<f64>,
}

/// What it gets alone; beside queues as long, of endpoints that are paused; and beside those that hang.
#[derive(Default)]
struct Measured {
    alone: Healthy,
    paused: Healthy,
    hanging: Healthy,
    peaks: Vec<f64>,
}

pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let mut measured = Measured::default();
    for _ in 0..scale.rounds(ROUNDS) {
        let broker = private_broker().await;
        round(scale, &broker, &mut measured).await;
    }
    let Measured {
        alone,
        paused,
        hanging,
        peaks,
    } = measured;
    let others = scale.endpoints(HANGING);
    let p99 = |other: &str, to: &Healthy| {
        let name = format!("p99 beside {others} that hang, against {other}");
        Figure::ratio(name, &hanging.times.p99, &to.times.p99)
    };
    let rate = |other: &str, to: &Healthy| {
        let name = format!("deliveries/s beside {others} that hang, against {other}");
        Figure::ratio(name, &hanging.rates, &to.rates)
    };
    let mut figures = vec![
        p99("alone", &alone).at_most(1.3),
        rate("alone", &alone).at_least(0.9),
        Figure::ratio(
            "CPU for the same events beside them, against alone",
            &hanging.cpu,
            &alone.cpu,
        ),
        p99("beside as many that are paused", &paused),
        rate("beside as many that are paused", &paused),
    ];
    for (name, healthy) in [
        ("alone", &alone),
        ("beside paused", &paused),
        ("beside hanging", &hanging),
    ] {
        figures.extend([
            Figure::new(format!("{name}: p50"), "ms", &healthy.times.p50),
            Figure::new(format!("{name}: p99"), "ms", &healthy.times.p99),
            Figure::new(name, "deliveries/s", &healthy.rates),
        ]);
    }
    figures.push(Figure::new("the deliverer's memory at its peak", "MiB", &peaks));
    figures
}

/// One relay: the healthy endpoint alone first; then with others that have events waiting and are paused,
/// which tells what the broker has to bear for that; then with the same ones hanging.
async fn round(scale: Scale, broker: &PrivateBroker, measured: &mut Measured) {
    let world = relay::start(broker).await;
    let healthy = Receiver::start(1, Answers::AtOnce).await;
    let settings = json!({"types": [event_type(HEALTHY)], "max_in_flight": 100});
    relay::add(&world, &healthy, 0, settings).await;
    let producer = Producer::connect(&world.amqp_url, &world.namespace).await;
    let mut bench = Bench {
        scale,
        world: &world,
        broker,
        producer,
        healthy: [healthy],
        part: 0,
    };

    let most = bench.rate("alone", &mut measured.alone).await;
    let rate = most / 4.0;
    bench.times("alone", rate, &mut measured.alone).await;

    let hung = Receiver::start(scale.endpoints(HANGING), Answers::Never).await;
    let others = bench.fill(&hung).await;
    bench.rate("beside paused", &mut measured.paused).await;
    bench.times("beside paused", rate, &mut measured.paused).await;

    resume(&world, &others).await;
    hung.requested(others.len()).await;
    bench.rate("beside hanging", &mut measured.hanging).await;
    bench.times("beside hanging", rate, &mut measured.hanging).await;
    let peaks = relay::usage(&world, broker).peak_memory();
    let deliverer = peaks.iter().find(|(name, _)| *name == "deliverer");
    measured.peaks.push(deliverer.unwrap().1);
}

/// Measures the healthy endpoint, each time with other events.
struct Bench<'a> {
    scale: Scale,
    world: &'a World,
    broker: &'a PrivateBroker,
    producer: Producer,
    healthy: [Receiver; 1],
    part: usize,
}

impl Bench<'_> {
    fn events(&mut self) -> Events {
        self.part += 1;
        Events::new(self.scale.events(EVENTS)).of_round(self.part)
    }

    async fn rate(&mut self, name: &str, healthy: &mut Healthy) -> f64 {
        let events = self.events();
        let most = relay::deliver(self.world, &self.healthy, Door::Amqp, &events).await;
        println!("    {name}: {most:.0} deliveries/s");
        healthy.rates.push(most);
        relay::recorded(self.world).await;
        most
    }

    async fn times(&mut self, name: &str, rate: f64, healthy: &mut Healthy) {
        let events = self.events();
        let before = relay::usage(self.world, self.broker);
        let measured = times(&self.producer, &self.healthy[0], &events, rate).await;
        healthy.times.add(name, measured);
        relay::recorded(self.world).await;
        let spent = relay::usage(self.world, self.broker).cpu_since(&before);
        healthy.cpu.push(spent.iter().map(|(_, seconds)| seconds).sum());
    }

    /// Adds the other endpoints, paused, each with its events waiting.
    async fn fill(&mut self, hung: &Receiver) -> Vec<String> {
        let mut others = Vec::new();
        for port in 0..self.scale.endpoints(HANGING) {
            let settings = json!({"types": [event_type(OTHERS)], "timeout_ms": TIMEOUT_MS, "paused": true});
            others.push(relay::add(self.world, hung, port, settings).await);
        }
        // The same events for all of them: published once, they wait in every queue.
        let first = self.events().first();
        let events = Events::new(WAITING.min(self.scale.events(WAITING)));
        let events = events.from(first).of_kinds(OTHERS..OTHERS + 1);
        relay::publish(self.world, Door::Amqp, &events).await;
        relay::recorded(self.world).await;
        others
    }
}

async fn resume(world: &World, endpoints: &[String]) {
    for id in endpoints {
        let path = format!("/v1/endpoints/{id}");
        let active = json!({"paused": false});
        world.api.json(Method::PATCH, &path, Some(active)).await;
    }
}
