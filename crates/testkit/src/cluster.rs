//! A RabbitMQ of three nodes on this machine.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use relay_local_broker::Member;

use crate::broker::{PrivateBroker, start_private};
use crate::folder::Folder;
use crate::port::Port;
use crate::process::Process;

const NODES: [&str; 3] = ["one@localhost", "two@localhost", "three@localhost"];

/// A node that finds itself alone stops serving until it sees another one; and it is missed after ten
/// seconds, not after 75. The first one finds no other, for which RabbitMQ 4 takes half a minute each time.
const SETTINGS: &str = "
cluster_partition_handling = pause_minority
net_ticktime = 8
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.discovery_retry_limit = 1
cluster_formation.discovery_retry_interval = 500
";

/// Who tells the nodes of a cluster where the others are; it ends when dropped.
#[derive(Debug)]
pub struct Epmd {
    _process: Process,
    _folder: Folder,
    _port: Port,
}

/// Starts a broker of three nodes for one test. Each can be stopped, killed and started by itself, as
/// long as their [`Epmd`] is there.
///
/// # Panics
/// When it does not start.
pub async fn private_cluster() -> (Vec<PrivateBroker>, Epmd) {
    let port = Port::choose().unwrap();
    let secret: String = (0..2)
        .map(|part| format!("{:016x}", RandomState::new().hash_one(part)))
        .collect();
    let epmd_port = port.number;
    let epmd = epmd(port);
    let nodes = NODES.iter().enumerate();
    let known = nodes.map(|(n, node)| format!("cluster_formation.classic_config.nodes.{} = {node}\n", n + 1));
    let settings = format!("{SETTINGS}{}", known.collect::<String>());
    let mut brokers = Vec::new();
    // One after the other: the first makes the cluster, and the others find it.
    for node in NODES {
        let member = Member {
            node: node.to_owned(),
            epmd_port,
            secret: secret.clone(),
        };
        brokers.push(start_private(&settings, Some(member)).await);
    }
    (brokers, epmd)
}

fn epmd(port: Port) -> Epmd {
    let run = format!("exec epmd -port {} -address 127.0.0.1", port.number);
    let process = Process::spawn_path(Path::new("/bin/sh"), &[], &["-c", &run]);
    let folder = Folder::new("epmd");
    folder.used_until("KILL", process.pid());
    Epmd {
        _process: process,
        _folder: folder,
        _port: port,
    }
}
