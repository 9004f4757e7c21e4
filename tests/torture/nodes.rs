//! The broker: one node, or three of them.

use std::{collections::BTreeMap, path::Path, time::Duration};

use futures_util::future::join_all;
use relay_testkit::{Epmd, PrivateBroker, private_broker, private_cluster};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{sleep, timeout},
};

use crate::{plan::Fall, run::copy_files};

/// How long a fault waits for the one before it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The broker's nodes. One fault at a time, so that never more than one node is down, unless all are.
pub(crate) struct Nodes {
    nodes: Mutex<Vec<PrivateBroker>>,
    urls: Vec<String>,
    /// Outlives the nodes.
    _epmd: Option<Epmd>,
}

/// What is in queues and not ready to be taken.
#[derive(Default)]
pub(crate) struct Held {
    /// By a channel, or between a delay and where it leads.
    pub(crate) by_somebody: Vec<String>,
    /// Taken, by the queue's account, and by no channel's: for consumers that are no more.
    pub(crate) by_nobody: Vec<String>,
}

impl Nodes {
    /// One that stands alone.
    pub(crate) async fn single() -> Self {
        Self::of(vec![private_broker().await], None)
    }

    /// Three.
    pub(crate) async fn cluster() -> Self {
        let (nodes, epmd) = private_cluster().await;
        Self::of(nodes, Some(epmd))
    }

    fn of(nodes: Vec<PrivateBroker>, epmd: Option<Epmd>) -> Self {
        let urls = nodes.iter().map(|node| node.amqp_url().to_owned()).collect();
        Self {
            nodes: Mutex::new(nodes),
            urls,
            _epmd: epmd,
        }
    }

    /// Where to reach each node.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The nodes, all of them up as long as this is held; nothing if the trouble they are in lasts.
    pub(crate) async fn turn(&self) -> Option<MutexGuard<'_, Vec<PrivateBroker>>> {
        timeout(PATIENCE, self.nodes.lock()).await.ok()
    }

    /// A node ends and is started again.
    pub(crate) async fn fall(&self, fall: Fall, target: usize, down: Duration) -> bool {
        let Some(mut nodes) = self.turn().await else {
            return false;
        };
        let target = target % nodes.len();
        let node = &mut nodes[target];
        match fall {
            Fall::Kill => node.kill().await,
            Fall::Stop => node.stop().await,
        }
        sleep(down).await;
        start(node).await;
        true
    }

    /// A node does nothing for longer than the others wait for it, and is then killed, as a watchdog
    /// does: one that just goes on would not know that it was missed, and keep to bindings of the past.
    pub(crate) async fn isolate(&self, target: usize, lasts: Duration) -> bool {
        let Some(mut nodes) = self.turn().await else {
            return false;
        };
        let target = target % nodes.len();
        let node = &mut nodes[target];
        node.freeze(true);
        sleep(lasts).await;
        node.kill().await;
        start(node).await;
        true
    }

    /// All nodes at once, and all of them started again.
    pub(crate) async fn kill_all(&self) -> bool {
        let Some(mut nodes) = self.turn().await else {
            return false;
        };
        join_all(nodes.iter_mut().map(PrivateBroker::kill)).await;
        // None of them serves before it has found the others.
        join_all(nodes.iter_mut().map(start)).await;
        true
    }

    /// Stops and starts each, so that every queue gets another leader: it returns what is held for nobody.
    pub(crate) async fn move_leaders(&self) {
        for target in 0..self.urls.len() {
            self.fall(Fall::Stop, target, Duration::ZERO).await;
        }
    }

    /// Raises the alarm for want of memory, and clears it.
    pub(crate) async fn alarm(&self, target: usize, lasts: Duration) -> bool {
        let Some(nodes) = self.turn().await else {
            return false;
        };
        let node = &nodes[target % nodes.len()];
        node.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"])
            .await;
        sleep(lasts).await;
        node.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
        true
    }

    /// Sees to it that every queue has a member on each node; otherwise a run would prove little.
    pub(crate) async fn check(&self) {
        #[derive(Debug, Deserialize)]
        struct Queue {
            name: String,
            members: Vec<String>,
        }
        let nodes = self.nodes.lock().await;
        let mut queues: Vec<Row> = list(&nodes[0], "list_queues", &["name", "type", "members"]).await;
        queues.retain(|queue| queue["type"] == "quorum");
        assert!(!queues.is_empty(), "the relay has queues");
        for queue in queues {
            let queue: Queue = serde_json::from_value(serde_json::to_value(queue).unwrap()).unwrap();
            assert_eq!(
                queue.members.len(),
                nodes.len(),
                "members of {}: {:?}",
                queue.name,
                queue.members
            );
        }
    }

    /// What is in queues and not ready to be taken, as the nodes count every five seconds.
    pub(crate) async fn held(&self) -> Held {
        let nodes = self.nodes.lock().await;
        let columns = ["name", "messages", "messages_ready", "messages_unacknowledged"];
        let queues: Vec<Row> = list(&nodes[0], "list_queues", &columns).await;
        let channels: Vec<Row> = list(&nodes[0], "list_channels", &["name", "messages_unacknowledged"]).await;
        let mut held = Held::default();
        for queue in &queues {
            let taken = count(queue, "messages_unacknowledged");
            let between = count(queue, "messages").saturating_sub(count(queue, "messages_ready") + taken);
            if between > 0 {
                held.by_somebody.push(format!(
                    "{between} of {} on their way to another queue",
                    queue["name"]
                ));
            }
            if taken > 0 {
                held.by_nobody
                    .push(format!("{taken} of {} taken and not settled", queue["name"]));
            }
        }
        for channel in &channels {
            let taken = count(channel, "messages_unacknowledged");
            if taken > 0 {
                held.by_somebody
                    .push(format!("{taken} taken by channel {}", channel["name"]));
            }
        }
        if !held.by_somebody.is_empty() {
            held.by_somebody.append(&mut held.by_nobody);
        }
        held
    }

    /// Copies what the nodes have written of themselves.
    pub(crate) async fn copy_logs(&self, to: &Path) {
        for (number, node) in self.nodes.lock().await.iter().enumerate() {
            copy_files(&node.folder().join("log"), to, &format!("broker-{}.", number + 1));
        }
    }
}

type Row = BTreeMap<String, serde_json::Value>;

/// Of what is not running the nodes have no numbers.
fn count(row: &Row, column: &str) -> u64 {
    row[column].as_u64().unwrap_or_default()
}

async fn list(node: &PrivateBroker, what: &str, columns: &[&str]) -> Vec<Row> {
    let list = ["--quiet", "--formatter", "json", what];
    let said = node.ctl(&[&list, columns].concat()).await;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Starts a node, and returns when it has started to the end: it answers before that.
async fn start(node: &mut PrivateBroker) {
    node.start().await;
    node.ctl(&["await_startup"]).await;
}
