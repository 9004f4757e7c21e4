//! What holds for every path.

use relay_testkit::{shared_broker, wait_until};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::relay::{Relay, config, folder};

const ENDPOINT: &str = "/v1/endpoints/ep_0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn nothing_is_to_be_had_without_the_token() {
    let folder = folder();
    let mut config = config(shared_broker().await, &folder);
    config.token = Some("hunter2".parse().unwrap());
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    for (method, path) in [
        (Method::POST, "/v1/events"),
        (Method::GET, "/v1/events"),
        (Method::POST, "/v1/events/1/replay"),
        (Method::GET, "/v1/deliveries"),
        (Method::GET, "/v1/endpoints"),
        (Method::POST, "/v1/endpoints"),
        (Method::GET, ENDPOINT),
        (Method::PATCH, ENDPOINT),
        (Method::DELETE, ENDPOINT),
        (Method::GET, "/v1/else"),
        (Method::PUT, "/v1/events"),
    ] {
        for token in [None, Some("hunter"), Some("hunter22")] {
            let mut request = relay.request(method.clone(), path);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = relay.send(request).await;
            answer.problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert!(!answer.text.contains("hunter"), "{answer:?}");
        }
    }
    let listed = relay.request(Method::GET, "/v1/endpoints").bearer_auth("hunter2");
    assert_eq!(relay.send(listed).await.status, 200);
    assert_eq!(relay.get("/v1/openapi.json").await.status, 200);
}

#[tokio::test]
async fn errors_of_every_kind_are_problem_documents() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    for path in ["/", "/v1", "/v1/endpoints/", "/v1/else"] {
        relay.get(path).await.problem(404, "not-found");
    }
    for path in [
        ENDPOINT,
        "/v1/endpoints/7",
        "/v1/endpoints/%ff",
        "/v1/endpoints/7/secrets",
    ] {
        relay.get(path).await.problem(404, "not-found");
    }
    let rotated = format!("{ENDPOINT}/rotate-secret");
    relay
        .call(Method::POST, &rotated, json!({}))
        .await
        .problem(404, "not-found");
    relay
        .call(Method::PATCH, ENDPOINT, json!({}))
        .await
        .problem(404, "not-found");
    relay
        .delete("ep_0123456789abcdef0123456789abcdef")
        .await
        .problem(404, "not-found");

    let wrong = relay.send(relay.request(Method::PUT, "/v1/events")).await;
    wrong.problem(405, "method-not-allowed");
    let open = relay.request(Method::DELETE, "/v1/openapi.json");
    relay.send(open).await.problem(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), Some("POST,GET,HEAD"));

    for body in ["", "{", "{} {}", "\"\u{0}\"", r#"{"url": tru}"#] {
        let unreadable = relay
            .call_as(Method::POST, "/v1/endpoints", "application/json", body)
            .await;
        unreadable.problem(400, "unreadable-json");
    }
    let form = relay
        .call_as(
            Method::POST,
            "/v1/endpoints",
            "application/x-www-form-urlencoded",
            "{}",
        )
        .await;
    form.problem(415, "unsupported-media-type");
    let large = json!({"url": "x".repeat(300_000)});
    relay
        .call(Method::POST, "/v1/endpoints", large)
        .await
        .problem(413, "too-large");
}

