//! The world a journey happens in: the relay's real processes on a real broker, in a namespace and
//! a folder of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

/// A producer that is not ours.
pub mod amqp;
mod api;

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use relay_broker::{DeadLetters, Queue, Session};
use relay_event::DeadLetter;
use relay_store::Store;
use relay_testkit::{Process, Proxy, namespace, shared_broker, wait_until};
use tempfile::TempDir;

pub use amqp::Producer;
pub use api::{Added, Api, TOKEN};

/// One relay: a gateway, and as many deliverers as the journey starts.
pub struct World {
    /// The broker as the processes see it.
    pub amqp_url: String,
    /// The first word of its exchanges and queues.
    pub namespace: String,
    /// Its HTTP API.
    pub api: Api,
    /// Its store.
    pub store_url: String,
    looks: Looks,
    dir: TempDir,
    gateway: Process,
    /// Running deliverers, oldest first.
    pub deliverers: Vec<Process>,
    /// Running recorders, oldest first.
    pub recorders: Vec<Process>,
}

/// Which database keeps a world's endpoints and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// A file in the world's folder.
    Sqlite,
    /// A database of its own on the server all journeys share.
    Postgres,
}

/// How often a world's processes look for what nobody told them.
type Looks = [(&'static str, &'static str); 2];

/// Often, since journeys wait for what is found by looking.
const BRISK: Looks = [("RELAY_RECHECK", "1s"), ("RELAY_BACKLOG_INTERVAL", "200ms")];

/// As the processes do unless they are told otherwise.
const CALM: Looks = [("RELAY_RECHECK", "60s"), ("RELAY_BACKLOG_INTERVAL", "15s")];

impl World {
    /// A gateway and one deliverer on the broker all journeys share.
    pub async fn start() -> Self {
        let mut world = Self::without_deliverer(shared_broker().await).await;
        world.add_deliverer().await;
        world
    }

    /// A gateway, a deliverer and a recorder, with everything kept in this database.
    pub async fn recorded(database: Database) -> Self {
        let mut world = Self::on(shared_broker().await, database).await;
        world.add_deliverer().await;
        world.add_recorder().await;
        world
    }

    /// A gateway alone.
    pub async fn without_deliverer(amqp_url: &str) -> Self {
        Self::on(amqp_url, Database::Sqlite).await
    }

    /// A gateway alone, with everything kept in this database.
    pub async fn on(amqp_url: &str, database: Database) -> Self {
        Self::looking(BRISK, amqp_url, database).await
    }

    /// The same, for measurements: its processes look around no more often than they would elsewhere.
    pub async fn calm(amqp_url: &str, database: Database) -> Self {
        Self::looking(CALM, amqp_url, database).await
    }

    async fn looking(looks: Looks, amqp_url: &str, database: Database) -> Self {
        let dir = TempDir::new().unwrap();
        let store_url = match database {
            Database::Sqlite => sqlite(&dir),
            Database::Postgres => relay_testkit::database().await,
        };
        Self::with(amqp_url, dir, store_url, looks).await
    }

    /// A gateway alone, whose store is elsewhere.
    pub async fn with_store(store_url: &str) -> Self {
        let dir = TempDir::new().unwrap();
        Self::with(shared_broker().await, dir, store_url.to_owned(), BRISK).await
    }

    async fn with(amqp_url: &str, dir: TempDir, store_url: String, looks: Looks) -> Self {
        relay_service::install_crypto();
        let namespace = namespace();
        let gateway = start_gateway(&environment(amqp_url, &namespace, &store_url, looks), &[]);
        let api = Api::new(&address(&gateway).await);
        api.wait_until_ready(&metrics_address(&gateway).await).await;
        let amqp_url = amqp_url.to_owned();
        Self {
            amqp_url,
            namespace,
            api,
            store_url,
            looks,
            dir,
            gateway,
            deliverers: Vec::new(),
            recorders: Vec::new(),
        }
    }

    /// A gateway, and a deliverer whose wire to the broker can be cut.
    pub async fn behind_a_proxy() -> (Self, Proxy) {
        let url = shared_broker().await;
        let proxy = Proxy::start(url).await;
        let mut world = Self::without_deliverer(url).await;
        world.amqp_url = proxy.url();
        world.add_deliverer().await;
        (world, proxy)
    }

