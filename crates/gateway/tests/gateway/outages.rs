//! The broker or the store is away, or goes away in the middle.

use std::time::Duration;

use relay_event::{EndpointId, EndpointState, Event, Timestamp};
use relay_testkit::{Proxy, private_broker, shared_broker, wait_until};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, SqliteConnection};

use crate::relay::{Relay, config, folder};

/// Nothing listens there.
const NO_BROKER: &str = "amqp://guest:guest@127.0.0.1:1/%2f";

#[tokio::test]
async fn without_a_broker_nothing_is_taken_and_nothing_changes() {
    let folder = folder();
    let relay = Relay::start_with(config(NO_BROKER, &folder)).await;
    let event = json!({"type": "a.b"});
    let refused = relay.call(Method::POST, "/v1/events", event).await;
    refused.problem(503, "broker-unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(
        relay.metric(r#"relay_gateway_events_refused_total{reason="unavailable"}"#),
        1.0
    );

    let body = json!({"url": "https://example.com/", "types": ["a.b"]});
    let refused = relay.call(Method::POST, "/v1/endpoints", body).await;
    refused.problem(503, "broker-unavailable");
    assert_eq!(relay.store.endpoints().await.unwrap(), []);
    assert!(!relay.context.health.is_ready());
}

#[tokio::test]
async fn without_a_broker_endpoints_can_be_paused_and_removed_but_not_bound() {
    let folder = folder();
    let proxy = Proxy::start(shared_broker().await).await;
    let relay = Relay::start_with(config(&proxy.url(), &folder)).await;
    relay.until_ready().await;
    let (id, kept) = (relay.add(&["a.b"]).await, relay.add(&["a.b"]).await);
    proxy.refuse(true);
    proxy.cut();
    wait_until("the broker to be missed", || async {
        !relay.context.health.is_ready()
    })
    .await;

    for change in [json!({"types": ["b"]}), json!({"retry": ["7s"]})] {
        relay
            .patch(&kept, change)
            .await
            .problem(503, "broker-unavailable");
    }
    assert_eq!(relay.patch(&kept, json!({"paused": true})).await.status, 200);
    let view = relay.get(&format!("/v1/endpoints/{kept}")).await.json();
    assert_eq!(
        (&view["types"], &view["state"]),
        (&json!(["a.b"]), &json!("paused"))
    );

    assert_eq!(relay.delete(&id).await.status, 204);
    relay
        .get(&format!("/v1/endpoints/{id}"))
        .await
        .problem(404, "not-found");
    proxy.refuse(false);
    relay.until_ready().await;
    let parsed: EndpointId = id.parse().unwrap();
    wait_until("the removal to be finished", || async {
        relay.store.endpoint(&parsed).await.unwrap().is_none() && relay.waiting(&id).await.is_none()
    })
    .await;
}

/// It cannot be known whether the broker took it.
#[tokio::test]
async fn an_event_that_is_not_confirmed_is_to_be_sent_again() {
    let folder = folder();
    let proxy = Proxy::start(shared_broker().await).await;
    let mut config = config(&proxy.url(), &folder);
    config.confirm_timeout = Duration::from_millis(300);
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    let post = async || {
        relay
            .call(Method::POST, "/v1/events", json!({"type": "a.b"}))
            .await
    };
    assert_eq!(post().await.status, 202);
    proxy.freeze(true);
    let refused = post().await;
    let problem = refused.problem(503, "unconfirmed");
    assert!(problem["id"].is_string(), "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("same id"),
        "{problem}"
    );
    let unconfirmed = r#"relay_gateway_events_refused_total{reason="unconfirmed"}"#;
    assert_eq!(relay.metric(unconfirmed), 1.0);

    let (answer, ()) = tokio::join!(post(), async { proxy.cut() });
    assert_eq!(answer.status, 503);
    proxy.freeze(false);
    wait_until("events to be taken again", || async {
        post().await.status == 202
    })
    .await;
}

/// The broker is killed the moment a change is answered, and nobody binds anything once it is back.
#[tokio::test]
async fn what_is_answered_outlives_a_crash_of_the_broker() {
    let folder = folder();
    let mut broker = private_broker().await;
    let mut config = config(broker.amqp_url(), &folder);
    config.new_queue_wait = relay_broker::NEW_QUEUE_WAIT;
    for is_change in [false, true] {
        let relay = Relay::start_with(config.clone()).await;
        relay.until_ready().await;
        let id = if is_change {
            let id = relay.add(&["old", "kept"]).await;
            let changed = relay.patch(&id, json!({"types": ["kept", "new"]})).await;
            assert_eq!(changed.status, 200, "{changed:?}");
            id
        } else {
            relay.add(&["kept", "new"]).await
        };
        relay.running.abort();
        broker.kill().await;
        broker.start().await;
        let session = relay.session().await;
        for event_type in ["old", "kept", "new"] {
            let event = json!({"specversion": "1.0", "id": event_type, "source": "/s", "type": event_type});
            let event = Event::parse(event.to_string().into()).unwrap();
            session.publish_event(&event, Timestamp::now()).await.unwrap();
        }
        wait_until("the events", || async {
            match relay.waiting(&id).await {
                Some(2) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

/// The half of an endpoint that came to be is cleared away.
#[tokio::test]
async fn a_creation_that_fails_in_the_middle_leaves_nothing() {
    let folder = folder();
    let proxy = Proxy::start(shared_broker().await).await;
    let mut config = config(&proxy.url(), &folder);
    config.confirm_timeout = Duration::from_millis(500);
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    proxy.freeze(true);
    let body = json!({"url": "https://example.com/", "types": ["a.b"]});
    let refused = relay.call(Method::POST, "/v1/endpoints", body).await;
    refused.problem(503, "broker-unavailable");
    let left = relay.store.endpoints().await.unwrap();
    assert!(
        left.iter()
            .all(|row| matches!(row.endpoint.state, EndpointState::Removed { .. })),
        "{left:?}"
    );
    assert_eq!(relay.get("/v1/endpoints").await.json(), json!({"endpoints": []}));
    let id = left[0].endpoint.id.to_string();
    proxy.freeze(false);
    wait_until("it to be cleared away", || async {
        relay.store.endpoints().await.unwrap().is_empty() && relay.waiting(&id).await.is_none()
    })
    .await;
}

/// The client is gone before its endpoint is bound; it is bound all the same.
#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_half_done() {
    let folder = folder();
    let proxy = Proxy::start(shared_broker().await).await;
    let mut config = config(&proxy.url(), &folder);
    config.recheck = Duration::from_secs(3_600);
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    proxy.freeze(true);
    let body = json!({"url": "https://example.com/", "types": ["a.b"]}).to_string();
    let request = relay
        .request(Method::POST, "/v1/endpoints")
        .header("content-type", "application/json")
        .body(body);
    let impatient = tokio::spawn(request.send());
    let id = wait_until("the row", || async {
        let rows = relay.store.endpoints().await.unwrap();
        rows.first().map(|row| row.endpoint.id.to_string())
    })
    .await;
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    proxy.freeze(false);
    wait_until("the queue", || async { relay.waiting(&id).await.is_some() }).await;
    wait_until("the binding", || async {
        relay.publish(&["a.b"]).await;
        relay.waiting(&id).await > Some(0)
    })
    .await;
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_a_503_without_its_inside() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let id = relay.add(&["a.b"]).await;
    let path = relay.config.store.path().unwrap().display().to_string();
    let mut other = SqliteConnection::connect(&format!("sqlite:{path}"))
        .await
        .unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let body = json!({"url": "https://example.com/", "types": ["a.b"]});
    let (create, change, remove) = tokio::join!(
        relay.call(Method::POST, "/v1/endpoints", body),
        relay.patch(&id, json!({"timeout_ms": 500})),
        relay.delete(&id),
    );
    for refused in [create, change, remove] {
        refused.problem(503, "store-unavailable");
        for inside in ["SQL", "sqlite", "locked", "database", &path] {
            assert!(!refused.text.contains(inside), "{refused:?}");
        }
    }
    relay.publish(&["a.b"]).await;
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let rows = relay.store.endpoints().await.unwrap();
    assert_eq!((rows.len(), rows[0].endpoint.timeout_ms), (1, 30_000));
}
