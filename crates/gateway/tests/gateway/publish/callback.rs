//! Events with a callback: an endpoint is added for the job that they are about.

use std::time::Duration;

use futures_util::future::join_all;
use relay_broker::Queue;
use relay_event::{Secret, Timestamp};
use relay_testkit::{Proxy, shared_broker};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use super::{BATCH, WHOLE, event, is_replayed, post, request, take};
use crate::relay::{Answer, Relay, config, folder};

const SHORT: &str = "application/json";
const URL: &str = "https://example.com/jobs";

/// An event in short form, of this id, with this callback.
fn job(id: &str, callback: Value) -> Value {
    json!({"id": id, "type": "import.started", "subject": "import-42", "callback": callback})
}

/// The callback in an answer, whose event must be accepted.
fn callback(answer: &Answer) -> Value {
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["callback"].clone()
}

async fn endpoint(relay: &Relay, callback: &Value) -> Value {
    let path = format!("/v1/endpoints/{}", callback["id"].as_str().unwrap());
    let shown = relay.get(&path).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    shown.json()
}

async fn count(relay: &Relay) -> usize {
    relay.store.endpoints().await.unwrap().len()
}

#[tokio::test]
async fn a_callback_is_an_endpoint_for_the_event_s_source_and_subject() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let earliest = Timestamp::now() + Duration::from_secs(24 * 3600);
    let answer = post(&relay, SHORT, job("1", json!({"url": URL}))).await;
    let latest = Timestamp::now() + Duration::from_secs(24 * 3600);
    assert_eq!(answer.json()["id"], "1");
    let added = callback(&answer);
    let shown = endpoint(&relay, &added).await;
    for (field, expected) in [
        ("url", json!(URL)),
        ("types", json!(["#"])),
        ("source", json!("/relay")),
        ("subject", json!("import-42")),
        ("state", json!("active")),
        ("expires_at", added["expires_at"].clone()),
    ] {
        assert_eq!(shown[field], expected, "{field}");
    }
    let expires_at = added["expires_at"]
        .as_str()
        .unwrap()
        .parse::<Timestamp>()
        .unwrap();
    assert!((earliest..=latest).contains(&expires_at), "{expires_at}");
    let secrets = format!("/v1/endpoints/{}/secrets", added["id"].as_str().unwrap());
    let secrets = relay.get(&secrets).await.json();
    assert_eq!(secrets["secrets"][0]["secret"], added["secret"]);

    let (secret, end) = (Secret::generate().to_string(), "2099-12-31T00:00:00.000Z");
    let given = json!({"url": URL, "secret": secret, "expires_at": end});
    let mut other = job("2", given);
    other["source"] = json!("/imports");
    let answer = post(&relay, SHORT, other).await;
    let added = callback(&answer);
    assert_eq!(added, json!({"id": added["id"], "expires_at": end}));
    let shown = endpoint(&relay, &added).await;
    assert_eq!(
        (&shown["source"], &shown["expires_at"]),
        (&json!("/imports"), &json!(end))
    );
    let id = added["id"].as_str().unwrap().parse().unwrap();
    let stored = relay.store.endpoint(&id).await.unwrap().unwrap();
    assert_eq!(stored.secrets[0].secret.as_str(), secret);

    for event in take(&relay, 2).await {
        let body: Value = serde_json::from_slice(event.body()).unwrap();
        assert_eq!(
            (&body["subject"], body.get("callback")),
            (&json!("import-42"), None)
        );
        assert!(!event.body().windows(6).any(|text| text == b"whsec_"));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_callback_is_named_and_nothing_is_changed() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let long = |size: usize| format!("https://example.com/{}", "x".repeat(size));
    let secret = |bytes: usize| format!("whsec_{}", "c2hvcnQh".repeat(bytes / 6));
    for (given, field) in [
        (json!({}), "callback.url"),
        (json!({"url": null}), "callback.url"),
        (json!({"url": "ftp://example.com"}), "callback.url"),
        (json!({"url": "https://user:hunter2@example.com"}), "callback.url"),
        (json!({"url": long(2_048)}), "callback.url"),
        (json!({"url": [URL]}), "callback.url"),
        (json!({"url": URL, "secret": "whsec_c2hvcnQh"}), "callback.secret"),
        (json!({"url": URL, "secret": secret(66)}), "callback.secret"),
        (json!({"url": URL, "secret": null}), "callback.secret"),
        (
            json!({"url": URL, "expires_at": "2026-01-31T09:30:00Z"}),
            "callback.expires_at",
        ),
        (json!({"url": URL, "expires_at": "1h"}), "callback.expires_at"),
        (json!({"url": URL, "expires_at": null}), "callback.expires_at"),
        (json!({"url": URL, "types": ["a"]}), "callback.types"),
        (json!([URL]), "callback"),
    ] {
        let refused = post(&relay, SHORT, job("1", given.clone())).await;
        let problem = refused.problem(400, "invalid");
        assert_eq!(problem["field"], field, "{given}: {problem}");
        assert!(
            !refused.text.contains("c2hvcnQh") && !refused.text.contains("hunter2"),
            "{problem}"
        );
    }
    let good = json!({"url": long(2_000), "secret": secret(60)});
    let mut without_subject = job("1", good.clone());
    without_subject["subject"] = Value::Null;
    let problem = post(&relay, SHORT, without_subject).await.problem(400, "invalid");
    assert_eq!(problem["field"], "callback");
    assert!(
        problem["detail"].as_str().unwrap().contains("`subject`"),
        "{problem}"
    );
    for (field, wrong) in [
        ("type", json!("a.*")),
        ("subject", json!("x".repeat(1_025))),
        ("source", json!("no reference")),
    ] {
        let mut wrongly = job("1", good.clone());
        wrongly[field] = wrong;
        let problem = post(&relay, SHORT, wrongly).await.problem(400, "invalid");
        assert_eq!(problem["field"], field);
    }
    let mut large = job("1", good.clone());
    large["data"] = json!("x".repeat(relay.config.max_event_bytes));
    post(&relay, SHORT, large).await.problem(413, "too-large");
    assert_eq!((count(&relay).await, relay.waiting(Queue::Work).await), (0, 0));

    assert_eq!(post(&relay, SHORT, job("1", good)).await.status, 202);
    assert_eq!((count(&relay).await, relay.waiting(Queue::Work).await), (1, 1));
}