    /// Starts another gateway, at an address of its own.
    pub fn another_gateway(&self) -> Process {
        self.another_gateway_with(&[])
    }

    /// The same, with settings of its own.
    pub fn another_gateway_with(&self, settings: &[(&str, &str)]) -> Process {
        start_gateway(&self.environment(), settings)
    }

    /// Starts another deliverer, and waits until it is ready.
    pub async fn add_deliverer(&mut self) -> &Process {
        self.add_deliverer_with(&[]).await
    }

    /// The same, with settings of its own.
    pub async fn add_deliverer_with(&mut self, settings: &[(&str, &str)]) -> &Process {
        let deliverer = start("relay-deliverer", &self.environment(), settings);
        self.api
            .wait_until_ready(&metrics_address(&deliverer).await)
            .await;
        self.deliverers.push(deliverer);
        self.deliverers.last().unwrap()
    }

    /// Starts another recorder, and waits until it is ready.
    pub async fn add_recorder(&mut self) -> &Process {
        let recorder = start("relay-recorder", &self.environment(), &[]);
        self.api.wait_until_ready(&metrics_address(&recorder).await).await;
        self.recorders.push(recorder);
        self.recorders.last().unwrap()
    }

    /// The world's store, opened beside its processes.
    pub async fn store(&self) -> Store {
        Store::open(&self.store_url.parse().unwrap()).await.unwrap()
    }

    /// What every process of this world is told.
    pub fn environment(&self) -> Environment {
        environment(&self.amqp_url, &self.namespace, &self.store_url, self.looks)
    }

    /// Kills the gateway and starts another at the same address.
    pub async fn replace_gateway(&mut self) {
        self.gateway.kill_9();
        let same = [("RELAY_LISTEN", self.api.address())];
        self.gateway = start_gateway(&self.environment(), &same);
        let metrics = metrics_address(&self.gateway).await;
        self.api.wait_until_ready(&metrics).await;
    }

    /// The gateway's process.
    pub fn gateway(&self) -> &Process {
        &self.gateway
    }

    /// Where the relay keeps its endpoints.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// A connection of the journey's own.
    pub async fn session(&self) -> Session {
        let config = relay_broker::Config {
            url: self.amqp_url.parse().unwrap(),
            namespace: self.namespace.parse().unwrap(),
            name: "journey".to_owned(),
            new_queue_wait: std::time::Duration::ZERO,
            max_event_bytes: relay_event::DEFAULT_MAX_EVENT_BYTES,
        };
        Session::open(&config, None).await.unwrap()
    }

    /// A producer that speaks AMQP.
    pub async fn producer(&self) -> Producer {
        Producer::connect(&self.amqp_url, &self.namespace).await
    }

    /// Messages ready in one of the relay's queues.
    pub async fn waiting(&self, queue: Queue) -> u32 {
        let session = self.session().await;
        let depth = session.depth(queue).await.unwrap();
        session.close().await;
        depth.map_or(0, |depth| depth.ready)
    }

    /// The ids of all events on their way to the log; they stay there.
    pub async fn archived(&self) -> BTreeSet<String> {
        let count = self.waiting(Queue::Archive).await;
        let session = self.session().await;
        let mut archive = session.consume(Queue::Archive, u16::MAX).await.unwrap();
        let (mut held, mut ids) = (Vec::new(), BTreeSet::new());
        for _ in 0..count {
            let mut taken = archive.next().await.unwrap();
            let event = taken.read(&session, usize::MAX).event.unwrap();
            ids.insert(event.id().to_string());
            held.push(taken);
        }
        session.close().await;
        ids
    }

    /// Waits until this many deliveries are held for an endpoint, those that are being sent on not counted.
    pub async fn wait_until_held(&self, endpoint: &str, wanted: impl Fn(u64) -> bool) {
        let store = self.store().await;
        wait_until("what is held", || async {
            let held = store.waiting_by_endpoint().await.unwrap().endpoints;
            let of_it = held.into_iter().filter(|held| held.endpoint.as_str() == endpoint);
            let held = of_it
                .flat_map(|held| held.by_reason)
                .map(|(_, count)| count)
                .sum();
            wanted(held).then_some(()).ok_or(held)
        })
        .await;
    }

