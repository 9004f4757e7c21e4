//! CloudEvents' rules at every door: what they allow is delivered, what they forbid is refused with the rule.

use std::collections::BTreeSet;

use relay_broker::Queue;
use relay_event::{DeadLetter, DeadReason};
use relay_testkit::{Receiver, Request};
use relay_tests::{World, amqp};
use reqwest::Method;
use serde_json::{Value, json};

const WHOLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const SHORT: &str = "application/json";

fn event(id: &str, change: &Value) -> Value {
    let mut event = json!({"specversion": "1.0", "id": id, "source": "/door", "type": "door.opened"});
    let members = change.as_object().unwrap().clone();
    event.as_object_mut().unwrap().extend(members);
    event
}

fn deep(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

/// Values that an attribute may have; each was refused once.
fn allowed() -> Vec<Value> {
    vec![
        json!({"subject": null}),
        json!({"time": null}),
        json!({"datacontenttype": null}),
        json!({"dataschema": null}),
        json!({"trace": null}),
        json!({"data": {"a": 1}, "data_base64": null}),
        json!({"data": null, "data_base64": "YQ=="}),
        json!({"time": "0001-01-01T00:00:00Z"}),
        json!({"time": "9999-12-31T23:59:59.9999999-12:00"}),
        json!({"type": "two words"}),
        json!({"type": "größe.geändert"}),
        json!({"type": "a..b"}),
        json!({"type": ".a."}),
        json!({"type": "a*.b#"}),
        json!({"dataschema": "https://example.com/schema.json#/order"}),
        json!({"datacontenttype": "text/plain; charset=\"utf-8\""}),
        json!({"source": "https://example.com/a%20b?c#d"}),
        json!({"rate": i32::MIN, "urgent": true, "empty": ""}),
        json!({"data": deep(64)}),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cloudevents_allows_is_delivered_whole() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let producer = world.producer().await;
    let mut sent = BTreeSet::new();
    let mut ids = (0..).map(|number| format!("door-{number}"));
    let mut next = |change: &Value| {
        let event = event(&ids.next().unwrap(), change);
        sent.insert(event.to_string());
        event
    };
    let mut batch = Vec::new();
    for change in allowed() {
        let whole = next(&change);
        let answer = world.api.post_event(WHOLE, whole.to_string()).await;
        assert_eq!(answer.status(), 202, "{whole}: {}", answer.text().await.unwrap());
        let by_amqp = next(&change);
        let key = by_amqp["type"].as_str().unwrap();
        producer
            .publish_structured(key, by_amqp.to_string().as_bytes())
            .await;
        batch.push(next(&change));
    }
    let answer = world.api.post_event(BATCH, Value::from(batch).to_string()).await;
    assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());

    let requests = receiver.wait_for(3 * allowed().len()).await;
    let body = |request: &Request| String::from_utf8(request.body.to_vec()).unwrap();
    assert_eq!(requests.iter().map(body).collect::<BTreeSet<_>>(), sent);
    assert_eq!(world.waiting(Queue::Dead).await, 0);
}

/// Each member of the shorthand may be null, and is filled in; it stands in the event once.
#[tokio::test(flavor = "multi_thread")]
async fn nulls_in_shorthand_are_filled_in() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let short = r#"{"specversion":null,"id":null,"source":null,"type":"a.b","time":null,"subject":null,"data":{"n": 1.0}}"#;
    let answer = world.api.post_event(SHORT, short.to_owned()).await;
    assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
    let request = receiver.wait_for(1).await.remove(0);
    let text = String::from_utf8(request.body.to_vec()).unwrap();
    for member in [
        "\"specversion\":\"1.0\"",
        "\"source\":\"/relay\"",
        "\"time\":\"2",
        "\"data\":{\"n\": 1.0}",
    ] {
        assert!(text.contains(member), "{text}");
    }
    for name in ["specversion", "id", "source", "time"] {
        assert_eq!(text.matches(&format!("\"{name}\":")).count(), 1, "{text}");
    }
}

