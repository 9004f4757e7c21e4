//! Bodies of requests: how long they may take, how large they may be, and how a client learns of it.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::gateway::{Gateway, TOKEN, head, rest, until_published};

/// Sends everything before it reads anything, as many clients do.
async fn sent_first(gateway: &Gateway, head: &[u8], body: &[u8]) -> Result<String, String> {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    for part in [head, body] {
        stream
            .write_all(part)
            .await
            .map_err(|error| format!("while sending: {error}"))?;
    }
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .await
        .map_err(|error| format!("while reading: {error}"))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_client_that_sends_everything_first_learns_that_it_is_too_large() {
    let gateway = Gateway::start(&[]).await;
    let body = vec![b'a'; 12 << 20];
    for _ in 0..5 {
        let head = head("POST", "/v1/events", TOKEN, body.len(), "");
        let answer = sent_first(&gateway, &head, &body).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    // A chunked body does not say its size in advance.
    let chunked = "POST /v1/events HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n";
    let chunked = format!(
        "{chunked}authorization: Bearer {TOKEN}\r\n\r\n{:x}\r\n",
        body.len()
    );
    let answer = sent_first(&gateway, chunked.as_bytes(), &body).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

/// The same holds for every answer that comes before the body is read.
#[tokio::test]
async fn a_client_that_sends_everything_first_learns_that_its_token_is_wrong() {
    let gateway = Gateway::start(&[]).await;
    let body = vec![b'a'; 12 << 20];
    let head = head("POST", "/v1/events", "wrong", body.len(), "");
    let answer = sent_first(&gateway, &head, &body).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn a_client_that_asks_first_sends_nothing_in_vain() {
    let gateway = Gateway::start(&[]).await;
    let expecting = head("POST", "/v1/events", TOKEN, 12 << 20, "expect: 100-continue\r\n");
    let answer = gateway.answer(&expecting).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let body = br#"{"type":"a.b"}"#;
    let expecting = head(
        "POST",
        "/v1/events",
        TOKEN,
        body.len(),
        "expect: 100-continue\r\nconnection: close\r\n",
    );
    let mut stream = gateway.connect(&expecting).await;
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body).await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

/// A body may come slowly, but not this slowly.
#[tokio::test]
async fn a_body_that_drips_is_answered_408_long_before_its_time_is_over() {
    let settings = [("RELAY_BODY_TIMEOUT", "10m"), ("RELAY_HEAD_TIMEOUT", "1s")];
    let gateway = Gateway::start(&settings).await;
    let request = head("POST", "/v1/events", TOKEN, 100_000, "");
    let stream = gateway.connect(&request).await;
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
    assert_eq!(gateway.limited("body_rate").await, 1.0);
    dripping.abort();
}

#[tokio::test]
async fn a_body_that_stops_is_answered_408() {
    let gateway = Gateway::start(&[("RELAY_BODY_TIMEOUT", "1s")]).await;
    let mut request = head("POST", "/v1/events", TOKEN, 100_000, "");
    request.extend_from_slice(&[b'a'; 50_000]);
    let answer = gateway.answer(&request).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(gateway.limited("body_time").await, 1.0);
}

#[tokio::test]
async fn bodies_under_way_share_their_memory() {
    let settings = [("RELAY_BODY_MEMORY", "200000"), ("RELAY_BODY_TIMEOUT", "10m")];
    let gateway = Gateway::start(&settings).await;
    let mut request = head("POST", "/v1/events", TOKEN, 100_000, "");
    request.extend_from_slice(&[b'a'; 90_000]);
    let first = gateway.connect(&request).await;
    let second = gateway.connect(&request).await;
    relay_testkit::wait_until("both to be held", || async {
        gateway.metric("relay_gateway_body_bytes").await >= Some(180_000.0)
    })
    .await;
    let refused = gateway.answer(&request).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("retry-after: "), "{refused}");
    assert!(refused.contains("RELAY_BODY_MEMORY"), "{refused}");
    assert_eq!(gateway.limited("body_memory").await, 1.0);
    drop((first, second));
    relay_testkit::wait_until("room again", || async {
        gateway.metric("relay_gateway_body_bytes").await == Some(0.0)
    })
    .await;
    until_published(&gateway).await;
}

/// The framing of a body is limited as well as its content.
#[tokio::test]
async fn chunks_and_trailers_have_limits() {
    let gateway = Gateway::start(&[]).await;
    let start = format!(
        "POST /v1/events HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let extension = format!("{start}1;x={}\r\n{{\r\n", "a".repeat(1 << 20));
    let trailer = format!("{start}2\r\n{{}}\r\n0\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    for request in [extension, trailer] {
        let answer = sent_first(&gateway, request.as_bytes(), b"").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
}
