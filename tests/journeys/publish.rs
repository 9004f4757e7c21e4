//! Every way in by HTTP, to the receivers: each event arrives once, and as it was sent.

use std::collections::BTreeSet;

use relay_testkit::{Answer, Receiver, Request};
use relay_tests::{Database, World};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Receives one event after the other, in their order.
async fn receiver(world: &World) -> Receiver {
    let receiver = Receiver::start().await;
    world
        .api
        .add(&receiver, &["#"], json!({"max_in_flight": 1}))
        .await;
    receiver
}

/// Everything that was published before this was asked for.
async fn received(world: &World, receiver: &Receiver) -> Vec<Request> {
    let last = world.api.publish("the.last", Value::Null).await;
    let is_last = move |request: &Request| request.event_id().as_deref() == Some(&last);
    let mut requests = receiver
        .wait_until("the last event", |requests| requests.iter().any(&is_last))
        .await;
    requests.retain(|request| !is_last(request));
    requests
}

fn whole(id: &str) -> String {
    json!({"specversion": "1.0", "id": id, "source": "/orders", "type": "order.created"}).to_string()
}

async fn post(world: &World, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Response {
    request(world, headers, body).send().await.unwrap()
}

fn request(world: &World, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> RequestBuilder {
    let request = world.api.request(Method::POST, "/v1/events").body(body);
    headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value))
}

fn is_replayed(answer: &Response) -> bool {
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    answer.headers().contains_key("idempotent-replayed")
}

