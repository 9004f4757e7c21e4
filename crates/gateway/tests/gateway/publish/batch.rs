//! Events that come together.

use std::time::Duration;

use relay_broker::Queue;
use relay_event::Event;
use relay_testkit::{Proxy, shared_broker, wait_until};
use serde_json::{Value, json};

use super::{BATCH, WHOLE, event, is_replayed, post, take};
use crate::relay::{Relay, config, folder};

#[tokio::test]
async fn a_batch_is_sent_whole_in_order_and_byte_for_byte() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let bodies: Vec<String> = (0..1_000)
        .map(|n| format!(r#"{{"data" :{n}.50 , "type":"a.b","specversion":"1.0","id":"{n}","source":"/x"}}"#))
        .collect();
    let ids: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    let batch = format!(" [{}]\n", bodies.join(" ,\n"));
    let accepted = post(&relay, BATCH, &batch).await;
    assert!(!is_replayed(&accepted));
    assert_eq!(accepted.json(), json!({"ids": ids}));
    assert_eq!(accepted.header("location"), None);
    let events = take(&relay, 1_000).await;
    let mut found: Vec<_> = events.iter().map(Event::body).collect();
    found.sort_by_key(|body| bodies.iter().position(|sent| *sent == **body));
    assert!(found.iter().zip(&bodies).all(|(found, sent)| **found == *sent));

    let again = post(&relay, BATCH, &batch).await;
    assert!(is_replayed(&again));
    assert_eq!(again.json(), json!({"ids": ids}));
    assert_eq!(relay.metric("relay_gateway_events_published_total"), 1_000.0);
    assert_eq!(relay.metric("relay_gateway_events_replayed_total"), 1_000.0);
}

#[tokio::test]
async fn a_batch_may_be_empty_and_hold_an_event_twice() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let empty = post(&relay, "application/cloudevents-batch+json; charset=utf-8", "[]").await;
    assert!(!is_replayed(&empty));
    assert_eq!(empty.json(), json!({"ids": []}));
    let twice = post(&relay, BATCH, json!([event("1"), event("2"), event("1")])).await;
    assert!(!is_replayed(&twice));
    assert_eq!(twice.json(), json!({"ids": ["1", "2", "1"]}));
    assert_eq!(relay.waiting(Queue::Work).await, 2);
}

#[tokio::test]
async fn one_bad_event_refuses_its_batch() {
    let folder = folder();
    let mut config = config(shared_broker().await, &folder);
    (config.max_event_bytes, config.max_batch_bytes) = (1_000, 3_000);
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    let with = |change: Value| {
        let mut bad = event("bad");
        bad.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        json!([event("1"), event("2"), bad]).to_string()
    };
    for (batch, status, field) in [
        (with(json!({"type": "a.*"})), 400, "[2].type"),
        (with(json!({"id": ""})), 400, "[2].id"),
        (json!([event("1"), "event"]).to_string(), 400, "[1]"),
        (event("1").to_string(), 400, "batch"),
        (r#"[{"#.to_owned(), 400, "batch"),
        (with(json!({"data": "x".repeat(1_000)})), 413, "[2]"),
    ] {
        let kind = if status == 400 { "invalid" } else { "too-large" };
        let refused = post(&relay, BATCH, &batch).await.problem(status, kind);
        assert_eq!(refused["field"], field, "{batch}: {refused}");
    }
    let long = json!(vec![event("1"); 50]);
    let refused = post(&relay, BATCH, long).await.problem(413, "too-large");
    assert!(
        refused["detail"].as_str().unwrap().contains("3000 bytes"),
        "{refused}"
    );
    let refused = post(&relay, BATCH, json!(vec![1; 1_001]))
        .await
        .problem(413, "too-large");
    assert!(
        refused["detail"].as_str().unwrap().contains("1000 events"),
        "{refused}"
    );
    assert_eq!(relay.waiting(Queue::Work).await, 0);
    let refusals = |reason| {
        relay.metric(&format!(
            "relay_gateway_events_refused_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!((refusals("invalid"), refusals("too_large")), (5.0, 3.0));
}

/// What was not confirmed is named, and the same batch again sends the rest.
#[tokio::test]
async fn a_batch_that_is_not_confirmed_is_to_be_sent_again() {
    let folder = folder();
    let proxy = Proxy::start(shared_broker().await).await;
    let mut config = config(&proxy.url(), &folder);
    config.confirm_timeout = Duration::from_secs(2);
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    assert!(!is_replayed(&post(&relay, WHOLE, event("known")).await));
    proxy.freeze(true);
    let batch = json!([event("1"), event("known"), event("2")]);
    let refused = post(&relay, BATCH, &batch).await.problem(503, "unconfirmed");
    assert_eq!(refused["ids"], json!(["1", "2"]));
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("2 of 3 events") && detail.contains("same batch"),
        "{detail}"
    );
    let many: Vec<Value> = (0..150).map(|n| event(&format!("many-{n}"))).collect();
    let refused = post(&relay, BATCH, json!(many)).await.problem(503, "unconfirmed");
    assert_eq!(refused["ids"].as_array().unwrap().len(), 100);
    proxy.freeze(false);
    wait_until("the batch to be taken", || async {
        let answer = post(&relay, BATCH, &batch).await;
        (answer.status == 202).then_some(()).ok_or(answer.text)
    })
    .await;
    wait_until("all of it", || async { relay.waiting(Queue::Work).await >= 3 }).await;
    proxy.refuse(true);
    proxy.cut();
    wait_until("the broker to be missed", || async {
        !relay.context.health.is_ready()
    })
    .await;
    // What is safe already is accepted, also now.
    assert!(is_replayed(&post(&relay, BATCH, &batch).await));
    let refused = post(&relay, BATCH, json!([event("3"), event("4")])).await;
    refused.problem(503, "broker-unavailable");
}
