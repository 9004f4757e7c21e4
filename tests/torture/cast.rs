//! The relay's real processes, each with wires of its own that can be cut.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use relay_testkit::{Process, Proxy};
use relay_tests::TOKEN;
use tokio::time::sleep;

use crate::plan::Role;

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

/// How often each process is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What a process runs with.
pub(crate) struct Script {
    pub(crate) role: Role,
    pub(crate) number: usize,
    pub(crate) namespace: String,
    /// The nodes of the broker.
    pub(crate) brokers: Vec<String>,
    pub(crate) store: String,
    /// Whether the store is a server, which is reached by a wire.
    pub(crate) store_is_remote: bool,
    /// Where its logs go.
    pub(crate) folder: PathBuf,
    pub(crate) log: String,
}

/// One process, through all its lives.
pub(crate) struct Actor {
    pub(crate) role: Role,
    pub(crate) number: usize,
    /// To the broker.
    pub(crate) broker: Proxy,
    /// To the database, if that is a server.
    pub(crate) database: Option<Proxy>,
    /// From clients, to a gateway.
    pub(crate) front: Option<Proxy>,
    script: Script,
    /// Held while it is down; one fault at a time ends it.
    stage: tokio::sync::Mutex<()>,
    life: Mutex<Life>,
}

/// What is known of it at present and in all.
#[derive(Default)]
struct Life {
    process: Option<Arc<Process>>,
    lives: usize,
    metrics: Option<String>,
    ready: bool,
    /// Since when it is not ready.
    unready_since: Option<Instant>,
    longest_unready: Duration,
    most_memory_kb: u64,
    /// Ends that nobody asked for.
    ended_by_itself: Vec<String>,
}

/// What is reported of a process in the end.
pub(crate) struct Past {
    pub(crate) longest_unready: Duration,
    pub(crate) most_memory_kb: u64,
    pub(crate) ended_by_itself: Vec<String>,
}

impl Actor {
    pub(crate) async fn hire(script: Script) -> Self {
        let broker = Proxy::start_among(&script.brokers).await;
        let database = match script.store_is_remote {
            true => Some(Proxy::start(&script.store).await),
            false => None,
        };
        let front = match script.role {
            Role::Gateway => Some(Proxy::start(NOWHERE).await),
            _ => None,
        };
        Self {
            role: script.role,
            number: script.number,
            broker,
            database,
            front,
            script,
            stage: tokio::sync::Mutex::default(),
            life: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.role.as_str(), self.number + 1)
    }

    /// Starts it, and returns at once.
    pub(crate) fn start(&self) {
        let store = self.database.as_ref().map(Proxy::url);
        let store = store.unwrap_or_else(|| self.script.store.clone());
        let settings = [
            ("RELAY_AMQP_URL", self.broker.url()),
            ("RELAY_NAMESPACE", self.script.namespace.clone()),
            ("RELAY_STORE_URL", store),
            ("RELAY_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
            ("RELAY_LOG_FORMAT", "json".to_owned()),
            ("RELAY_LOG", self.script.log.clone()),
            ("RELAY_RECHECK", "1s".to_owned()),
            ("RELAY_BACKLOG_INTERVAL", "1s".to_owned()),
            ("RELAY_DRAIN_TIMEOUT", "5s".to_owned()),
            ("RELAY_LISTEN", "127.0.0.1:0".to_owned()),
            ("RELAY_TOKEN", TOKEN.to_owned()),
        ];
        let of_role = |name: &str| match self.role {
            Role::Gateway => !matches!(name, "RELAY_BACKLOG_INTERVAL" | "RELAY_DRAIN_TIMEOUT"),
            _ => !matches!(name, "RELAY_LISTEN" | "RELAY_TOKEN"),
        };
        let settings: Vec<(&str, &str)> = settings
            .iter()
            .filter(|(name, _)| of_role(name))
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let process = Process::spawn(&format!("relay-{}", self.role.as_str()), &settings, &[]);
        let mut life = self.life();
        life.process = Some(Arc::new(process));
        life.lives += 1;
        life.metrics = None;
        life.unready_since.get_or_insert_with(Instant::now);
        life.ready = false;
    }

    /// Ends it by SIGKILL, or asks it to end, and starts it again after a while.
    pub(crate) async fn fall(&self, kill: bool, down: Duration) {
        let _alone = self.stage.lock().await;
        // Without it in its place, its end is no surprise.
        let Some(process) = self.retire() else { return };
        if kill {
            process.kill_9();
        } else {
            process.terminate();
        }
        let end = process.wait_exit().await;
        self.write_log(&process);
        if !kill && !end.success() {
            self.life()
                .ended_by_itself
                .push(format!("asked to end, it ended with {end}"));
        }
        sleep(down).await;
        self.start();
    }

    fn retire(&self) -> Option<Arc<Process>> {
        let mut life = self.life();
        life.ready = false;
        life.unready_since.get_or_insert_with(Instant::now);
        life.metrics = None;
        life.process.take()
    }

    /// Looks at it now and then, for ever.
    pub(crate) async fn watch(&self) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        loop {
            sleep(LOOK).await;
            self.look(&client).await;
        }
    }

