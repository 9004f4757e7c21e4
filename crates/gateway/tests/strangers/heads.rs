//! Heads of requests: how long they may take, and how large they may be.

use std::time::Duration;

use relay_testkit::wait_until_within;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::gateway::{Gateway, TOKEN, answered, head, rest, until_published};

#[tokio::test]
async fn half_a_head_is_answered_408() {
    let gateway = Gateway::start(&[("RELAY_HEAD_TIMEOUT", "1s")]).await;
    let answer = gateway.answer(b"GET /v1/feed HTTP/1.1\r\nx: ").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(gateway.limited("head_time").await, 1.0);
    // A client that sends nothing gets no answer.
    assert_eq!(gateway.answer(b"").await, "");
}

/// Each byte that comes must not begin the time anew.
#[tokio::test]
async fn a_head_that_drips_is_answered_408() {
    let gateway = Gateway::start(&[("RELAY_HEAD_TIMEOUT", "1s")]).await;
    let stream = gateway.connect(b"GET /v1/feed HTTP/1.1\r\nx: ").await;
    let (mut reading, mut writing) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while writing.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(60), reading.read_exact(&mut answer))
        .await
        .expect("no answer within a minute")
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    dripping.abort();
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let settings = [("RELAY_HEAD_TIMEOUT", "10m"), ("RELAY_IDLE_TIMEOUT", "1s")];
    let gateway = Gateway::start(&settings).await;
    let mut stream = gateway.connect(&head("GET", "/v1/none", TOKEN, 0, "")).await;
    let answer = answered(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let rest = rest(stream).await;
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
    assert_eq!(gateway.limited("idle").await, 1.0);
}

/// The time of a head begins with its first byte, not with the last answer.
#[tokio::test]
async fn a_second_head_has_its_whole_time() {
    let settings = [("RELAY_HEAD_TIMEOUT", "1s"), ("RELAY_IDLE_TIMEOUT", "60s")];
    let gateway = Gateway::start(&settings).await;
    let mut stream = gateway.connect(&head("GET", "/v1/none", TOKEN, 0, "")).await;
    answered(&mut stream).await;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let rest = rest(stream).await;
    assert!(rest.contains("HTTP/1.1 408"), "{rest}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431() {
    let gateway = Gateway::start(&[]).await;
    let many: String = (0..101).map(|n| format!("x-{n}: a\r\n")).collect();
    let large = format!("x: {}\r\n", "a".repeat(70_000));
    for (more, name) in [(many, "headers"), (large, "bytes")] {
        let request = format!("GET /v1/feed HTTP/1.1\r\nhost: relay\r\n{more}\r\n");
        let answer = gateway.answer(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{name}: {answer}");
        is_a_whole_problem(&answer, "head-too-large");
    }
    wait_until_within(Duration::from_secs(30), "both to be counted", || async {
        gateway.limited("head_bytes").await == 2.0
    })
    .await;
}

/// hyper answers by itself there, so no route adds the headers of every answer.
#[tokio::test]
async fn a_head_that_is_no_http_is_answered_400_with_the_headers_of_every_answer() {
    let gateway = Gateway::start(&[]).await;
    let good = head("GET", "/v1/consumers", TOKEN, 0, "");
    for bad in [
        "no request\r\n\r\n",
        "GET /v1/feed HTTP/1.1\r\nhost : relay\r\n\r\n",
    ] {
        let answer = gateway.answer(bad.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{bad:?}: {answer}");
        is_a_whole_problem(&answer, "not-http");
        // On a connection that has been answered, and right behind a good request.
        let mut stream = gateway.connect(&good).await;
        answered(&mut stream).await;
        stream.write_all(bad.as_bytes()).await.unwrap();
        let later = rest(stream).await;
        let behind = gateway.answer(&[&good, bad.as_bytes()].concat()).await;
        assert!(behind.starts_with("HTTP/1.1 200"), "{behind}");
        for answer in [later, behind] {
            let (_, refused) = answer.split_once("HTTP/1.1 400").expect(&answer);
            is_a_whole_problem(refused, "not-http");
        }
    }
}

fn is_a_whole_problem(answer: &str, kind: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    for header in [
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "content-type: application/problem+json",
    ] {
        assert!(head.lines().any(|line| line == header), "{header}: {answer}");
    }
    let problem: serde_json::Value = serde_json::from_str(body).expect(answer);
    assert_eq!(problem["type"], format!("urn:event-relay:problem:{kind}"));
}

#[tokio::test]
async fn an_address_of_more_than_8_kib_is_answered_414() {
    let gateway = Gateway::start(&[]).await;
    for length in [9_000, 60_000] {
        let path = format!("/v1/feed?types={}", "a".repeat(length));
        let answer = gateway
            .answer(&head("GET", &path, TOKEN, 0, "connection: close\r\n"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 414"), "{length}: {answer}");
    }
    assert_eq!(gateway.limited("uri_bytes").await, 2.0);
}

/// Each head may be large, but all of them together have bounds.
#[tokio::test]
async fn heads_under_way_share_their_memory() {
    let gateway = Gateway::start(&[("RELAY_HEAD_MEMORY", "1048576")]).await;
    let before = gateway.memory();
    let mut large = b"GET /v1/feed HTTP/1.1\r\nhost: relay\r\nx: ".to_vec();
    large.resize(30_000, b'a');
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..300 {
        held.push(gateway.connect(&large).await);
    }
    // Those with an ordinary head are served.
    until_published(&gateway).await;
    wait_until_within(Duration::from_secs(30), "some to be refused", || async {
        gateway.limited("head_memory").await > 200.0
    })
    .await;
    let refused = rest(held.pop().unwrap()).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("retry-after: "), "{refused}");
    let after = gateway.memory();
    assert!(after < before + (24 << 20), "{before} bytes, then {after}");
}

#[tokio::test]
async fn clients_of_old_and_clients_that_hurry_are_served() {
    let gateway = Gateway::start(&[]).await;
    let old = format!("GET /v1/consumers HTTP/1.0\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    let answer = gateway.answer(old.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    let mut hurried = head("GET", "/v1/consumers", TOKEN, 0, "").repeat(50);
    hurried.extend(head("GET", "/v1/consumers", TOKEN, 0, "connection: close\r\n"));
    let answers = gateway.answer(&hurried).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 51);
}
