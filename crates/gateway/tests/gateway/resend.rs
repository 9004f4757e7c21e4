//! Events of the log are sent again.

use std::time::Duration;

use relay_event::{Attempt, DeliveryState, Event, EventId, History, Hold, HoldReason, Standing, Timestamp};
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

/// The standing of a delivery that was begun anew and waits to be sent on.
async fn begun(relay: &Relay, event: &str, endpoint: &str) -> Standing {
    let delivery = delivery(relay, event, endpoint).await;
    assert_eq!(delivery.held.map(|held| held.reason), Some(HoldReason::Replay));
    delivery.standing
}

/// The number of deliveries to an endpoint that were begun anew and wait.
async fn replays(relay: &Relay, endpoint: &str) -> u64 {
    let waiting = relay.store.waiting_for(&endpoint.parse().unwrap()).await.unwrap();
    waiting.get(&HoldReason::Replay).copied().unwrap_or_default()
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

    let mut runs = Vec::new();
    for id in [&one, &paused] {
        let standing = begun(&relay, "1", id).await;
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
    begun(&relay, "1", &one).await;

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
    let standing = begun(&relay, "1", &endpoint).await;
    assert_eq!(standing.state, DeliveryState::Pending);
    assert!(standing.run > ahead, "{standing:?}");
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
    assert_eq!(replays(&relay, &endpoint).await, 0, "counting sends nothing");

    let first = recover(&relay, &endpoint, json!({"since": "1h", "until": null})).await;
    assert_eq!((first.status, &first.json()["recovered"]), (202, &json!(1_000)));
    assert_eq!(replays(&relay, &endpoint).await, 1_000);
    record_event(&relay, event("later", "a"), &[]).await;
    let next = first.json()["next"].clone();
    let second = recover(&relay, &endpoint, json!({"since": "1h", "cursor": next})).await;
    assert_eq!(second.json(), json!({"recovered": 203, "next": null}));
    assert_eq!((count(false).await, count(true).await), (1, 1_205));
    assert_eq!(replays(&relay, &endpoint).await, 1_203);
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
    let shown = relay.get(&format!("/v1/endpoints/{endpoint}")).await.json();
    assert_eq!(shown["held"], json!({"paused": 1}));
    assert!(!relay.get("/v1/endpoints").await.text.contains("held"));
    let listed = relay.get("/v1/endpoints?held=true").await.json();
    let held = listed["endpoints"].as_array().unwrap().iter();
    let mut held: Vec<_> = held
        .map(|listed| (listed["id"].as_str().unwrap(), &listed["held"]))
        .collect();
    let (paused, slow) = (json!({"paused": 1}), json!({"slow": 1}));
    let mut all = [(&*endpoint, &paused), (&*other, &slow)];
    held.sort_by_key(|(id, _)| *id);
    all.sort_by_key(|(id, _)| *id);
    assert_eq!(held, all);

    relay.delete(&endpoint).await;
    relay.get(&path).await.problem(404, "not-found");
}

/// A failed attempt after which another one is due.
fn retrying(event: &Event, endpoint: &str) -> Attempt {
    let failed = failed(event, endpoint);
    Attempt {
        state: DeliveryState::Retrying,
        reason: None,
        next_at: Some(failed.at + Duration::from_secs(3_600)),
        ..failed
    }
}

/// The state of an event's delivery to an endpoint.
async fn state(relay: &Relay, event: &str, endpoint: &str) -> DeliveryState {
    delivery(relay, event, endpoint).await.standing.state
}

#[tokio::test]
async fn what_waits_of_an_event_is_tried_now_or_canceled() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (one, other) = (relay.add(&["a"]).await, relay.add(&["a"]).await);
    let event_1 = event("1", "a");
    record_event(&relay, event_1.clone(), &[&one, &other]).await;
    record_attempt(&relay, retrying(&event_1, &one)).await;
    let on_its_way = relay.call(Method::POST, "/v1/events/1/cancel", json!({"endpoint": other}));
    assert_eq!(on_its_way.await.json()["endpoints"], json!([]));
    hold(&relay, &event_1, &other, HoldReason::Paused).await;
    let ask = async |what: &str, body: Value| {
        let path = format!("/v1/events/1/{what}");
        relay.call(Method::POST, &path, body).await
    };
    let retried = ask("retry", json!({"endpoint": one})).await;
    assert_eq!(
        (retried.status, retried.json()),
        (202, json!({"id": "1", "endpoints": [one]}))
    );
    begun(&relay, "1", &one).await;
    assert_eq!(replays(&relay, &other).await, 0);

    let canceled = ask("cancel", json!({"endpoint": other})).await;
    assert_eq!(
        (canceled.status, canceled.json()),
        (200, json!({"id": "1", "endpoints": [other]}))
    );
    assert_eq!(state(&relay, "1", &other).await, DeliveryState::Canceled);
    let rest = ask("cancel", json!({})).await;
    assert_eq!(rest.json(), json!({"id": "1", "endpoints": [one]}));
    assert_eq!(replays(&relay, &one).await, 0);
    let shown = relay.get("/v1/events/1").await.json();
    assert_eq!(shown["settled"], true, "{shown}");
    for what in ["retry", "cancel"] {
        assert_eq!(ask(what, json!({})).await.json()["endpoints"], json!([]));
        for (body, field) in [
            (json!({"endpoint": null}), "endpoint"),
            (json!({"endpoint": "7"}), "endpoint"),
            (json!({"endpoints": []}), "endpoints"),
        ] {
            let refused = ask(what, body).await.problem(400, "invalid");
            assert_eq!(refused["field"], field, "{refused}");
        }
        let unknown = json!({"endpoint": "ep_0123456789abcdef0123456789abcdef"});
        ask(what, unknown).await.problem(404, "not-found");
        let path = format!("/v1/events/2/{what}");
        relay
            .call(Method::POST, &path, json!({}))
            .await
            .problem(404, "not-found");
    }
    assert_eq!(
        recover(&relay, &one, json!({"since": "1h"})).await.json()["recovered"],
        0
    );
}

