//! Objects of the relay's names that somebody else declared.

use std::{error::Error as _, time::Duration};

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::FieldTable,
};
use relay_broker::{Config, Error, Session};
use relay_event::DEFAULT_MAX_EVENT_BYTES;
use relay_testkit::{confirming, namespace, shared_broker};

/// The refusal to a relay that finds this exchange of this kind, or this queue as a plain one.
async fn opened(object: &str, kind: Option<ExchangeKind>) -> Error {
    let (url, namespace) = (shared_broker().await, namespace());
    let (connection, channel) = confirming(url).await.unwrap();
    let name = format!("{namespace}.{object}");
    if let Some(kind) = kind {
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let declaring = channel.exchange_declare(name.into(), kind, durable, FieldTable::default());
        declaring.await.unwrap();
    } else {
        let durable = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let declaring = channel.queue_declare(name.into(), durable, FieldTable::default());
        declaring.await.unwrap();
    }
    let config = Config {
        url: url.parse().unwrap(),
        namespace: namespace.parse().unwrap(),
        name: "test".to_owned(),
        new_queue_wait: Duration::ZERO,
        max_event_bytes: DEFAULT_MAX_EVENT_BYTES,
    };
    let refused = Session::open(&config, None).await.err().unwrap();
    connection.close(200, "OK".into()).await.unwrap();
    refused
}

#[tokio::test]
async fn the_objects_of_an_older_relay_are_told_as_such() {
    for (exchange, kind) in [("return", ExchangeKind::Direct), ("routes", ExchangeKind::Topic)] {
        let refused = opened(exchange, Some(kind)).await;
        assert!(matches!(refused, Error::OlderRelay { .. }), "{refused:?}");
    }
}

#[tokio::test]
async fn anything_else_that_differs_is_named_with_the_brokers_text() {
    for (object, kind) in [
        ("work", None),
        ("holds", None),
        ("events", Some(ExchangeKind::Fanout)),
        ("return", Some(ExchangeKind::Headers)),
    ] {
        let refused = opened(object, kind.clone()).await;
        let said = refused.to_string();
        let what = if kind.is_some() { "exchange" } else { "queue" };
        assert!(said.starts_with(&format!("cannot declare the {what} ")), "{said}");
        assert!(said.ends_with(&format!(".{object}")), "{said}");
        let cause = refused.source().unwrap().to_string();
        assert!(cause.contains("inequivalent arg"), "{cause}");
    }
}
