//! Connections: how many there may be, and of whom.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::gateway::{Gateway, TOKEN, answered, head, rest, until_published};

const HALF_A_HEAD: &[u8] = b"GET /v1/feed HTTP/1.1\r\nx: ";

/// Holds so many connections, each with half a head.
async fn crowd(gateway: &Gateway, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(gateway.connect(HALF_A_HEAD).await);
    }
    held
}

/// A connection that has been answered, and may ask again.
async fn with_token(gateway: &Gateway) -> TcpStream {
    let mut stream = gateway.connect(&head("GET", "/v1/consumers", TOKEN, 0, "")).await;
    let answer = answered(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream
}

/// Whoever runs a process may lower its limit of files at any moment.
#[tokio::test]
async fn strangers_leave_the_files_that_the_relay_needs() {
    let gateway = Gateway::start(&[]).await;
    gateway.limit("--nofile=300:");
    let held = crowd(&gateway, 320).await;
    until_published(&gateway).await;
    let files = gateway.files();
    assert!(files < 300 - 100, "{files} of 300 files are open");
    drop(held);
}

#[tokio::test]
async fn beyond_the_limit_a_connection_is_refused_with_503() {
    let gateway = Gateway::start(&[("RELAY_MAX_CONNECTIONS", "4")]).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(with_token(&gateway).await);
    }
    let refused = rest(gateway.connect(HALF_A_HEAD).await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("retry-after: "), "{refused}");
    assert!(refused.contains("RELAY_MAX_CONNECTIONS"), "{refused}");
    assert_eq!(gateway.limited("connections").await, 1.0);
    let series = r#"relay_http_connections{server="gateway",token="good"}"#;
    assert_eq!(gateway.metric(series).await, Some(4.0));
    drop(held);
    until_published(&gateway).await;
}

#[tokio::test]
async fn of_those_without_a_token_the_longest_idle_makes_room() {
    let gateway = Gateway::start(&[("RELAY_MAX_CONNECTIONS", "8")]).await;
    let mut known = with_token(&gateway).await;
    let mut held = crowd(&gateway, 3).await;
    // The third takes the place of the first, and so on.
    assert_eq!(rest(held.remove(0)).await, "");
    assert!(gateway.limited("without_token").await >= 1.0);
    for _ in 0..3 {
        until_published(&gateway).await;
    }
    known
        .write_all(&head("GET", "/v1/consumers", TOKEN, 0, "connection: close\r\n"))
        .await
        .unwrap();
    let answer = rest(known).await;
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn strangers_come_a_few_a_second_and_clients_with_a_token_as_they_like() {
    let gateway = Gateway::start(&[("RELAY_CONNECTIONS_WITHOUT_TOKEN", "10")]).await;
    for _ in 0..30 {
        let answer = gateway.publish().await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }
    assert_eq!(gateway.limited("without_token_a_second").await, 0.0);
    let _strangers = crowd(&gateway, 30).await;
    let answer = gateway.publish().await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert!(gateway.limited("without_token_a_second").await > 0.0);
}

#[tokio::test]
async fn an_address_has_a_limit_of_its_own() {
    let settings = [
        ("RELAY_CONNECTIONS_PER_ADDRESS", "3"),
        ("RELAY_SHARED_NETWORKS", "none"),
    ];
    let gateway = Gateway::start(&settings).await;
    let held = crowd(&gateway, 3).await;
    let refused = rest(gateway.connect(HALF_A_HEAD).await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("retry-after: "), "{refused}");
    assert!(refused.contains("RELAY_CONNECTIONS_PER_ADDRESS"), "{refused}");
    assert_eq!(gateway.limited("address").await, 1.0);
    drop(held);
    until_published(&gateway).await;
}

/// A reverse proxy on the same machine has one address for all its clients.
#[tokio::test]
async fn this_machine_has_no_limit_by_address() {
    let gateway = Gateway::start(&[("RELAY_CONNECTIONS_PER_ADDRESS", "3")]).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(with_token(&gateway).await);
    }
    until_published(&gateway).await;
}

/// The address for operating has a limit of its own, and takes nothing from the gateway.
#[tokio::test]
async fn the_address_for_operating_is_limited_too() {
    let gateway = Gateway::start(&[]).await;
    let before = gateway.files();
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(gateway.metrics).await.unwrap();
        let _ = stream.write_all(HALF_A_HEAD).await;
        held.push(stream);
    }
    until_published(&gateway).await;
    assert!(gateway.admin("/live").await.starts_with("HTTP/1.1 200"));
    let files = gateway.files();
    assert!(files < before + 120, "{before} files, then {files}");
}
