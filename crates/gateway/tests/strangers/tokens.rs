//! Tokens: how many may be tried, and how much one may hold.

use relay_testkit::wait_until;

use crate::gateway::{Gateway, TOKEN, answered, head, until_published};

#[tokio::test]
async fn an_address_may_not_go_on_guessing_tokens() {
    let settings = [("RELAY_WRONG_TOKENS", "3"), ("RELAY_SHARED_NETWORKS", "none")];
    let gateway = Gateway::start(&settings).await;
    let mut known = gateway.connect(&head("GET", "/v1/none", TOKEN, 0, "")).await;
    answered(&mut known).await;
    let guess = |token| head("GET", "/v1/endpoints", token, 0, "connection: close\r\n");
    for _ in 0..3 {
        let answer = gateway.answer(&guess("wrong")).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    // The right one too: who guesses must not learn which one it is.
    for token in ["wrong", TOKEN] {
        let answer = gateway.answer(&guess(token)).await;
        assert!(answer.starts_with("HTTP/1.1 429"), "{token}: {answer}");
        assert!(answer.contains("retry-after: "), "{answer}");
    }
    assert_eq!(gateway.limited("wrong_tokens").await, 2.0);
    // A connection that has shown it goes on.
    let rest = {
        use tokio::io::AsyncWriteExt;
        known.write_all(&guess(TOKEN)).await.unwrap();
        crate::gateway::rest(known).await
    };
    assert!(rest.contains("HTTP/1.1 200"), "{rest}");
}

#[tokio::test]
async fn a_token_may_hold_so_many_streams() {
    let gateway = Gateway::start(&[("RELAY_STREAMS_PER_TOKEN", "2")]).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = gateway.connect(&head("GET", "/v1/stream", TOKEN, 0, "")).await;
        let answer = answered(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        streams.push(stream);
    }
    let socket = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (path, more) in [
        ("/v1/stream", ""),
        ("/v1/socket", socket),
        ("/v1/feed?after=now&wait=1m", ""),
    ] {
        let mut refused = gateway.connect(&head("GET", path, TOKEN, 0, more)).await;
        let answer = answered(&mut refused).await;
        assert!(answer.starts_with("HTTP/1.1 429"), "{path}: {answer}");
        assert!(answer.contains("retry-after: "), "{answer}");
    }
    assert_eq!(gateway.limited("streams_of_token").await, 3.0);
    until_published(&gateway).await;
    drop(streams);
    wait_until("room again", || async {
        let mut stream = gateway.connect(&head("GET", "/v1/stream", TOKEN, 0, "")).await;
        answered(&mut stream).await.starts_with("HTTP/1.1 200")
    })
    .await;
}

/// An event that nobody has published is waited for, and each request that waits counts.
#[tokio::test]
async fn a_wait_for_an_unknown_event_counts_as_a_stream() {
    let gateway = Gateway::start(&[("RELAY_STREAMS_PER_TOKEN", "2")]).await;
    for path in ["/v1/events/none/stream", "/v1/events/none?wait=20s"] {
        let request = head("GET", path, TOKEN, 0, "");
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(gateway.connect(&request).await);
        }
        let answers = waiting
            .iter_mut()
            .map(|stream| Box::pin(async { answered(stream).await }));
        let (first, ..) = futures_util::future::select_all(answers).await;
        assert!(first.starts_with("HTTP/1.1 429"), "{path}: {first}");
        drop(waiting);
        wait_until("room again", || async {
            let mut stream = gateway.connect(&head("GET", "/v1/stream", TOKEN, 0, "")).await;
            answered(&mut stream).await.starts_with("HTTP/1.1 200")
        })
        .await;
    }
    assert!(gateway.limited("streams_of_token").await >= 2.0);
}

#[tokio::test]
async fn streams_take_half_of_the_connections() {
    let gateway = Gateway::start(&[("RELAY_MAX_CONNECTIONS", "8")]).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = gateway.connect(&head("GET", "/v1/stream", TOKEN, 0, "")).await;
        answered(&mut stream).await;
        streams.push(stream);
    }
    let mut refused = gateway.connect(&head("GET", "/v1/stream", TOKEN, 0, "")).await;
    let answer = answered(&mut refused).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert_eq!(gateway.limited("streams").await, 1.0);
    until_published(&gateway).await;
}
