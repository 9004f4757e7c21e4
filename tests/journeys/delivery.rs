//! An event reaches those who want it, whole and signed.

use std::{collections::BTreeSet, time::Duration};

use relay_broker::Queue;
use relay_testkit::{Answer, Receiver, Request, wait_until};
use relay_tests::{Database, World, amqp};
use reqwest::Method;
use serde_json::{Value, json};

fn ids(requests: &[Request]) -> BTreeSet<String> {
    requests
        .iter()
        .map(|request| request.event_id().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_fan_out_by_pattern() {
    let world = World::start().await;
    let (orders, invoices, all) = (
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    );
    world.api.add(&orders, &["order.*"], json!({})).await;
    world
        .api
        .add(&invoices, &["invoice.#", "order.paid"], json!({}))
        .await;
    world.api.add(&all, &["#"], json!({})).await;

    let created = world.api.publish("order.created", json!({"n": 1})).await;
    let paid = world.api.publish("order.paid", json!({"n": 2})).await;
    let deep = world.api.publish("order.item.added", json!({"n": 3})).await;
    let sent = world.api.publish("invoice.sent.by.mail", json!({"n": 4})).await;

    let set = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect::<BTreeSet<_>>();
    assert_eq!(ids(&orders.wait_for(2).await), set(&[&created, &paid]));
    assert_eq!(ids(&invoices.wait_for(2).await), set(&[&paid, &sent]));
    assert_eq!(ids(&all.wait_for(4).await), set(&[&created, &paid, &deep, &sent]));
    // All of them were published before the last one arrived, so nothing more is on its way.
    assert_eq!(
        (
            orders.requests().len(),
            invoices.requests().len(),
            all.requests().len()
        ),
        (2, 2, 4)
    );
    assert_eq!(world.waiting(Queue::Archive).await, 4);
}

/// The receivers' own library, which knows nothing of ours.
fn verifies(secret: &str, request: &Request) -> bool {
    let mut headers = http::HeaderMap::new();
    for (name, value) in request.headers.iter() {
        headers.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    standardwebhooks::Webhook::new(secret)
        .unwrap()
        .verify(&request.body, &headers)
        .is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receivers_library_believes_the_signature() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let endpoint = world.api.add(&receiver, &["#"], json!({})).await;
    let id = world
        .api
        .publish("order.created", json!({"text": "ünï → 日本"}))
        .await;

    let first = receiver.wait_for(1).await.remove(0);
    assert!(verifies(&endpoint.secret, &first));
    assert_eq!(first.webhook_id(), Some(id.as_str()));
    assert_eq!(first.header("content-type"), Some("application/cloudevents+json"));
    assert_eq!(
        (first.json()["type"].as_str(), first.json()["id"].as_str()),
        (Some("order.created"), Some(id.as_str()))
    );

    let rotate = format!("/v1/endpoints/{}/rotate-secret", endpoint.id);
    let rotated = world
        .api
        .json(Method::POST, &rotate, Some(json!({"overlap": "1h"})))
        .await;
    let new_secret = rotated["secret"].as_str().unwrap();
    world.api.publish("order.created", json!(null)).await;
    let both = receiver.wait_for(2).await.remove(1);
    assert!(verifies(&endpoint.secret, &both) && verifies(new_secret, &both));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_style_is_signed_over_the_body() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let settings = json!({"signature": "plain", "headers": {"Authorization": "Bearer theirs"}});
    let endpoint = world.api.add(&receiver, &["#"], settings).await;
    let id = world.api.publish("order.created", json!(1)).await;

    let request = receiver.wait_for(1).await.remove(0);
    let header = |name| request.header(name).unwrap();
    assert_eq!(
        (header("x-webhook-delivery"), header("x-webhook-event")),
        (id.as_str(), "order.created")
    );
    assert_eq!(header("authorization"), "Bearer theirs");
    assert_eq!(request.header("webhook-signature"), None);
    let secret = endpoint.secret.parse().unwrap();
    relay_event::signature::verify_plain(&[secret], header("x-webhook-signature"), &request.body).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_any_amqp_client_publishes_arrives_whole() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let producer = world.producer().await;

    let odd = br#" {"type":"a.b" ,"specversion":"1.0","id":"odd","source":"/x", "data":{"n":1.50,"n2":1e2,"s":"\u00e9"}}"#;
    producer.publish_structured("a.b", odd).await;
    assert_eq!(receiver.wait_for(1).await[0].body, odd[..]);

    for (position, prefix) in ["ce-", "cloudEvents_", "cloudEvents:"].into_iter().enumerate() {
        let attributes = [
            ("specversion", "1.0"),
            ("id", prefix),
            ("source", "/x"),
            ("type", "a.b"),
            ("tenant", "7"),
        ];
        let named: Vec<(String, &str)> = attributes
            .iter()
            .map(|(name, value)| (format!("{prefix}{name}"), *value))
            .collect();
        let named: Vec<(&str, &str)> = named
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        let properties = lapin::BasicProperties::default()
            .with_content_type("application/json".into())
            .with_headers(amqp::headers(&named));
        producer.publish("a.b", properties, br#"{"n": 1.0}"#).await;
        let request = receiver.wait_for(position + 2).await.pop().unwrap();
        assert_eq!(request.event_id().as_deref(), Some(prefix));
        assert_eq!(request.json()["tenant"], "7");
        assert!(
            std::str::from_utf8(&request.body)
                .unwrap()
                .contains(r#""data":{"n": 1.0}"#)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_endpoint_does_not_delay_a_fast_one() {
    let world = World::recorded(Database::Sqlite).await;
    let (slow, fast) = (Receiver::start().await, Receiver::start().await);
    slow.respond_with(Answer::Hold);
    world.api.add(&slow, &["#"], json!({"max_in_flight": 4})).await;
    world.api.add(&fast, &["#"], json!({})).await;
    for n in 0..200 {
        world.api.publish("order.created", json!(n)).await;
    }
    // The slow one holds every answer while the fast one gets all.
    fast.wait_for(200).await;
    slow.wait_for(4).await;
    assert_eq!((slow.in_flight(), slow.max_in_flight()), (4, 4));
    slow.respond_with(Answer::status(204));
    slow.release();
    slow.wait_until("all 200 events", |requests| ids(requests).len() == 200)
        .await;
    assert!(slow.max_in_flight() <= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let world = World::start().await;
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    receiver.respond_with(Answer::status(307).header("location", elsewhere.url()));
    world.api.add(&receiver, &["#"], json!({"retry": []})).await;
    world.api.publish("order.created", json!(1)).await;

    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.last_status, letter.last_error.as_deref()),
        (Some(307), Some("redirect"))
    );
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_endpoint_gets_nothing_until_it_is_resumed() {
    let world = World::recorded(Database::Sqlite).await;
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    let endpoint = world
        .api
        .add(&receiver, &["order.*"], json!({"paused": true}))
        .await;
    world.api.add(&other, &["order.*"], json!({})).await;
    assert_eq!(world.api.endpoint(&endpoint.id).await["state"], "paused");
    for n in 0..5 {
        world.api.publish("order.created", json!(n)).await;
    }
    other.wait_for(5).await;
    world.wait_until_held(&endpoint.id, |held| held == 5).await;
    assert_eq!(receiver.requests().len(), 0);

    world.api.change(&endpoint.id, json!({"paused": false})).await;
    assert_eq!(ids(&receiver.wait_for(5).await).len(), 5);
    // Paused again, what is published next waits again.
    world.api.change(&endpoint.id, json!({"paused": true})).await;
    world.api.publish("order.created", json!("late")).await;
    other.wait_for(6).await;
    world.wait_until_held(&endpoint.id, |held| held == 1).await;
    assert_eq!(receiver.requests().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_patterns_take_effect() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let endpoint = world
        .api
        .add(&receiver, &["order.created", "order.kept"], json!({}))
        .await;
    world
        .api
        .change(&endpoint.id, json!({"types": ["order.kept", "order.paid"]}))
        .await;
    world.api.publish("order.created", json!("unwanted by now")).await;
    let kept = world.api.publish("order.kept", json!(1)).await;
    let paid = world.api.publish("order.paid", json!(2)).await;
    assert_eq!(ids(&receiver.wait_for(2).await), BTreeSet::from([kept, paid]));
    assert_eq!(receiver.requests().len(), 2);
}

/// Each pattern alone matches the event, and no change keeps the pattern before it.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_falls_between_two_patterns() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let endpoint = world.api.add(&receiver, &["order.*"], json!({})).await;
    let (api, id) = (world.api.clone(), endpoint.id.clone());
    let changing = tokio::spawn(async move {
        for round in 0..60 {
            let pattern = if round % 2 == 0 {
                "order.created"
            } else {
                "order.*"
            };
            api.change(&id, json!({"types": [pattern]})).await;
        }
    });
    let mut published = BTreeSet::new();
    while !changing.is_finished() {
        published.insert(world.api.publish("order.created", json!(1)).await);
    }
    changing.await.unwrap();
    receiver
        .wait_until("every event", |requests| published.is_subset(&ids(requests)))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_is_recorded() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    receiver.script([
        Answer::status(500).body("out of order"),
        Answer::status(200).body("thanks"),
    ]);
    let endpoint = world.api.add(&receiver, &["#"], json!({"retry": ["1s"]})).await;
    let producer = world.producer().await;
    let watched = producer.watch_attempts().await;
    let id = world.api.publish("order.created", json!(1)).await;
    receiver.wait_for(2).await;

    let mut attempts = Vec::new();
    while attempts.len() < 2 {
        attempts.extend(watched.take().await);
        tokio::task::yield_now().await;
    }
    let told: Vec<(u32, Option<u16>, &str, &str)> = attempts
        .iter()
        .map(|attempt| {
            (
                attempt.attempt,
                attempt.status,
                attempt.state.as_str(),
                attempt.answer.as_str(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (1, Some(500), "retrying", "out of order"),
            (2, Some(200), "delivered", "thanks")
        ]
    );
    assert!(
        attempts
            .iter()
            .all(|attempt| attempt.event_id.as_str() == id && attempt.endpoint.as_str() == endpoint.id)
    );
    assert!(attempts[1].at >= attempts[0].next_at.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_happened() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    receiver.script([Answer::status(500)]);
    world.api.add(&receiver, &["#"], json!({"retry": ["1s"]})).await;
    world.api.publish("order.created", json!(1)).await;
    receiver.wait_for(2).await;

    let address = relay_tests::metrics_address(&world.deliverers[0]).await;
    let expected = [
        r#"relay_attempts_total{result="5xx"} 1"#,
        r#"relay_attempts_total{result="2xx"} 1"#,
        r#"relay_deliveries_total{outcome="delivered"} 1"#,
        r#"relay_retries_total{delay="1s"} 1"#,
        r#"relay_dead_letters_total{reason="attempts_exhausted"} 0"#,
        "relay_delivery_lag_seconds_count 1",
        "relay_broker_connected 1",
        "relay_attempts_in_flight 0",
        r#"relay_queue_messages{queue="archive"} 1"#,
    ];
    for line in expected {
        world.api.wait_for_metric(&address, line).await;
    }
    let gateway = world
        .api
        .metrics(&relay_tests::metrics_address(world.gateway()).await)
        .await;
    assert!(
        gateway.contains("relay_gateway_events_published_total 1"),
        "{gateway}"
    );
}

/// An answer without end costs neither memory nor the success of those that have one.
#[tokio::test(flavor = "multi_thread")]
async fn endless_answers_are_cut() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    receiver.respond_by(|request| match request.json()["data"].as_str().unwrap() {
        "endless" => Answer::EndlessBody,
        "drip" => Answer::DripBody {
            every: Duration::from_millis(20),
            chunk: 1,
        },
        _ => Answer::status(200),
    });
    let settings = json!({"retry": [], "timeout_ms": 1000});
    world.api.add(&receiver, &["#"], settings).await;
    world.api.publish("a.b", Value::from("endless")).await;
    let dripping = world.api.publish("a.b", Value::from("drip")).await;
    // The endless one said 200 and its beginning was read; the dripping one never ended in time.
    let metrics = relay_tests::metrics_address(&world.deliverers[0]).await;
    wait_until("both attempts to be counted", || async {
        let text = world.api.metrics(&metrics).await;
        let lines = [
            r#"relay_attempts_total{result="2xx"} 1"#,
            r#"relay_attempts_total{result="timeout"} 1"#,
        ];
        if lines.iter().all(|line| text.contains(line)) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    let letters = world.dead_letters(1).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].event_id.as_deref(), Some(dripping.as_str()));
    assert!(letters[0].last_error.as_deref().unwrap().starts_with("timeout"));
}
