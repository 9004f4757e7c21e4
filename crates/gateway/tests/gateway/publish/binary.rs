//! Events whose attributes are headers.

use relay_broker::Queue;
use relay_event::EventId;
use reqwest::Method;
use serde_json::{Value, json};

use super::{WHOLE, event, is_replayed, request, take};
use crate::relay::{Relay, folder};

/// The specification's own examples (HTTP binding, sections 3.1.3.2 and 3.1.4).
#[tokio::test]
async fn attributes_may_be_headers() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let binary = |more: &[(&str, &str)], data: &[u8]| {
        let mut request = relay.request(Method::POST, "/v1/events").body(data.to_vec());
        let example = [
            ("ce-specversion", "1.0"),
            ("ce-type", "com.example.someevent"),
            ("ce-time", "2018-04-05T03:56:24Z"),
            ("ce-source", "/mycontext/subcontext"),
        ];
        for (name, value) in example.iter().chain(more) {
            request = request.header(*name, *value);
        }
        relay.send(request)
    };
    let json = ("Content-Type", "application/json; charset=utf-8");
    let text = ("Ce-Subject", "Euro%20%E2%82%AC%20%F0%9F%98%80");
    let data = br#" { "appinfoA" : "abc" , "n":1.50 } "#;
    let accepted = binary(&[("ce-id", "1234-1234-1234"), json, text], data).await;
    assert!(!is_replayed(&accepted));
    assert_eq!(accepted.json(), json!({"id": "1234-1234-1234"}));
    let keyed = binary(&[("idempotency-key", "k1"), json], data).await;
    assert_eq!(
        keyed.json()["id"],
        EventId::of_key("/mycontext/subcontext", "k1").as_str()
    );
    let events = take(&relay, 2).await;
    let body = std::str::from_utf8(events[0].body()).unwrap();
    assert!(
        body.contains(r#""data":{ "appinfoA" : "abc" , "n":1.50 }"#),
        "{body}"
    );
    assert_eq!(
        serde_json::from_str::<Value>(body).unwrap(),
        json!({
            "specversion": "1.0", "type": "com.example.someevent", "time": "2018-04-05T03:56:24Z",
            "id": "1234-1234-1234", "source": "/mycontext/subcontext", "subject": "Euro € 😀",
            "datacontenttype": "application/json; charset=utf-8", "data": {"appinfoA": "abc", "n": 1.50},
        })
    );

    for (headers, field) in [
        (&[json][..], "ce-id"),
        (&[("ce-id", "1"), ("ce-id", "2")], "ce-id"),
        (&[("ce-id", "1"), ("ce-subject", "%C0%A0")], "ce-subject"),
        (
            &[("ce-id", "1"), ("ce-datacontenttype", "text/plain")],
            "ce-datacontenttype",
        ),
    ] {
        let refused = binary(headers, b"{}").await.problem(400, "invalid");
        assert_eq!(refused["field"], field, "{refused}");
    }
    // In base64 it is larger than it came.
    let image = [("ce-id", "1"), ("content-type", "image/png")];
    let refused = binary(&image, &[0; 200_000]).await;
    refused.problem(413, "too-large");
    assert_eq!(relay.waiting(Queue::Work).await, 2);
}

/// The content type decides, as the binding has it.
#[tokio::test]
async fn headers_beside_a_whole_event_are_not_its_attributes() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let whole = request(&relay, WHOLE, event("1")).header("ce-id", "2");
    assert_eq!(relay.send(whole).await.json(), json!({"id": "1"}));
    let avro = request(&relay, "application/cloudevents+avro", "x").header("ce-id", "2");
    let refused = relay.send(avro).await;
    refused.problem(415, "unsupported-media-type");
}
