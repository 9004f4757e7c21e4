//! Events that come again; and in its rooms, those that come together or as headers.

mod batch;
mod binary;
mod callback;
pub(crate) mod confirmed;

use std::time::Duration;

use futures_util::future::join_all;
use relay_broker::Queue;
use relay_event::{Event, EventId};
use relay_testkit::{Proxy, shared_broker};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::relay::{Answer, Relay, config, folder};

pub(crate) const WHOLE: &str = "application/cloudevents+json";
pub(crate) const BATCH: &str = "application/cloudevents-batch+json";

pub(crate) fn event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/orders", "type": "order.created"})
}

fn request(relay: &Relay, content_type: &str, body: impl ToString) -> RequestBuilder {
    relay
        .request(Method::POST, "/v1/events")
        .header("content-type", content_type)
        .body(body.to_string())
}

async fn post(relay: &Relay, content_type: &str, body: impl ToString) -> Answer {
    relay.send(request(relay, content_type, body)).await
}

/// Whether it is known to have been sent before; it must be accepted.
pub(crate) fn is_replayed(answer: &Answer) -> bool {
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.header("idempotent-replayed") == Some("true")
}

/// The events in the work queue, which must be so many; they stay there.
pub(crate) async fn take(relay: &Relay, count: u32) -> Vec<Event> {
    let events = relay.look_into(Queue::Work, count).await.into_iter();
    events.map(|(event, _)| event).collect()
}

#[tokio::test]
async fn an_event_that_comes_again_is_sent_once() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let first = post(&relay, WHOLE, event("a/1")).await;
    assert!(!is_replayed(&first));
    assert_eq!(first.header("location"), Some("/v1/events/a%2F1"));

    // In whichever way it comes.
    let short = json!({"id": "a/1", "source": "/orders", "type": "order.created", "data": 7});
    for (content_type, body) in [(WHOLE, event("a/1")), ("application/json", short)] {
        let again = post(&relay, content_type, body).await;
        assert!(is_replayed(&again));
        assert_eq!(again.json(), first.json());
        assert_eq!(again.header("location"), first.header("location"));
    }
    assert_eq!(relay.waiting(Queue::Work).await, 1);

    // Source and id together name an event.
    let mut other = event("a/1");
    other["source"] = json!("/invoices");
    assert!(!is_replayed(&post(&relay, WHOLE, other).await));
    assert_eq!(relay.waiting(Queue::Work).await, 2);
    assert_eq!(relay.metric("relay_gateway_events_published_total"), 2.0);
    assert_eq!(relay.metric("relay_gateway_events_replayed_total"), 2.0);
}

#[tokio::test]
async fn of_many_at_once_one_is_sent() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let answers = join_all((0..20).map(|_| post(&relay, WHOLE, event("1")))).await;
    let sent = answers.iter().filter(|answer| !is_replayed(answer)).count();
    assert_eq!((sent, relay.waiting(Queue::Work).await), (1, 1));
}

/// What was begun for it is finished, and remembered.
#[tokio::test]
async fn a_client_that_goes_away_ends_nothing() {
    let folder = folder();
    let proxy = Proxy::start(shared_broker().await).await;
    let relay = Relay::start_with(config(&proxy.url(), &folder)).await;
    relay.until_ready().await;
    proxy.freeze(true);
    let impatient = request(&relay, WHOLE, event("1")).timeout(Duration::from_millis(300));
    assert!(impatient.send().await.unwrap_err().is_timeout());
    proxy.freeze(false);
    assert!(is_replayed(&post(&relay, WHOLE, event("1")).await));
    assert_eq!(relay.waiting(Queue::Work).await, 1);
}

#[tokio::test]
async fn a_key_is_the_id_of_an_event_without_one() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let keyed = async |key: &str, content_type: &str, body: Value| {
        let request = request(&relay, content_type, body).header("idempotency-key", key);
        relay.send(request).await
    };
    let short = || json!({"type": "order.created"});
    let first = keyed("k1", "application/json", short()).await;
    assert!(!is_replayed(&first));
    assert_eq!(first.json()["id"], EventId::of_key("/relay", "k1").as_str());
    assert!(is_replayed(&keyed("k1", "application/json", short()).await));
    assert!(!is_replayed(&keyed("k2", "application/json", short()).await));

    // An event that is whole but for its id.
    let mut whole = event("");
    whole.as_object_mut().unwrap().remove("id");
    let by_key = keyed("k1", WHOLE, whole).await;
    assert_eq!(by_key.json()["id"], EventId::of_key("/orders", "k1").as_str());
    let events = take(&relay, 3).await;
    assert_eq!(events[0].id(), &EventId::of_key("/relay", "k1"));

    let long = "k".repeat(256);
    for (key, content_type, body) in [
        ("", "application/json", short()),
        ("two words", "application/json", short()),
        (&long, "application/json", short()),
        ("k1", WHOLE, event("own")),
        ("k1", BATCH, json!([event("own")])),
    ] {
        let refused = keyed(key, content_type, body).await.problem(400, "invalid");
        assert_eq!(refused["field"], "Idempotency-Key");
    }
}