/// A proxy must not hand an answer to another client than the one with the token, and a browser must not guess
/// its type.
#[tokio::test]
async fn every_answer_says_that_it_is_not_to_be_stored_guessed_at_or_named_elsewhere() {
    let folder = folder();
    let mut config = config(shared_broker().await, &folder);
    config.token = Some("hunter2".parse().unwrap());
    config.cors_origins = vec!["https://app.example.com".parse().unwrap()];
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    let large = "x".repeat(300_000);
    for (method, path, body, status) in [
        (Method::GET, "/v1/openapi.json", "", 200),
        (Method::GET, "/v1/endpoints", "", 200),
        (Method::GET, "/v1/events", "", 200),
        (Method::GET, "/v1/deliveries", "", 200),
        (Method::GET, "/v1/consumers", "", 200),
        (Method::GET, "/v1/feed", "", 200),
        (Method::GET, "/v1/stream", "", 200),
        (Method::POST, "/v1/events", r#"{"type":"a.b"}"#, 202),
        (Method::POST, "/v1/events", "{", 400),
        (Method::GET, "/v1/endpoints?x=1", "", 400),
        (Method::GET, "/v1/feed?x=1", "", 400),
        (Method::GET, ENDPOINT, "", 404),
        (Method::GET, "/v1/else", "", 404),
        (Method::GET, "/", "", 404),
        (Method::PUT, "/v1/feed", "", 405),
        (Method::POST, "/v1/endpoints", &large, 413),
        (Method::OPTIONS, "/v1/feed", "", 200),
    ] {
        let mut request = relay.request(method.clone(), path).bearer_auth("hunter2");
        if method == Method::OPTIONS {
            request = request
                .header("origin", "https://app.example.com")
                .header("access-control-request-method", "GET");
        }
        let request = request.header("content-type", "application/json");
        is_kept_to_itself(request.body(body.to_owned()), status, path).await;
    }
    is_kept_to_itself(relay.request(Method::GET, "/v1/feed"), 401, "without a token").await;
}

async fn is_kept_to_itself(request: reqwest::RequestBuilder, status: u16, path: &str) {
    let answer = request.send().await.unwrap();
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(answer.status(), status, "{path}");
    assert_eq!(header("cache-control"), Some("no-store"), "{path} {status}");
    assert_eq!(
        header("x-content-type-options"),
        Some("nosniff"),
        "{path} {status}"
    );
    assert_eq!(header("referrer-policy"), Some("no-referrer"), "{path} {status}");
}

#[tokio::test]
async fn requests_are_measured_by_their_route() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let count = |route, method, status| {
        relay.metric(&format!(
            r#"relay_gateway_request_duration_seconds_count{{method="{method}",route="{route}",status="{status}"}}"#
        ))
    };
    assert_eq!(count("/v1/events", "POST", 202), 0.0);
    assert_eq!(count("/v1/endpoints/{id}/recover", "POST", 202), 0.0);
    relay.publish(&["a.b"]).await;
    relay.get(ENDPOINT).await;
    relay.get("/v1/else").await;
    relay
        .send(relay.request(Method::from_bytes(b"BREW").unwrap(), "/v1/events"))
        .await;
    assert_eq!(count("/v1/events", "POST", 202), 1.0);
    assert_eq!(count("/v1/endpoints/{id}", "GET", 404), 1.0);
    assert_eq!(count("unmatched", "GET", 404), 1.0);
    assert_eq!(count("/v1/events", "other", 405), 1.0);
    assert_eq!(
        relay.metric(r#"relay_gateway_events_refused_total{reason="unconfirmed"}"#),
        0.0
    );
}

#[tokio::test]
async fn beyond_this_machine_it_does_not_start_without_a_token() {
    let folder = folder();
    let mut config = config(shared_broker().await, &folder);
    config.listen = "0.0.0.0:0".parse().unwrap();
    let refused = config.bind().await.unwrap_err().to_string();
    assert!(refused.contains("RELAY_TOKEN"), "{refused}");
    config.token = Some("hunter2".parse().unwrap());
    assert!(config.bind().await.is_ok());
}

/// A request that has begun is answered, new ones are not taken, and then it is over, also for who
/// never says what it wants.
#[tokio::test]
async fn it_finishes_what_is_under_way() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let address = relay.url.strip_prefix("http://").unwrap().to_owned();
    let body = r#"{"type":"a.b"}"#;
    let (before, after) = body.split_at(5);
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{before}",
        body.len()
    );
    let mut never = TcpStream::connect(&address).await.unwrap();
    never.write_all(b"POST /v1/ev").await.unwrap();
    let mut slow = TcpStream::connect(&address).await.unwrap();
    slow.write_all(head.as_bytes()).await.unwrap();
    // An answer on a later connection: the earlier one was taken.
    assert_eq!(relay.get("/v1/endpoints").await.status, 200);
    relay.context.shutdown.cancel();
    wait_until("no new connections", || async {
        TcpStream::connect(&address).await.is_err()
    })
    .await;
    slow.write_all(after.as_bytes()).await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    relay.running.await.unwrap().unwrap();
}