#[tokio::test]
async fn whole_events_have_no_callback_and_an_attribute_of_that_name_is_none() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let mut whole = event("1");
    whole["subject"] = json!("import-42");
    whole["callback"] = json!({"url": URL});
    let (batch, batches) = (json!([event("2"), whole]), "/v1/batches");
    for (answer, field) in [
        (post(&relay, WHOLE, &whole).await, "callback"),
        (post(&relay, BATCH, &batch).await, "[1].callback"),
        (
            relay.call(Method::POST, batches, batch.clone()).await,
            "[1].callback",
        ),
    ] {
        let problem = answer.problem(400, "invalid");
        assert_eq!(problem["field"], field);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("POST /v1/events as application/json"), "{detail}");
        assert!(detail.contains("add an endpoint"), "{detail}");
    }
    assert_eq!(relay.waiting(Queue::Work).await, 0);

    whole["callback"] = json!(URL);
    assert_eq!(post(&relay, WHOLE, &whole).await.json(), json!({"id": "1"}));
    let short = post(&relay, SHORT, job("2", json!(URL))).await;
    assert_eq!(short.json(), json!({"id": "2"}));
    let binary = request(&relay, "text/plain", "data");
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-id", "3"),
        ("ce-source", "/orders"),
        ("ce-type", "a"),
        ("ce-callback", r#"{"url":"https://example.com"}"#),
    ];
    let binary = attributes
        .into_iter()
        .fold(binary, |binary, (name, value)| binary.header(name, value));
    assert_eq!(relay.send(binary).await.json(), json!({"id": "3"}));
    for event in take(&relay, 3).await {
        let body: Value = serde_json::from_slice(event.body()).unwrap();
        assert!(body["callback"].is_string(), "{body}");
    }
    assert_eq!(count(&relay).await, 0);
}

