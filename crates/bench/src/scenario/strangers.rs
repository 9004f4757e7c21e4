//! A healthy endpoint while strangers use up what they can: connections, names, pings.

use std::{collections::VecDeque, process::Stdio, time::Duration};

use futures_util::{StreamExt, stream};
use relay_tests::{Api, TOKEN};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{
    HEALTHY, OTHERS, Scale,
    latency::{Percentiles, times},
};
use crate::{
    event::{Events, event_type},
    publish::Producer,
    receiver::{Answers, Receiver},
    relay,
    report::Figure,
    usage::memory,
};

const EVENTS: usize = 3_000;
const ROUNDS: usize = 3;

/// Events a second: what strangers do is to be measured, not how much the machine can do.
const RATE: f64 = 200.0;

/// Endpoints whose names nobody answers for, and events for each of them.
const SILENT: usize = 200;
const SILENT_EVENTS: usize = 12;

/// Processes that open connections and send pings.
const FLOODS: usize = 2;

pub(super) async fn run(scale: Scale) -> Vec<Figure> {
    let (mut alone, mut elsewhere, mut beside) = (
        Percentiles::default(),
        Percentiles::default(),
        Percentiles::default(),
    );
    let (mut before, mut peaks) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds(ROUNDS) {
        // Takes every question and answers none.
        let name_server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let name_server = name_server.local_addr().unwrap().to_string();
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        let relay = relay::all_in_one(&folder, &[("RELAY_NAME_SERVERS", &name_server)]).await;
        let facts = std::fs::read(folder.path().join("relay.json")).unwrap();
        let facts: Value = serde_json::from_slice(&facts).unwrap();
        let api = Api::new(facts["url"].as_str().unwrap().trim_start_matches("http://"));
        let healthy = Receiver::start(1, Answers::AtOnce).await;
        let settings = json!({"url": healthy.url(0), "types": [event_type(HEALTHY)], "max_in_flight": 100});
        api.json(Method::POST, "/v1/endpoints", Some(settings)).await;
        let producer = Producer::connect(facts["amqp_url"].as_str().unwrap(), "relay").await;
        let events = Events::new(scale.events(EVENTS));

        alone.add("alone", times(&producer, &healthy, &events, RATE).await);
        before.push(memory(relay.pid(), "VmHWM"));

        let claims = json!({"subject": "nobody", "expires_in": "10m"});
        let token: Value = api.json(Method::POST, "/v1/access-tokens", Some(claims)).await;
        let token = token["access_token"].as_str().unwrap();
        let target = Target::start().await;
        let floods = flood(&target.address, token);
        let title = "beside strangers who come to another program";
        elsewhere.add(title, times(&producer, &healthy, &events.of_round(1), RATE).await);
        drop((floods, target));

        let silent = scale.endpoints(SILENT);
        add_silent(&api, silent).await;
        let unheard = events.of_round(3).of_kinds(OTHERS..OTHERS + 1);
        producer.publish(&unheard.part(0, SILENT_EVENTS).unwrap()).await;
        let floods = flood(api.address(), token);
        beside.add(
            "beside strangers",
            times(&producer, &healthy, &events.of_round(2), RATE).await,
        );
        peaks.push(memory(relay.pid(), "VmHWM"));
        drop(floods);
        relay.terminate();
        relay.wait_exit().await;
    }
    vec![
        Figure::ratio("p99 beside strangers, against alone", &beside.p99, &alone.p99).at_most(1.5),
        Figure::ratio(
            "p99 beside strangers, against the same at another program",
            &beside.p99,
            &elsewhere.p99,
        ),
        Figure::new("alone: p50", "ms", &alone.p50),
        Figure::new("alone: p99", "ms", &alone.p99),
        Figure::new("strangers at another program: p50", "ms", &elsewhere.p50),
        Figure::new("strangers at another program: p99", "ms", &elsewhere.p99),
        Figure::new("beside strangers: p50", "ms", &beside.p50),
        Figure::new("beside strangers: p99", "ms", &beside.p99),
        Figure::new("the relay's memory at its peak, before", "MiB", &before),
        Figure::new("the relay's memory at its peak, beside them", "MiB", &peaks),
    ]
}

async fn add_silent(api: &Api, count: usize) {
    let adding = stream::iter(0..count).for_each_concurrent(count, |number| async move {
        let settings = json!({
            "url": format!("http://n{number}.silent.test/hook"),
            "types": [event_type(OTHERS)],
            "retry": vec!["1s"; 20],
        });
        api.json(Method::POST, "/v1/endpoints", Some(settings)).await;
    });
    adding.await;
}

/// A program that takes strangers' connections and does nothing with them: as many a second as the gateway does,
/// and as many at once. With it the strangers use the machine, and not the relay.
struct Target {
    address: String,
    taking: JoinHandle<()>,
}

impl Target {
    async fn start() -> Self {
        const PAUSE: Duration = Duration::from_millis(2);
        const HELD: usize = 2_048;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let taking = tokio::spawn(async move {
            let mut held = VecDeque::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push_back(stream);
                if held.len() > HELD {
                    held.pop_front();
                }
                sleep(PAUSE).await;
            }
        });
        Self { address, taking }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.taking.abort();
    }
}

/// Starts the strangers' processes; they end when dropped. They have the lowest priority, for they would be
/// on machines of their own.
fn flood(address: &str, token: &str) -> Vec<Child> {
    let start = |_| {
        let mut flood = Command::new("nice");
        flood.args(["-n", "19"]).arg(std::env::current_exe().unwrap());
        flood.args(["--flood", address]).env("FLOOD_TOKEN", token);
        flood.stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap()
    };
    (0..FLOODS).map(start).collect()
}
