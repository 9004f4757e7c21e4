//! Events of the log are sent again.

use std::time::Duration;

use relay_broker::Queue;
use relay_event::{DeliveryState, Event, EventId, History, Hold, HoldReason, Timestamp};
use relay_gateway::Config;
use relay_store::{LoggedDelivery, NewEvent, Record};
use relay_testkit::{Proxy, shared_broker, wait_until};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    log::{event, failed, record_attempt, record_event},
    relay::{Answer, Relay, folder},
};

async fn replay(relay: &Relay, id: &str, body: Value) -> Answer {
    let path = format!("/v1/events/{id}/replay");
    relay.call(Method::POST, &path, body).await
}

async fn recover(relay: &Relay, id: &str, body: Value) -> Answer {
    let path = format!("/v1/endpoints/{id}/recover");
    relay.call(Method::POST, &path, body).await
}

/// How an event's delivery to an endpoint stands.
async fn delivery(relay: &Relay, event: &str, endpoint: &str) -> LoggedDelivery {
    let event: EventId = event.parse().unwrap();
    let logged = relay.store.logged_event(&event, None).await.unwrap().unwrap();
    let deliveries = relay.store.deliveries_of(logged.sequence).await.unwrap();
    let mut found = deliveries
        .into_iter()
        .filter(|delivery| delivery.endpoint.as_str() == endpoint);
    found.next().unwrap()
}

/// Records that an event's delivery to an endpoint is held.
async fn hold(relay: &Relay, event: &Event, endpoint: &str, reason: HoldReason) {
    let now = Timestamp::now();
    let hold = Hold {
        endpoint: endpoint.parse().unwrap(),
        event_id: event.id().clone(),
        event_source: event.source().to_owned(),
        event_type: event.event_type().clone(),
        published_at: Some(now),
        hop: 0,
        history: History::default(),
        reason,
        at: now,
        event: None,
    };
    let record = Record::Hold(Box::new(hold));
    relay.store.record(&[record], now).await.unwrap();
}

#[tokio::test]
async fn an_event_is_replayed_to_those_who_want_it_now() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    record_event(&relay, event("1", "a.b"), &[]).await;
    let (one, paused) = (relay.add(&["a.*"]).await, relay.add(&["a.b"]).await);
    relay.patch(&paused, json!({"paused": true})).await;
    let (removed, _other) = (relay.add(&["#"]).await, relay.add(&["b"]).await);
    assert_eq!(relay.delete(&removed).await.status, 204);

    let path = "/v1/events/1/replay?source=/orders";
    let replayed = relay.send(relay.request(Method::POST, path)).await;
    assert_eq!(replayed.status, 202, "{replayed:?}");
    let mut expected = [&one, &paused];
    expected.sort();
    let mut replayed = replayed.json();
    let endpoints = replayed["endpoints"].as_array_mut().unwrap();
    endpoints.sort_by_key(Value::to_string);
    assert_eq!(replayed, json!({"id": "1", "endpoints": expected}));

    let mut sent = Vec::new();
    for (sent_event, endpoint) in relay.look_into(Queue::Again, 2).await {
        assert_eq!(sent_event, event("1", "a.b"));
        sent.push(endpoint.unwrap().to_string());
    }
    sent.sort();
    assert_eq!(sent.iter().collect::<Vec<_>>(), expected);
    let mut runs = Vec::new();
    for id in [&one, &paused] {
        let standing = delivery(&relay, "1", id).await.standing;
        assert_eq!((standing.state, standing.attempts), (DeliveryState::Pending, 0));
        runs.push(standing.run);
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test]
async fn an_event_is_replayed_to_one() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (one, other) = (relay.add(&["a"]).await, relay.add(&["a"]).await);
    record_event(&relay, event("1", "a"), &[&one]).await;
    let replayed = replay(&relay, "1", json!({"endpoint": one})).await;
    assert_eq!(
        (replayed.status, replayed.json()),
        (202, json!({"id": "1", "endpoints": [one]}))
    );
    let sent = relay.look_into(Queue::Again, 1).await;
    assert_eq!(sent[0].1, Some(one.parse().unwrap()));

    // It was to have it once, and the other never.
    for id in [&one, &other] {
        relay.patch(id, json!({"types": ["b"]})).await;
    }
    assert_eq!(replay(&relay, "1", json!({"endpoint": one})).await.status, 202);
    let refused = replay(&relay, "1", json!({"endpoint": other})).await;
    assert_eq!(refused.problem(400, "invalid")["field"], "endpoint");
    let none = replay(&relay, "1", json!({})).await;
    assert_eq!((none.status, &none.json()["endpoints"]), (202, &json!([])));

    for (body, field) in [
        (json!({"endpoint": "7"}), "endpoint"),
        (json!({"endpoint": null}), "endpoint"),
        (json!({"endpoints": [one]}), "endpoints"),
    ] {
        let refused = replay(&relay, "1", body).await.problem(400, "invalid");
        assert_eq!(refused["field"], field, "{refused}");
    }
    replay(&relay, "2", json!({})).await.problem(404, "not-found");
    relay.delete(&one).await;
    replay(&relay, "1", json!({"endpoint": one}))
        .await
        .problem(404, "not-found");
}

