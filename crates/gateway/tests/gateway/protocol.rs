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
