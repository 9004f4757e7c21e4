//! An endpoint wants the events of one source and about one subject only.

use std::collections::BTreeSet;

use relay_testkit::{Receiver, wait_until};
use relay_tests::{Added, Api, Database, World};
use reqwest::Method;
use serde_json::{Value, json};

async fn publish(api: &Api, id: &str, source: &str, subject: Option<&str>) {
    let mut event = json!({"id": id, "source": source, "type": "import.done"});
    if let Some(subject) = subject {
        event["subject"] = subject.into();
    }
    api.offer(event).await.unwrap();
}

/// Waits until all is known of an event, and returns the endpoints that it went to.
async fn delivered_to(api: &Api, id: &str) -> BTreeSet<String> {
    wait_until("the event to be settled", || async {
        let response = api.call(Method::GET, &format!("/v1/events/{id}"), None).await;
        let text = response.text().await.unwrap();
        let event: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
        let deliveries = event["deliveries"].as_array().ok_or(text.clone())?;
        let are_delivered = deliveries.iter().all(|delivery| delivery["state"] == "delivered");
        if event["settled"] != json!(true) || deliveries.is_empty() || !are_delivered {
            return Err(text);
        }
        let endpoint = |delivery: &Value| delivery["endpoint"].as_str().unwrap().to_owned();
        Ok(deliveries.iter().map(endpoint).collect())
    })
    .await
}

fn ids(endpoints: &[&Added]) -> BTreeSet<String> {
    endpoints.iter().map(|endpoint| endpoint.id.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_gets_the_events_of_its_source_and_subject() {
    let world = World::recorded(Database::Sqlite).await;
    let api = &world.api;
    let receiver = Receiver::start().await;
    let all = api.add(&receiver, &["import.*"], json!({})).await;
    let of_source = api
        .add(&receiver, &["import.*"], json!({"source": "/imports"}))
        .await;
    let of_both = json!({"source": "/imports", "subject": "42"});
    let of_both = api.add(&receiver, &["#"], of_both).await;
    publish(api, "1", "/imports", Some("42")).await;
    publish(api, "2", "/imports", Some("43")).await;
    publish(api, "3", "/imports", None).await;
    publish(api, "4", "/exports", Some("42")).await;
    for (id, endpoints) in [
        ("1", ids(&[&all, &of_source, &of_both])),
        ("2", ids(&[&all, &of_source])),
        ("3", ids(&[&all, &of_source])),
        ("4", ids(&[&all])),
    ] {
        assert_eq!(delivered_to(api, id).await, endpoints, "{id}");
    }

    api.change(&of_both.id, json!({"source": null, "subject": "43"}))
        .await;
    publish(api, "5", "/exports", Some("43")).await;
    publish(api, "6", "/imports", Some("42")).await;
    assert_eq!(delivered_to(api, "5").await, ids(&[&all, &of_both]));
    assert_eq!(delivered_to(api, "6").await, ids(&[&all, &of_source]));
    assert_eq!(receiver.requests().len(), 12);

    // It is sent again what it wants by now, and nothing else.
    let path = format!("/v1/endpoints/{}/recover", of_both.id);
    let asked = json!({"since": "1h", "dry_run": true});
    let recoverable = api.json(Method::POST, &path, Some(asked)).await;
    assert_eq!(recoverable, json!({"events": 1}));
    let replayed = api
        .json(Method::POST, "/v1/events/2/replay", Some(json!({})))
        .await;
    let endpoints = replayed["endpoints"].as_array().unwrap().iter();
    let endpoints: BTreeSet<String> = endpoints.map(|id| id.as_str().unwrap().to_owned()).collect();
    assert_eq!(endpoints, ids(&[&all, &of_source, &of_both]));
    let to_it = json!({"endpoint": of_both.id});
    let refused = api.call(Method::POST, "/v1/events/4/replay", Some(to_it)).await;
    assert_eq!(refused.status(), 400);
    let refused = refused.text().await.unwrap();
    assert!(
        refused.contains("wants no event of type import.done"),
        "{refused}"
    );
}