#[tokio::test]
async fn a_callback_that_comes_again_adds_nothing() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let first = post(&relay, SHORT, job("1", json!({"url": URL}))).await;
    assert!(!is_replayed(&first));
    let first = callback(&first);
    assert!(first["secret"].is_string(), "{first}");
    let known = json!({"id": first["id"], "expires_at": first["expires_at"]});

    // Whatever else it says.
    let changed =
        json!({"url": URL, "secret": Secret::generate().to_string(), "expires_at": "2099-12-31T00:00:00Z"});
    for again in [json!({"url": URL}), changed] {
        let again = post(&relay, SHORT, job("1", again)).await;
        assert!(is_replayed(&again));
        assert_eq!(callback(&again), known);
    }
    let at_once = join_all((0..10).map(|_| post(&relay, SHORT, job("2", json!({"url": URL}))))).await;
    let told = at_once
        .iter()
        .filter(|answer| callback(answer)["secret"].is_string());
    assert_eq!((told.count(), count(&relay).await), (1, 2));

    // A key stands for the id.
    let mut keyed = job("", json!({"url": URL}));
    keyed.as_object_mut().unwrap().remove("id");
    for is_second in [false, true] {
        let again = request(&relay, SHORT, &keyed).header("idempotency-key", "k1");
        assert_eq!(is_replayed(&relay.send(again).await), is_second);
    }
    assert_eq!(count(&relay).await, 3);

    // Another event, another source of it, and another URL are other callbacks.
    let mut other = job("1", json!({"url": URL}));
    other["source"] = json!("/imports");
    assert!(!is_replayed(&post(&relay, SHORT, other).await));
    let elsewhere = job("1", json!({"url": "https://example.com/other"}));
    assert!(is_replayed(&post(&relay, SHORT, elsewhere).await));
    assert_eq!(count(&relay).await, 5);

    assert_eq!(relay.delete(first["id"].as_str().unwrap()).await.status, 204);
    let again = post(&relay, SHORT, job("1", json!({"url": URL}))).await;
    assert!(is_replayed(&again));
    assert_eq!(
        callback(&again),
        json!({"id": first["id"], "expires_at": null, "removed": true})
    );
    assert_eq!(count(&relay).await, 4);
}

#[tokio::test]
async fn nothing_is_published_while_the_store_takes_no_endpoint() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let path = relay.config.store.path().unwrap().display().to_string();
    let mut other = SqliteConnection::connect(&format!("sqlite:{path}"))
        .await
        .unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = post(&relay, SHORT, job("1", json!({"url": URL}))).await;
    refused.problem(503, "store-unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let unavailable = r#"relay_gateway_events_refused_total{reason="unavailable"}"#;
    assert_eq!(relay.metric(unavailable), 1.0);
    assert_eq!(relay.waiting(Queue::Work).await, 0);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(count(&relay).await, 0);

    let accepted = post(&relay, SHORT, job("1", json!({"url": URL}))).await;
    assert!(!is_replayed(&accepted) && callback(&accepted)["secret"].is_string());
    assert_eq!((count(&relay).await, relay.waiting(Queue::Work).await), (1, 1));
}

/// The endpoint is there before the broker takes the event.
#[tokio::test]
async fn the_endpoint_stays_if_its_event_is_not_confirmed() {
    let folder = folder();
    let proxy = Proxy::start(shared_broker().await).await;
    let mut config = config(&proxy.url(), &folder);
    config.confirm_timeout = Duration::from_millis(300);
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    proxy.freeze(true);
    let refused = post(&relay, SHORT, job("1", json!({"url": URL}))).await;
    assert_eq!(refused.problem(503, "unconfirmed")["id"], "1");
    assert_eq!(count(&relay).await, 1);
    proxy.freeze(false);
    relay_testkit::wait_until("the event to be accepted", || async {
        post(&relay, SHORT, job("1", json!({"url": URL}))).await.status == 202
    })
    .await;
    assert_eq!(count(&relay).await, 1);
}

#[tokio::test]
async fn without_a_broker_no_callback_is_added() {
    let folder = folder();
    let relay = Relay::start_with(config("amqp://guest:guest@127.0.0.1:1/%2f", &folder)).await;
    let refused = post(&relay, SHORT, job("1", json!({"url": URL}))).await;
    let problem = refused.problem(503, "broker-unavailable");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("nothing was changed")
    );
    assert_eq!(count(&relay).await, 0);
}
