//! What the broker binds is what the endpoints want, whatever happened.

use std::time::Duration;

use futures_util::future::join_all;
use relay_broker::Settlement;
use relay_event::{Endpoint, EndpointId, Secret, Timestamp, TypePattern};
use relay_store::Store;
use relay_testkit::{Proxy, shared_broker, wait_until};
use serde_json::json;

use crate::relay::{Relay, config, folder};

fn patterns(types: &[&str]) -> Vec<TypePattern> {
    types.iter().map(|text| text.parse().unwrap()).collect()
}

fn endpoint(types: &[&str]) -> Endpoint {
    Endpoint::new(
        "https://example.com/hook".parse().unwrap(),
        patterns(types),
        Secret::generate(),
        Timestamp::now(),
    )
}

async fn until_waiting(relay: &Relay, id: &str, count: u32) {
    wait_until(format!("{count} events in the queue"), || async {
        let waiting = relay.waiting(id).await;
        if waiting == Some(count) {
            Ok(())
        } else {
            Err(format!("{waiting:?}"))
        }
    })
    .await;
}

/// Waits until the store says that the broker binds what the endpoint wants, and nothing else.
async fn until_settled(relay: &Relay, id: &str) {
    let id: EndpointId = id.parse().unwrap();
    wait_until("the bindings to be settled", || async {
        let stored = relay.store.endpoint(&id).await.unwrap().unwrap();
        let (types, bound) = (&stored.endpoint.types, &stored.bound);
        let settled = bound.len() == types.len() && bound.iter().all(|pattern| types.contains(pattern));
        if settled {
            Ok(())
        } else {
            Err(format!("{types:?} {bound:?}"))
        }
    })
    .await;
}

