//! The plain style, as receivers in Node take it that were written after a tutorial.

use std::path::Path;

use relay_event::Secret;
use relay_testkit::{Process, Receiver};
use relay_tests::World;
use reqwest::Method;
use serde_json::json;

/// A receiver in Node with a secret of its own, whose clock is ahead, and an endpoint there.
async fn receiver(world: &World, style: &str, ahead_ms: u64) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("journeys/plain/receiver.mjs");
    let (secret, ahead) = (Secret::generate(), ahead_ms.to_string());
    let settings = [("WEBHOOK_SECRET", secret.as_str()), ("CLOCK_AHEAD_MS", &ahead)];
    let node = std::env::var("RELAY_NODE").unwrap_or_else(|_| "node".to_owned());
    let node = Process::spawn_path(Path::new(&node), &settings, &[script.to_str().unwrap()]);
    let line = node.wait_for_line(|line| line.contains("listening on")).await;
    let port = line.rsplit(' ').next().unwrap();
    let endpoint = json!({
        "url": format!("http://127.0.0.1:{port}/webhook"), "types": ["order.*"], "retry": [],
        "signature": style, "secret": secret.as_str(),
    });
    world
        .api
        .json(Method::POST, "/v1/endpoints", Some(endpoint))
        .await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_in_node_takes_what_is_fresh_once_and_refuses_what_is_old() {
    let world = World::start().await;
    let fresh = receiver(&world, "plain", 0).await;
    let old = receiver(&world, "plain", 6 * 60 * 1_000).await;
    let event =
        r#"{"specversion":"1.0","id":"o-1","source":"/orders","type":"order.created","data":{"n":1.50}}"#;
    let producer = world.producer().await;
    producer
        .publish_structured("order.created", event.as_bytes())
        .await;
    fresh.wait_for_line(|line| line == "taken: order.created").await;
    old.wait_for_line(|line| line == "too old").await;
    producer
        .publish_structured("order.created", event.as_bytes())
        .await;
    fresh.wait_for_line(|line| line == "repeated").await;
}

/// The style of before, for receivers that count on it.
#[tokio::test(flavor = "multi_thread")]
async fn plain_seconds_says_the_time_in_seconds() {
    let world = World::start().await;
    let receivers = [Receiver::start().await, Receiver::start().await];
    for (receiver, style) in receivers.iter().zip(["plain", "plain-seconds"]) {
        let added = world.api.add(receiver, &["#"], json!({"signature": style})).await;
        assert_eq!(world.api.endpoint(&added.id).await["signature"], style);
    }
    world.api.publish("order.created", json!(1)).await;
    let mut times = Vec::new();
    for receiver in &receivers {
        let request = receiver.wait_for(1).await.remove(0);
        times.push(request.header("x-webhook-timestamp").unwrap().to_owned());
    }
    assert!(times[0].parse::<relay_event::Timestamp>().is_ok(), "{times:?}");
    assert!(times[0].ends_with('Z') && times[0].contains('T'), "{times:?}");
    assert!(times[1].bytes().all(|byte| byte.is_ascii_digit()), "{times:?}");
}