/// The clock of whoever published it was ahead, or this one was set back.
#[tokio::test]
async fn a_replay_counts_more_than_what_was_published_in_the_future() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let endpoint = relay.add(&["a"]).await;
    record_event(&relay, event("1", "a"), &[]).await;
    let ahead = Timestamp::now() + Duration::from_secs(3_600);
    let mut dead = failed(&event("1", "a"), &endpoint);
    dead.published_at = Some(ahead);
    record_attempt(&relay, dead).await;

    assert_eq!(replay(&relay, "1", json!({})).await.status, 202);
    let standing = delivery(&relay, "1", &endpoint).await.standing;
    assert_eq!(standing.state, DeliveryState::Pending);
    let session = relay.session().await;
    let mut queue = session.consume(Queue::Again, 10).await.unwrap();
    let mut taken = queue.next().await.unwrap();
    let sent = taken.read(&session, 10_000).history.run;
    assert!(sent > Some(ahead) && sent == Some(standing.run), "{sent:?}");
    taken.give_back().await;
}

#[tokio::test]
async fn an_endpoint_recovers_what_it_did_not_get() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (endpoint, other) = (relay.add(&["b"]).await, relay.add(&["b"]).await);
    let events: Vec<Event> = (0..1_203).map(|n| event(&n.to_string(), "a")).collect();
    let record = |event: &Event| {
        Record::Event(NewEvent {
            event: event.clone(),
            published_at: None,
            routed_to: Vec::new(),
        })
    };
    let records: Vec<Record> = events.iter().map(record).collect();
    relay.store.record(&records, Timestamp::now()).await.unwrap();
    record_event(&relay, event("b", "b"), &[&endpoint]).await;
    record_attempt(&relay, failed(&events[7], &endpoint)).await;
    let count = async |more: bool| {
        let body = json!({"since": "1h", "dry_run": true, "include_waiting": more});
        let counted = recover(&relay, &endpoint, body).await;
        assert_eq!(counted.status, 200, "{counted:?}");
        counted.json()["events"].as_u64().unwrap()
    };
    assert_eq!(count(false).await, 0, "its types are others");
    relay
        .patch(&endpoint, json!({"types": ["#"], "paused": true}))
        .await;
    assert_eq!((count(false).await, count(true).await), (1_203, 1_204));
    assert_eq!(relay.waiting(Queue::Again).await, 0, "counting sends nothing");

    let first = recover(&relay, &endpoint, json!({"since": "1h", "until": null})).await;
    assert_eq!((first.status, &first.json()["recovered"]), (202, &json!(1_000)));
    assert_eq!(relay.waiting(Queue::Again).await, 1_000);
    record_event(&relay, event("later", "a"), &[]).await;
    let next = first.json()["next"].clone();
    let second = recover(&relay, &endpoint, json!({"since": "1h", "cursor": next})).await;
    assert_eq!(second.json(), json!({"recovered": 203, "next": null}));
    assert_eq!((count(false).await, count(true).await), (1, 1_205));
    assert_eq!(relay.waiting(Queue::Again).await, 1_203);
    let standing = delivery(&relay, "7", &endpoint).await.standing;
    assert_eq!(standing.state, DeliveryState::Pending);

    let of_another = recover(&relay, &other, json!({"since": "1h", "cursor": next})).await;
    assert_eq!(of_another.problem(400, "invalid")["field"], "cursor");
}

