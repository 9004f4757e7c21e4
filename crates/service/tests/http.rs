//! Health and metrics over real connections.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{net::SocketAddr, time::Duration};

use relay_service::{Health, bind, metrics, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

struct Served {
    address: SocketAddr,
    health: Health,
    shutdown: CancellationToken,
    server: JoinHandle<prometheus::Result<()>>,
}

async fn served() -> Served {
    let listener = bind("127.0.0.1:0".parse().unwrap(), "--metrics-listen")
        .await
        .unwrap();
    let (health, shutdown) = (Health::default(), CancellationToken::new());
    Served {
        address: listener.local_addr().unwrap(),
        server: tokio::spawn(serve(
            listener,
            metrics::registry(),
            health.clone(),
            shutdown.clone(),
        )),
        health,
        shutdown,
    }
}

/// The answer's status, headers and body.
async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn live_while_it_serves_and_ready_when_its_parts_are() {
    let served = served().await;
    let broker = served.health.component("broker");
    let (status, _, body) = get(served.address, "/live").await;
    assert_eq!((status, body.as_str()), (200, "ok"));

    let (status, head, body) = get(served.address, "/ready").await;
    assert_eq!(status, 503);
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(
        body,
        r#"{"ready":false,"components":{"broker":{"ready":false,"reason":"starting"}}}"#
    );

    broker.ready();
    let (status, _, body) = get(served.address, "/ready").await;
    assert_eq!(status, 200);
    assert_eq!(body, r#"{"ready":true,"components":{"broker":{"ready":true}}}"#);

    broker.not_ready("connection refused");
    assert_eq!(get(served.address, "/ready").await.0, 503);
    assert_eq!(get(served.address, "/live").await.0, 200);
    assert_eq!(get(served.address, "/else").await.0, 404);
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let served = served().await;
    let (status, head, body) = get(served.address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        body.contains(&format!("relay_build_info{{version=\"{version}\"}} 1\n")),
        "{body}"
    );
    let started = body
        .lines()
        .find_map(|line| line.strip_prefix("process_start_time_seconds "))
        .unwrap();
    assert!(started.parse::<f64>().unwrap() > 1.7e9, "{started}");
}

#[tokio::test]
async fn a_client_that_asks_by_halves_does_not_hold_up_the_end() {
    let served = served().await;
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(b"GET /live HT").await.unwrap();
    assert_eq!(get(served.address, "/live").await.0, 200);
    served.shutdown.cancel();
    served.server.await.unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

/// Half a head would else be kept for as long as somebody likes.
#[tokio::test]
async fn half_a_head_is_answered_408() {
    let served = served().await;
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(b"GET /live HT").await.unwrap();
    let mut answer = String::new();
    let answered = timeout(Duration::from_secs(60), slow.read_to_string(&mut answer)).await;
    assert!(answered.is_ok(), "still open after a minute");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn beyond_64_connections_the_longest_idle_makes_room() {
    let served = served().await;
    let mut held = Vec::new();
    for _ in 0..65 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(b"GET /live HT").await.unwrap();
        held.push(stream);
    }
    let mut answer = String::new();
    let ended = timeout(
        Duration::from_secs(60),
        held.remove(0).read_to_string(&mut answer),
    )
    .await;
    assert!(ended.is_ok(), "still open after a minute");
    assert_eq!(answer, "", "it made room, and was not too slow");
    assert_eq!(get(served.address, "/live").await.0, 200);
}