    async fn look(&self, client: &reqwest::Client) {
        let Some(process) = self.life().process.clone() else {
            return;
        };
        if let Some(end) = process.exit_status() {
            // Unless it was retired meanwhile.
            if self.retire_if(&process) {
                self.write_log(&process);
                self.life()
                    .ended_by_itself
                    .push(format!("it ended by itself: {end}"));
                self.start();
            }
            return;
        }
        let memory = memory_kb(process.pid()).unwrap_or_default();
        let metrics = self.addresses(&process);
        let ready = match metrics {
            Some(metrics) => is_ready(client, &metrics).await,
            None => false,
        };
        let mut life = self.life();
        life.most_memory_kb = life.most_memory_kb.max(memory);
        if !life
            .process
            .as_ref()
            .is_some_and(|present| Arc::ptr_eq(present, &process))
        {
            return;
        }
        life.ready = ready;
        if ready {
            let unready = life
                .unready_since
                .take()
                .map_or(Duration::ZERO, |since| since.elapsed());
            life.longest_unready = life.longest_unready.max(unready);
        } else {
            life.unready_since.get_or_insert_with(Instant::now);
        }
    }

    fn retire_if(&self, process: &Arc<Process>) -> bool {
        let mut life = self.life();
        let is_present = life
            .process
            .as_ref()
            .is_some_and(|present| Arc::ptr_eq(present, process));
        if is_present {
            life.process = None;
        }
        is_present
    }

    /// Where it serves its metrics; leads its clients to where it listens.
    fn addresses(&self, process: &Process) -> Option<String> {
        if let Some(known) = self.life().metrics.clone() {
            return Some(known);
        }
        let lines = process.lines();
        let said = |name: &str| lines.iter().find_map(|line| field(line, name));
        if let Some(front) = &self.front {
            front.lead_to(said("address")?);
        }
        let metrics = said("metrics")?;
        let mut life = self.life();
        if life
            .process
            .as_ref()
            .is_some_and(|present| std::ptr::eq(&**present, process))
        {
            life.metrics = Some(metrics.clone());
        }
        Some(metrics)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.life().ready
    }

    /// Where it serves its metrics, once that is known.
    pub(crate) fn metrics(&self) -> Option<String> {
        self.life().metrics.clone()
    }

    pub(crate) fn past(&self) -> Past {
        let life = self.life();
        let unready = life.unready_since.map_or(Duration::ZERO, |since| since.elapsed());
        Past {
            longest_unready: life.longest_unready.max(unready),
            most_memory_kb: life.most_memory_kb,
            ended_by_itself: life.ended_by_itself.clone(),
        }
    }

    /// From here on only what comes later counts: the first start is no recovery.
    pub(crate) fn forget_the_start(&self) {
        self.life().longest_unready = Duration::ZERO;
    }

    /// No wire of it is in any trouble.
    pub(crate) fn heal(&self) {
        let wires = [Some(&self.broker), self.database.as_ref(), self.front.as_ref()];
        for wire in wires.into_iter().flatten() {
            wire.freeze(false);
            wire.refuse(false);
        }
    }

    /// Writes down what it has said in its present life.
    pub(crate) fn write_last_log(&self) {
        let process = self.life().process.clone();
        if let Some(process) = process {
            self.write_log(&process);
        }
    }

    fn write_log(&self, process: &Process) {
        let name = format!("{}.{}.log", self.name(), self.life().lives);
        let path = self.script.folder.join(name);
        fs::write(&path, process.output()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn is_ready(client: &reqwest::Client, metrics: &str) -> bool {
    let asked = client
        .get(format!("http://{metrics}/ready"))
        .timeout(Duration::from_secs(2));
    asked
        .send()
        .await
        .is_ok_and(|answer| answer.status().is_success())
}

/// A field of a log line.
fn field(line: &str, name: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let value = line.get(name).or_else(|| line["fields"].get(name))?;
    value.as_str().map(str::to_owned)
}

/// The memory a process holds, in KiB; none on systems without `/proc`.
fn memory_kb(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