#[tokio::test]
async fn a_recovery_that_makes_no_sense_is_refused_by_name() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let endpoint = relay.add(&["a"]).await;
    for (body, field) in [
        (json!({}), "since"),
        (json!({"since": "soon"}), "since"),
        (json!({"since": "1h", "until": "2h"}), "since"),
        (json!({"since": "1h", "cursor": "garbage"}), "cursor"),
        (json!({"since": "1h", "limit": 10}), "limit"),
    ] {
        let refused = recover(&relay, &endpoint, body).await.problem(400, "invalid");
        assert_eq!(refused["field"], field, "{refused}");
    }
    relay.delete(&endpoint).await;
    for id in [&*endpoint, "ep_0123456789abcdef0123456789abcdef", "7"] {
        recover(&relay, id, json!({"since": "1h"}))
            .await
            .problem(404, "not-found");
    }
}

#[tokio::test]
async fn an_endpoint_s_stats_are_those_of_its_attempts() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let endpoint = relay.add(&["a"]).await;
    let path = format!("/v1/endpoints/{endpoint}/stats");
    let none = json!({"delivered": 0, "failed": 0, "p50_ms": null, "p99_ms": null});
    let mut expected = json!({
        "endpoint": endpoint, "hour": none, "day": none, "pending": 0, "retrying": 0, "held": {},
    });
    assert_eq!(relay.get(&path).await.json(), expected);

    record_event(&relay, event("1", "a"), &[&endpoint]).await;
    record_event(&relay, event("2", "a"), &[&endpoint]).await;
    let mut attempt = failed(&event("1", "a"), &endpoint);
    attempt.at = Timestamp::from_millis(attempt.at.as_millis() - 7_200_000).unwrap();
    record_attempt(&relay, attempt).await;
    expected["day"] = json!({"delivered": 0, "failed": 1, "p50_ms": 83, "p99_ms": 83});
    expected["pending"] = json!(1);
    assert_eq!(relay.get(&path).await.json(), expected);

    let other = relay.add(&["a"]).await;
    hold(&relay, &event("2", "a"), &endpoint, HoldReason::Paused).await;
    hold(&relay, &event("1", "a"), &other, HoldReason::Slow).await;
    expected["held"] = json!({"paused": 1});
    assert_eq!(relay.get(&path).await.json(), expected);

    relay.delete(&endpoint).await;
    relay.get(&path).await.problem(404, "not-found");
}

#[tokio::test]
async fn without_a_broker_nothing_is_sent_again() {
    let folder = folder();
    let patient = Relay::start(&folder).await;
    let endpoint = patient.add(&["a"]).await;
    record_event(&patient, event("1", "a"), &[]).await;
    let proxy = Proxy::start(shared_broker().await).await;
    let relay = Relay::start_with(Config {
        amqp_url: proxy.url().parse().unwrap(),
        confirm_timeout: Duration::from_millis(300),
        ..patient.config.clone()
    })
    .await;
    relay.until_ready().await;
    proxy.freeze(true);
    let since = json!({"since": "1h"});
    for refused in [
        replay(&relay, "1", json!({})).await,
        recover(&relay, &endpoint, since.clone()).await,
    ] {
        let problem = refused.problem(503, "unconfirmed");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("again is right"), "{problem}");
    }

    proxy.refuse(true);
    proxy.cut();
    wait_until("the broker to be missed", || async {
        !relay.context.health.is_ready()
    })
    .await;
    for refused in [
        replay(&relay, "1", json!({})).await,
        recover(&relay, &endpoint, since.clone()).await,
    ] {
        refused.problem(503, "broker-unavailable");
    }
    let counted = recover(&relay, &endpoint, json!({"since": "1h", "dry_run": true})).await;
    assert_eq!((counted.status, counted.json()), (200, json!({"events": 1})));

    proxy.freeze(false);
    proxy.refuse(false);
    relay.until_ready().await;
    wait_until("it to be recovered", || async {
        recover(&relay, &endpoint, since.clone()).await.status == 202
    })
    .await;
    assert_eq!(
        delivery(&relay, "1", &endpoint).await.standing.state,
        DeliveryState::Pending
    );
}
