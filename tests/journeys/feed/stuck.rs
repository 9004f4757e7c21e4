//! Clients that ask and never read.

use std::{fs, net::SocketAddr};

use relay_testkit::{shared_broker, wait_until_within};
use relay_tests::{Database, TOKEN, World};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

use super::{
    OUTAGE,
    clients::{Reader, Way},
    end_after, until_followed,
};

/// Half of them in streams, half over sockets.
const CLIENTS: usize = 12;

/// Together far more than a connection can hold in the kernel.
const EVENTS: usize = 100;
const EVENT_BYTES: usize = 200_000;

/// What the gateway may take more for all of them, the tail of the log, and for answering others. Each of
/// them has asked for 20 MB.
const MEMORY: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_cut_off_and_costs_little() {
    let mut world = World::on(shared_broker().await, Database::Sqlite).await;
    world.add_recorder().await;
    for _ in 0..EVENTS {
        let data = json!("x".repeat(EVENT_BYTES));
        world.api.publish("order.created", data).await;
    }
    // Also the gateway has read everything once.
    let end = end_after(&world, EVENTS).await;
    let before = memory(&world);

    let mut stuck = Vec::new();
    for _ in 0..CLIENTS / 2 {
        stuck.push(never_reading(&world, "/v1/stream?after=start", "").await);
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        stuck.push(never_reading(&world, "/v1/socket?after=start", upgrade).await);
    }
    until_followed(&world, "stream", CLIENTS / 2).await;
    until_followed(&world, "socket", CLIENTS / 2).await;

    // Others get everything meanwhile.
    let reader = Reader::start(&world.api, Way::Poll);
    wait_until_within(OUTAGE, "another client to read", || async {
        reader.count() == EVENTS
    })
    .await;
    assert_eq!(reader.got()[EVENTS - 1].0, end);
    drop(reader);

    until_followed(&world, "stream", 0).await;
    until_followed(&world, "socket", 0).await;
    let after = memory(&world);
    assert!(after < before + MEMORY, "{before} bytes, then {after}");
    drop(stuck);
}

/// A client that asks for this and no more, with little room for an answer.
async fn never_reading(world: &World, path: &str, headers: &str) -> TcpStream {
    let address: SocketAddr = world.api.address().parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut connection = socket.connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {TOKEN}\r\n{headers}\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

/// The most memory that the gateway ever had.
fn memory(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.gateway().pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = peak.trim_end_matches("kB").trim().parse().unwrap();
    kib * 1024
}