const STRUCTURED: &[(&str, &str)] = &[("content-type", "application/cloudevents+json")];
const BATCH: &[(&str, &str)] = &[("content-type", "application/cloudevents-batch+json")];

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_published_again_is_delivered_once() {
    let world = World::start().await;
    let receiver = receiver(&world).await;
    for again in [false, true, true] {
        let answer = post(&world, STRUCTURED, whole("a/1")).await;
        assert_eq!(is_replayed(&answer), again);
        assert_eq!(answer.headers()["location"], "/v1/events/a%2F1");
        let text = answer.text().await.unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"id": "a/1"})
        );
    }
    let at_once: JoinSet<_> = (0..20)
        .map(|_| request(&world, STRUCTURED, whole("2")).send())
        .collect();
    let answers = at_once.join_all().await;
    let answers = answers.into_iter().map(Result::unwrap);
    let sent = answers.filter(|answer| !is_replayed(answer)).count();
    assert_eq!(sent, 1);

    let keyed = [("content-type", "application/json"), ("idempotency-key", "k1")];
    for again in [false, true] {
        let answer = post(&world, &keyed, r#"{"type":"order.created"}"#).await;
        assert_eq!(is_replayed(&answer), again);
    }
    let delivered = received(&world, &receiver).await;
    let ids: Vec<String> = delivered.iter().filter_map(Request::event_id).collect();
    assert_eq!(
        (ids.len(), &ids[..2]),
        (3, &["a/1".to_owned(), "2".to_owned()][..])
    );
    assert!(ids[2].starts_with("key_"));
    // Of an event that names neither source nor id, the webhook id is the one it was given.
    assert_eq!(delivered[2].webhook_id(), Some(ids[2].as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_delivered_whole_or_not_at_all() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = receiver(&world).await;
    let mut bodies: Vec<String> = (0..200).map(|n| whole(&n.to_string())).collect();
    let bad = whole("bad").replace("order.created", "order.*");
    let with_a_bad_one = format!("[{},{bad}]", bodies.join(","));
    let refused = post(&world, BATCH, with_a_bad_one).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let problem: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
    assert_eq!(problem["field"], "[200].type");

    // The space in it says whether it is still as it was sent.
    bodies[7] = bodies[7].replace("{\"", "{ \"");
    let accepted = post(&world, BATCH, format!("[{}]", bodies.join(","))).await;
    assert!(!is_replayed(&accepted));
    let accepted: Value = serde_json::from_str(&accepted.text().await.unwrap()).unwrap();
    let ids: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(accepted, json!({"ids": ids}));
    // More than may wait in memory for one endpoint, so a later event may overtake some.
    receiver.wait_for(200).await;
    let delivered = received(&world, &receiver).await;
    assert_eq!(delivered.len(), 200);
    let delivered: BTreeSet<&[u8]> = delivered.iter().map(|request| &request.body[..]).collect();
    assert_eq!(delivered, bodies.iter().map(String::as_bytes).collect());
}

/// The example of the HTTP binding, section 3.1.4, and data that would not survive being read and
/// written again.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_binary_mode_is_delivered_with_its_data_as_it_came() {
    let world = World::start().await;
    let receiver = receiver(&world).await;
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-type", "com.example.someevent"),
        ("ce-time", "2018-04-05T03:56:24Z"),
        ("ce-id", "1234-1234-1234"),
        ("ce-source", "/mycontext/subcontext"),
        ("ce-subject", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("Content-Type", "application/json; charset=utf-8"),
    ];
    let data = r#"{"n":1.50,  "big":12345678901234567890.0, "s":"\u00e9", "n":1e2}"#;
    assert!(!is_replayed(&post(&world, &headers, data).await));
    let delivered = received(&world, &receiver).await.remove(0);
    let body = std::str::from_utf8(&delivered.body).unwrap();
    assert!(body.ends_with(&format!(r#""data":{data}}}"#)), "{body}");
    let event = delivered.json();
    for (name, value) in headers
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("ce-")?, value)))
    {
        let expected = if name == "subject" { "Euro € 😀" } else { value };
        assert_eq!(event[name], expected, "{name}");
    }
    assert_eq!(event["datacontenttype"], "application/json; charset=utf-8");
    assert_eq!(event.as_object().unwrap().len(), 8);
}

/// Whoever sends a file again learns that nothing was sent.
#[tokio::test(flavor = "multi_thread")]
async fn the_tool_says_what_had_been_published_before() {
    let world = World::start().await;
    let file = world.folder().join("events.ndjson");
    std::fs::write(&file, format!("{}\n{}\n", whole("1"), whole("2"))).unwrap();
    let publish = ["publish", "--file", file.to_str().unwrap(), "--via", "http"];
    for repeated in [false, true] {
        let said = world.cli(&publish).await.output();
        assert!(said.contains("2 events confirmed"), "{said}");
        assert_eq!(
            said.contains("2 events had been published before"),
            repeated,
            "{said}"
        );
    }
}

/// The exit code of a script's last line says whether everybody has its event.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_event_hears_how_each_delivery_ended() {
    let world = World::recorded(Database::Sqlite).await;
    let publish = async |event_type: &str, more: &[&str]| {
        let args = ["publish", "--type", event_type, "--data", "1", "--wait"];
        let published = world.cli(&[&args[..], more].concat()).await;
        let code = published.wait_exit().await.code();
        (code, published.output())
    };
    let (code, output) = publish("order.created", &[]).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("no endpoint wants it"), "{output}");

    let (good, late, bad) = (
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    );
    late.script([Answer::status(503)]);
    bad.respond_with(Answer::status(500));
    world.api.add(&good, &["order.*"], json!({})).await;
    let retry = json!({"retry": ["1s"]});
    world.api.add(&late, &["order.*"], retry).await;
    let (code, output) = publish("order.created", &[]).await;
    assert_eq!(code, Some(0), "{output}");
    assert_eq!(output.matches("delivered").count(), 2, "{output}");
    assert_eq!((good.count(), late.count()), (1, 2));

    world.api.add(&bad, &["order.paid"], json!({"retry": []})).await;
    let (code, output) = publish("order.paid", &[]).await;
    assert_eq!(code, Some(3), "{output}");
    assert!(output.contains("dead: 1 of 3 deliveries"), "{output}");

    world
        .api
        .add(&bad, &["order.sent"], json!({"retry": ["1h"]}))
        .await;
    let (code, output) = publish("order.sent", &["--wait-timeout", "3s"]).await;
    assert_eq!(code, Some(4), "{output}");
    assert!(
        output.contains("not ended after 3s: 1 of 3 deliveries"),
        "{output}"
    );
}