    /// Waits for this many dead letters and reads them; they stay in their queue.
    pub async fn dead_letters(&self, count: u32) -> Vec<DeadLetter> {
        wait_until("the dead letters", || async {
            let waiting = self.waiting(Queue::Dead).await;
            if waiting >= count {
                Ok(())
            } else {
                Err(format!("{waiting} of {count}"))
            }
        })
        .await;
        let session = self.session().await;
        let mut letters = DeadLetters::open(&session).await.unwrap();
        let mut read = Vec::new();
        while let Some(message) = letters.next().await.unwrap() {
            read.push(message.letter.clone());
            letters.keep(message).await.unwrap();
        }
        session.close().await;
        read
    }

    /// Runs the person's tool against this relay, to its end.
    pub async fn cli(&self, args: &[&str]) -> Process {
        let relay = self.cli_started(args);
        relay.wait_exit().await;
        relay
    }

    /// Starts the person's tool against this relay.
    pub fn cli_started(&self, args: &[&str]) -> Process {
        self.cli_with(&[], args)
    }

    /// The same with settings of its own.
    pub fn cli_with(&self, more: &[(&str, &str)], args: &[&str]) -> Process {
        let data = self.dir.path().join("cli");
        let settings = [
            ("RELAY_URL", self.api.url()),
            ("RELAY_TOKEN", api::TOKEN),
            ("RELAY_AMQP_URL", &self.amqp_url),
            ("RELAY_NAMESPACE", &self.namespace),
            ("RELAY_DATA", data.to_str().unwrap()),
        ];
        Process::spawn("relay", &[&settings[..], more].concat(), args)
    }
}

/// Settings by their names.
pub type Environment = [(&'static str, String); 8];

fn environment(amqp_url: &str, namespace: &str, store_url: &str, looks: Looks) -> Environment {
    let [recheck, backlog] = looks.map(|(name, value)| (name, value.to_owned()));
    [
        ("RELAY_AMQP_URL", amqp_url.to_owned()),
        ("RELAY_NAMESPACE", namespace.to_owned()),
        ("RELAY_STORE_URL", store_url.to_owned()),
        ("RELAY_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
        ("RELAY_LOG_FORMAT", "json".to_owned()),
        // Every world begins with new queues, and those that kill the broker do so later.
        ("RELAY_NEW_QUEUE_WAIT", "0s".to_owned()),
        recheck,
        backlog,
    ]
}

fn sqlite(dir: &TempDir) -> String {
    format!("sqlite:{}", dir.path().join("relay.db").display())
}

fn start(name: &str, environment: &[(&'static str, String)], settings: &[(&str, &str)]) -> Process {
    let common = environment.iter().map(|(name, value)| (*name, value.as_str()));
    let all: Vec<(&str, &str)> = common.chain(settings.iter().copied()).collect();
    Process::spawn(name, &all, &[])
}

fn start_gateway(environment: &Environment, settings: &[(&str, &str)]) -> Process {
    let always = [
        ("RELAY_LISTEN", "127.0.0.1:0"),
        ("RELAY_TOKEN", api::TOKEN),
        // All clients of a world share its token, and measurements have thousands.
        ("RELAY_STREAMS_PER_TOKEN", "4000"),
    ];
    start("relay-gateway", environment, &[&always[..], settings].concat())
}

/// Where a gateway takes requests, once it does.
pub async fn address(gateway: &Process) -> String {
    let line = gateway
        .wait_for_line(|line| line.contains("taking requests"))
        .await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    field(&line, "address")
}

/// Where a daemon serves its metrics, by its first log line.
pub async fn metrics_address(process: &Process) -> String {
    let line = process.wait_for_line(|line| line.contains("\"metrics\"")).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    field(&line, "metrics")
}

/// Changes a limit of a running process; `limit` is an option of `prlimit`, such as `--nofile=3:`.
pub fn limit(process: &Process, limit: &str) {
    let pid = process.pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, limit]).status();
    assert!(status.unwrap().success(), "{limit}");
}

fn field(line: &serde_json::Value, name: &str) -> String {
    let value = line.get(name).or_else(|| line["fields"].get(name));
    value
        .and_then(serde_json::Value::as_str)
        .unwrap_or_else(|| panic!("no {name} in {line}"))
        .to_owned()
}