/// Values that CloudEvents says an attribute must not have, and the part of the refusal that tells why.
fn forbidden() -> Vec<(Value, &'static str, &'static str)> {
    let long = "x".repeat(9_000);
    vec![
        (json!({"id": "a\u{9b}b"}), "id", "control characters"),
        (json!({"id": "x".repeat(1_025)}), "id", "1024 bytes"),
        (json!({"source": "http://[bad"}), "source", "URI reference"),
        (json!({"source": "/a<b>"}), "source", "URI reference"),
        (json!({"source": "/a%zz"}), "source", "URI reference"),
        (
            json!({"source": "https://example.com/a b"}),
            "source",
            "URI reference",
        ),
        (json!({"type": "a.\u{7}"}), "type", "control characters"),
        (json!({"type": "a.*"}), "type", "`*` or `#`"),
        (json!({"type": "x".repeat(256)}), "type", "255 bytes"),
        (json!({"subject": "a\u{ffff}"}), "subject", "noncharacters"),
        (json!({"dataschema": "schema.json"}), "dataschema", "absolute URI"),
        (
            json!({"datacontenttype": "json"}),
            "datacontenttype",
            "media type",
        ),
        (
            json!({"datacontenttype": "text/plain\u{85}"}),
            "datacontenttype",
            "media type",
        ),
        (json!({"rate": 1.5}), "rate", "whole number"),
        (json!({"rate": 2_147_483_648_i64}), "rate", "whole number"),
        (json!({"note": "a\nb"}), "note", "control characters"),
        (json!({"note": long}), "note", "8192 bytes"),
        (json!({"data": deep(65)}), "data", "nests deeper than 64"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cloudevents_forbids_is_refused_and_changes_nothing() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let producer = world.producer().await;
    for (change, field, why) in forbidden() {
        let event = event("1", &change);
        let answer = world.api.post_event(WHOLE, event.to_string()).await;
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (status, problem["field"].as_str()),
            (400, Some(field)),
            "{change}: {text}"
        );
        assert!(problem["detail"].as_str().unwrap().contains(why), "{text}");
        let batch = json!([event]).to_string();
        let answer = world.api.post_event(BATCH, batch).await;
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert!(
            status == 400 && text.contains(&format!("[0].{field}")),
            "{change}: {text}"
        );
        let type_ = event["type"].as_str().unwrap();
        let key = &type_[..type_.len().min(255)];
        producer
            .publish_structured(key, event.to_string().as_bytes())
            .await;
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-id", "nested"),
        ("ce-source", "/door"),
        ("ce-type", "door.opened"),
    ];
    let mut request = world
        .api
        .request(Method::POST, "/v1/events")
        .header("content-type", SHORT);
    for (name, value) in attributes {
        request = request.header(name, value);
    }
    let answer = request.body(nested.clone()).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("nests deeper than 64"));
    let binary = lapin::BasicProperties::default()
        .with_content_type(SHORT.into())
        .with_headers(amqp::headers(&attributes));
    producer.publish("door.opened", binary, nested.as_bytes()).await;

    let letters = world
        .dead_letters(u32::try_from(forbidden().len()).unwrap() + 1)
        .await;
    let invalid = |letter: &DeadLetter| letter.reason == DeadReason::InvalidEvent;
    assert!(letters.iter().all(invalid), "{letters:#?}");
    let details: Vec<&str> = letters
        .iter()
        .filter_map(|letter| letter.detail.as_deref())
        .collect();
    for (change, field, why) in forbidden() {
        let said = |detail: &&str| detail.starts_with(field) && detail.contains(why);
        assert!(details.iter().any(said), "{change}: {details:#?}");
    }
    let deep = |detail: &&&str| **detail == "data: nests deeper than 64";
    assert_eq!(details.iter().filter(deep).count(), 2, "{details:#?}");
    assert_eq!(receiver.count(), 0);
}