#[tokio::test]
async fn an_endpoint_is_tried_now() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (endpoint, other) = (relay.add(&["a"]).await, relay.add(&["a"]).await);
    let path = format!("/v1/endpoints/{endpoint}/retry");
    let retry = async |body: Value| relay.call(Method::POST, &path, body).await;
    let now = Timestamp::now();
    let mut records = Vec::new();
    for n in 0..1_002 {
        let event = event(&n.to_string(), "a");
        records.push(Record::Attempt(retrying(&event, &endpoint)));
        records.push(Record::Event(NewEvent {
            event,
            published_at: None,
            routed_to: Vec::new(),
        }));
    }
    relay.store.record(&records, now).await.unwrap();
    let mark = async || {
        let id = endpoint.parse().unwrap();
        relay.store.endpoint(&id).await.unwrap().unwrap().overtaken
    };
    let first = retry(json!({})).await;
    assert_eq!((first.status, &first.json()["retried"]), (202, &json!(1_000)));
    let (next, marked) = (first.json()["next"].clone(), mark().await);
    assert!(marked > 0);
    let second = retry(json!({"cursor": next})).await;
    assert_eq!(second.json(), json!({"retried": 2, "next": null}));
    assert_eq!(replays(&relay, &endpoint).await, 1_002);
    let marked = mark().await;
    assert_eq!(retry(json!({})).await.json(), json!({"retried": 0, "next": null}));
    assert!(mark().await > marked, "what is held is tried");

    for (body, field) in [(json!({"cursor": "x"}), "cursor"), (json!({"limit": 1}), "limit")] {
        assert_eq!(retry(body).await.problem(400, "invalid")["field"], field);
    }
    let path_of_another = format!("/v1/endpoints/{other}/retry");
    let of_another = relay
        .call(Method::POST, &path_of_another, json!({"cursor": next}))
        .await;
    assert_eq!(of_another.problem(400, "invalid")["field"], "cursor");
    relay.delete(&endpoint).await;
    retry(json!({})).await.problem(404, "not-found");
}

#[tokio::test]
async fn without_a_broker_what_is_sent_again_waits_in_the_log() {
    let folder = folder();
    let patient = Relay::start(&folder).await;
    let endpoint = patient.add(&["a"]).await;
    record_event(&patient, event("1", "a"), &[]).await;
    record_event(&patient, event("2", "a"), &[]).await;
    let proxy = Proxy::start(shared_broker().await).await;
    let relay = Relay::start_with(Config {
        amqp_url: proxy.url().parse().unwrap(),
        ..patient.config.clone()
    })
    .await;
    relay.until_ready().await;
    proxy.refuse(true);
    proxy.cut();
    wait_until("the broker to be missed", || async {
        !relay.context.health.is_ready()
    })
    .await;
    assert_eq!(replay(&relay, "1", json!({})).await.status, 202);
    begun(&relay, "1", &endpoint).await;
    let recovered = recover(&relay, &endpoint, json!({"since": "1h"})).await;
    assert_eq!(recovered.json(), json!({"recovered": 1, "next": null}));
    begun(&relay, "2", &endpoint).await;
    proxy.refuse(false);
    relay.until_ready().await;
}
