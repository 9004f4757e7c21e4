//! The broker or the store is away, or goes away in the middle.

use std::{path::Path, time::Duration};

use lapin::{ExchangeKind, options::ExchangeDeclareOptions, types::FieldTable};
use relay_testkit::{Process, Proxy, shared_broker, wait_until};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, SqliteConnection};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::relay::{Relay, config, folder};

/// Nothing listens there.
const NO_BROKER: &str = "amqp://guest:guest@127.0.0.1:1/%2f";

#[tokio::test]
async fn without_a_broker_nothing_is_taken() {
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
    assert!(!relay.context.health.is_ready());
}

/// The broker is away, or answers nothing.
#[tokio::test]
async fn endpoints_need_no_broker() {
    let proxy = Proxy::start(shared_broker().await).await;
    for url in [NO_BROKER, &proxy.url()] {
        let folder = folder();
        let relay = Relay::start_with(config(url, &folder)).await;
        if url != NO_BROKER {
            relay.until_ready().await;
            proxy.freeze(true);
        }
        let (id, kept) = (relay.add(&["a.b"]).await, relay.add(&["a.b"]).await);
        let change = json!({"types": ["b"], "retry": ["7s"], "paused": true});
        let changed = relay.patch(&kept, change).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        let view = relay.get(&format!("/v1/endpoints/{kept}")).await.json();
        assert_eq!(
            (&view["types"], &view["retry"], &view["state"]),
            (&json!(["b"]), &json!(["7s"]), &json!("paused"))
        );
        let rotate = format!("/v1/endpoints/{kept}/rotate-secret");
        assert_eq!(relay.call(Method::POST, &rotate, json!({})).await.status, 200);
        assert_eq!(relay.delete(&id).await.status, 204);
        assert_eq!(relay.store.endpoint(&id.parse().unwrap()).await.unwrap(), None);
        let rows = relay.store.endpoints().await.unwrap();
        assert_eq!(rows.len(), 1);
    }
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

/// The client is gone before its endpoint is stored; it is stored all the same.
#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_half_done() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let path = relay.config.store.path().unwrap().display().to_string();
    let mut other = SqliteConnection::connect(&format!("sqlite:{path}"))
        .await
        .unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let body = json!({"url": "https://example.com/", "types": ["a.b"]}).to_string();
    let request = format!(
        "POST /v1/endpoints HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let address = relay.url.strip_prefix("http://").unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    drop(client);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    wait_until("the endpoint", || async {
        relay.store.endpoints().await.unwrap().len() == 1
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
    assert_eq!((rows.len(), rows[0].timeout_ms), (1, 30_000));
}

/// An older relay's exchange of this name was of another kind.
#[tokio::test]
async fn objects_of_an_older_relay_end_the_process_with_what_to_do() {
    let folder = folder();
    let (amqp_url, namespace) = (shared_broker().await, relay_testkit::namespace());
    let connection = lapin::Connection::connect(amqp_url, lapin::ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let (name, direct) = (format!("{namespace}.return"), ExchangeKind::Direct);
    let declaring = channel.exchange_declare(name.into(), direct, durable, FieldTable::default());
    declaring.await.unwrap();

    let store = format!("sqlite:{}", folder.path().join("relay.db").display());
    let settings = [
        ("RELAY_AMQP_URL", amqp_url),
        ("RELAY_NAMESPACE", &namespace),
        ("RELAY_STORE_URL", &store),
        ("RELAY_LISTEN", "127.0.0.1:0"),
        ("RELAY_METRICS_LISTEN", "127.0.0.1:0"),
    ];
    let program = Path::new(env!("CARGO_BIN_EXE_relay-gateway"));
    let gateway = Process::spawn_path(program, &settings, &[]);
    let status = gateway.wait_exit().await;
    let output = gateway.output();
    assert_eq!(status.code(), Some(1), "{output}");
    for said in [
        "the objects of an older relay",
        &format!("`{namespace}`"),
        "RELAY_NAMESPACE",
    ] {
        assert!(output.contains(said), "{said}: {output}");
    }
    // Nothing else was declared.
    let passive = ExchangeDeclareOptions {
        passive: true,
        ..durable
    };
    let name = format!("{namespace}.events");
    let looking = channel.exchange_declare(name.into(), ExchangeKind::Topic, passive, FieldTable::default());
    assert!(looking.await.is_err());
}