async fn until_gone(relay: &Relay, id: &str) {
    let parsed: EndpointId = id.parse().unwrap();
    wait_until("the endpoint to be gone", || async {
        let row = relay.store.endpoint(&parsed).await.unwrap().is_some();
        let waiting = relay.waiting(id).await;
        if !row && waiting.is_none() {
            Ok(())
        } else {
            Err(format!("row: {row}, queue: {waiting:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn events_go_where_they_are_wanted() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (orders, all) = (
        relay.add(&["order.*", "invoice.#"]).await,
        relay.add(&["#"]).await,
    );
    relay
        .publish(&["order.paid", "order.item.added", "invoice", "user.created"])
        .await;
    until_waiting(&relay, &orders, 2).await;
    until_waiting(&relay, &all, 4).await;

    let changed = relay
        .patch(&orders, json!({"types": ["user.*", "order.*"]}))
        .await;
    assert_eq!(changed.status, 200, "{changed:?}");
    relay.publish(&["invoice", "order.paid", "user.created"]).await;
    until_waiting(&relay, &orders, 4).await;
    until_waiting(&relay, &all, 7).await;
    until_settled(&relay, &orders).await;
}

#[tokio::test]
async fn a_paused_endpoint_s_events_wait_for_it() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let id = relay.add(&["a.b"]).await;
    relay.patch(&id, json!({"paused": true})).await;
    relay.publish(&["a.b"]).await;
    until_waiting(&relay, &id, 1).await;
    assert_eq!(relay.metric(r#"relay_gateway_endpoints{state="paused"}"#), 1.0);
}

/// A type that stays wanted loses nothing while others come and go.
#[tokio::test]
async fn nothing_falls_between_two_changes() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let id = relay.add(&["a.*", "b"]).await;
    let changing = async {
        for turn in 0..20 {
            let other = ["b", "c", "#.d"][turn % 3];
            let changed = relay.patch(&id, json!({"types": ["a.*", other]})).await;
            assert_eq!(changed.status, 200, "{changed:?}");
        }
    };
    let publishing = async {
        for _ in 0..20 {
            join_all((0..10).map(|_| relay.publish(&["a.x"]))).await;
        }
    };
    tokio::join!(changing, publishing);
    until_waiting(&relay, &id, 200).await;
}

/// Two gateways change the same endpoint at the same time; one of the changes wins, and the broker
/// binds what that one says.
#[tokio::test]
async fn two_gateways_agree_in_the_end() {
    let folder = folder();
    let one = Relay::start(&folder).await;
    let other = Relay::start_with(one.config.clone()).await;
    other.until_ready().await;
    let id = one.add(&["start"]).await;
    for turn in 0..10 {
        let (a, b) = (format!("a{turn}"), format!("b{turn}"));
        let (by_one, by_other) = tokio::join!(
            one.patch(&id, json!({"types": [a, "both"]})),
            other.patch(&id, json!({"types": [b, "both"]})),
        );
        assert_eq!(
            (by_one.status, by_other.status),
            (200, 200),
            "{by_one:?} {by_other:?}"
        );
    }
    let view = other.get(&format!("/v1/endpoints/{id}")).await.json();
    let winner = view["types"][0].as_str().unwrap().to_owned();
    until_settled(&one, &id).await;
    one.publish(&["start", "a5", "b5", "a9", "b9"]).await;
    one.publish(&["both"]).await;
    until_waiting(&one, &id, 2).await;
    assert!(["a9", "b9"].contains(&winner.as_str()), "{view}");
}

/// A gateway ended after it had stored a change, before the broker followed.
#[tokio::test]
async fn a_change_that_was_begun_is_finished() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let id = relay.add(&["old", "kept"]).await;
    relay.context.shutdown.cancel();
    let (config, store) = (relay.config.clone(), relay.store.clone());
    relay.running.await.unwrap().unwrap();
    let change = |endpoint: &mut Endpoint| {
        endpoint.types = patterns(&["kept", "new"]);
        Ok(())
    };
    store.update(&id.parse().unwrap(), change).await.unwrap();
    let mut never_bound = endpoint(&["new"]);
    never_bound.created_at = Timestamp::from_millis(0).unwrap();
    never_bound.updated_at = never_bound.created_at;
    store.insert(&never_bound).await.unwrap();

    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    until_settled(&relay, &id).await;
    let never_bound = never_bound.id.to_string();
    until_waiting(&relay, &never_bound, 0).await;
    // Its queue is there; its binding is the last step of the same look.
    wait_until("the binding", || async {
        relay.publish(&["new"]).await;
        relay.waiting(&never_bound).await > Some(0)
    })
    .await;
    let before = relay.waiting(&id).await.unwrap();
    relay.publish(&["old", "kept", "new"]).await;
    until_waiting(&relay, &id, before + 2).await;
}

/// Another gateway, that is gone since, had stored an endpoint and bound nothing yet.
#[tokio::test]
async fn an_endpoint_another_gateway_left_unbound_is_bound_without_a_new_session() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let left = endpoint(&["a.b"]);
    relay.store.insert(&left).await.unwrap();
    until_waiting(&relay, left.id.as_str(), 0).await;
}

/// The broker comes back without what it had, as a replaced one does.
#[tokio::test]
async fn a_new_session_finds_everything_bound() {
    let folder = folder();
    let proxy = Proxy::start(shared_broker().await).await;
    let relay = Relay::start_with(config(&proxy.url(), &folder)).await;
    relay.until_ready().await;
    let mut old = endpoint(&["a.b"]);
    old.created_at = Timestamp::from_millis(0).unwrap();
    old.updated_at = old.created_at;
    let id = old.id.to_string();
    relay.store.insert(&old).await.unwrap();
    relay
        .session()
        .await
        .declare_endpoint(&old.id, &[])
        .await
        .unwrap();
    relay.session().await.delete_endpoint(&old.id).await.unwrap();
    proxy.cut();
    wait_until("the queue", || async { relay.waiting(&id).await.is_some() }).await;
    wait_until("the binding", || async {
        relay.publish(&["a.b"]).await;
        relay.waiting(&id).await > Some(0)
    })
    .await;
}

#[tokio::test]
async fn a_removed_endpoint_gets_nothing_and_is_forgotten_once_its_queue_is_empty() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (empty, full, taken) = (
        relay.add(&["a"]).await,
        relay.add(&["#"]).await,
        relay.add(&["b"]).await,
    );
    relay.publish(&["c", "b"]).await;
    let session = relay.session().await;
    let mut consumer = session.subscribe(&relay.queue(&taken), 1).await.unwrap();
    let held = consumer.next().await.unwrap();
    for id in [&full, &taken, &empty] {
        assert_eq!(relay.delete(id).await.status, 204);
    }
    relay.publish(&["a", "b"]).await;
    until_gone(&relay, &empty).await;
    // The others are looked at before it, and something is left of them.
    assert_eq!(relay.waiting(&full).await, Some(2));
    assert_eq!(relay.waiting(&taken).await, Some(0));
    wait_until("the count of removed endpoints", || async {
        relay.metric(r#"relay_gateway_endpoints{state="removed"}"#) == 2.0
    })
    .await;

    held.give_back().await;
    consumer.stop().await;
    let mut emptying = session.subscribe(&relay.queue(&taken), 1).await.unwrap();
    settle(&session, &taken, emptying.next().await.unwrap()).await;
    emptying.stop().await;
    until_gone(&relay, &taken).await;
    assert_eq!(relay.waiting(&full).await, Some(2));
}

async fn settle(session: &relay_broker::Session, id: &str, mut taken: relay_broker::Taken) {
    let message = taken.read(session, 1_000_000);
    let (id, history) = (id.parse().unwrap(), relay_event::History::default());
    let settled = taken.settle(session, &id, &message, &history, Settlement::Delivered, None);
    settled.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_that_are_missing_use_up_no_channels() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let session = relay.broker.session().await;
    // A connection has 2,047.
    for number in 0..2_100 {
        let looked = session.depth(&format!("missing.{number}")).await;
        assert!(matches!(looked, Ok(None)), "look {number}: {looked:?}");
    }
    session
        .declare_endpoint(&EndpointId::generate(), &[])
        .await
        .unwrap();
}

/// The broker is another one than before, say: all queues are new, and each is to be left alone for a while.
#[tokio::test]
async fn queues_that_are_all_new_are_not_waited_for_one_after_the_other() {
    let folder = folder();
    let mut config = config(shared_broker().await, &folder);
    config.new_queue_wait = Duration::from_secs(2);
    let store = Store::open(&config.store).await.unwrap();
    for _ in 0..40 {
        store.insert(&endpoint(&["a.b"])).await.unwrap();
    }
    let _relay = Relay::start_with(config).await;
    wait_until("all of them to be bound", || async {
        let rows = store.endpoints().await.unwrap();
        let unbound = rows.iter().filter(|row| row.endpoint.bound_since.is_none());
        match unbound.count() {
            0 => Ok(()),
            unbound => Err(format!("{unbound} are not")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_queue_may_be_left_alone_for_longer_than_a_confirm_may_take() {
    let folder = folder();
    let mut config = config(shared_broker().await, &folder);
    config.confirm_timeout = Duration::from_secs(4);
    config.new_queue_wait = Duration::from_secs(5);
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    relay.add(&["a.b"]).await;
}
