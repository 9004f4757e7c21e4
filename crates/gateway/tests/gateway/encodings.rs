//! Bodies that are compressed, or begin with a byte order mark.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use relay_broker::Queue;
use relay_testkit::shared_broker;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::{
    publish::{BATCH, WHOLE, event, is_replayed, take},
    relay::{Answer, Relay, config, folder},
};

const SHORT: &str = "application/json";
const BOM: &str = "\u{feff}";

fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn encoded(relay: &Relay, path: &str, coding: &str, content_type: &str, body: Vec<u8>) -> RequestBuilder {
    relay
        .request(Method::POST, path)
        .header("content-type", content_type)
        .header("content-encoding", coding)
        .body(body)
}

async fn post(relay: &Relay, coding: &str, content_type: &str, body: Vec<u8>) -> Answer {
    relay
        .send(encoded(relay, "/v1/events", coding, content_type, body))
        .await
}

#[tokio::test]
async fn a_compressed_body_is_read_as_what_it_holds() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let whole = event("1").to_string();
    assert!(!is_replayed(&post(&relay, "gzip", WHOLE, gzip(&whole)).await));
    // The same event, however it comes.
    for coding in ["GZIP", "x-gzip"] {
        assert!(is_replayed(&post(&relay, coding, WHOLE, gzip(&whole)).await));
    }
    assert!(is_replayed(
        &post(&relay, "identity", WHOLE, whole.clone().into()).await
    ));
    // As `cat a.gz b.gz` makes it (RFC 1952, section 2.2).
    let two = [gzip(&whole[..20]), gzip(&whole[20..])].concat();
    assert!(is_replayed(&post(&relay, "gzip", WHOLE, two).await));

    let batch = json!([event("2"), event("3")]).to_string();
    let accepted = post(&relay, "gzip", BATCH, gzip(batch)).await;
    assert_eq!(accepted.json(), json!({"ids": ["2", "3"]}));
    let short = post(&relay, "gzip", SHORT, gzip(r#"{"type":"a.b","id":"4"}"#)).await;
    assert_eq!(short.json(), json!({"id": "4"}));
    let binary = encoded(
        &relay,
        "/v1/events",
        "gzip",
        "text/plain",
        gzip("Order 45 was created."),
    );
    let binary = binary
        .header("ce-specversion", "1.0")
        .header("ce-id", "5")
        .header("ce-source", "/orders")
        .header("ce-type", "order.created");
    assert_eq!(relay.send(binary).await.status, 202);

    let events = take(&relay, 5).await;
    let find = |id: &str| events.iter().find(|event| event.id().as_str() == id).unwrap();
    assert_eq!(*find("1").body(), whole, "byte for byte");
    let binary: Value = serde_json::from_slice(find("5").body()).unwrap();
    assert_eq!(binary["data"], "Order 45 was created.");
}

#[tokio::test]
async fn every_route_takes_a_compressed_body() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let endpoint = relay.add(&["#"]).await;
    let cursor = relay.get("/v1/feed").await.json()["next"].clone();
    relay.publish(&["a.b"]).await;
    for (path, body, status) in [
        (
            "/v1/endpoints",
            json!({"url": "https://example.com/", "types": ["a"]}),
            201,
        ),
        (
            &*format!("/v1/endpoints/{endpoint}/rotate-secret"),
            json!({"overlap": "1h"}),
            200,
        ),
        (
            &format!("/v1/endpoints/{endpoint}/recover"),
            json!({"since": "1h", "dry_run": true}),
            200,
        ),
        (
            "/v1/access-tokens",
            json!({"types": ["#"], "expires_in": "1h"}),
            201,
        ),
        ("/v1/feed/billing/commit", json!({"cursor": cursor}), 200),
    ] {
        let request = encoded(&relay, path, "gzip", SHORT, gzip(body.to_string()));
        let answer = relay.send(request).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        for coding in ["br", "gzip, gzip", "deflate", "zstd"] {
            let request = encoded(&relay, path, coding, SHORT, body.to_string().into());
            let refused = relay.send(request).await;
            let problem = refused.problem(415, "unsupported-content-encoding");
            assert_eq!(
                refused.header("accept-encoding"),
                Some("gzip"),
                "{path}: {coding}"
            );
            assert_eq!(problem["field"], "Content-Encoding");
        }
    }
}

/// A body in such an encoding is refused: its bytes are not taken for data.
#[tokio::test]
async fn an_encoding_that_is_not_known_changes_nothing() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    for (coding, content_type) in [
        ("br", "text/plain"),
        ("deflate", WHOLE),
        ("zstd", BATCH),
        ("compress", SHORT),
    ] {
        let request = encoded(&relay, "/v1/events", coding, content_type, vec![1, 2, 3])
            .header("ce-specversion", "1.0")
            .header("ce-id", "1")
            .header("ce-source", "/x")
            .header("ce-type", "a.b");
        let refused = relay.send(request).await;
        let problem = refused.problem(415, "unsupported-content-encoding");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(coding) && detail.contains("gzip"), "{detail}");
        assert_eq!(refused.header("accept-encoding"), Some("gzip"));
    }
    assert_eq!(relay.waiting(Queue::Work).await, 0);
    let refused = relay.metric(r#"relay_gateway_events_refused_total{reason="invalid"}"#);
    assert_eq!(refused, 4.0);
}

#[tokio::test]
async fn a_compressed_body_is_not_unpacked_beyond_the_limit() {
    let folder = folder();
    let mut config = config(shared_broker().await, &folder);
    (config.max_event_bytes, config.max_batch_bytes) = (1_000, 3_000);
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    let frame = r#"{"specversion":"1.0","id":"1","source":"/x","type":"a.b","data":""}"#;
    let sized = |size: usize| {
        let data = format!(r#""data":"{}""#, "x".repeat(size - frame.len()));
        frame.replace(r#""data":"""#, &data)
    };
    assert_eq!(post(&relay, "gzip", WHOLE, gzip(sized(1_000))).await.status, 202);
    for (content_type, body) in [
        (WHOLE, gzip(sized(1_001))),
        (SHORT, gzip(vec![b' '; 100_000_000])),
        (BATCH, gzip(vec![b' '; 3_001])),
        // A body that unpacks to nothing has a limit too.
        (WHOLE, gzip("").repeat(100)),
    ] {
        let refused = post(&relay, "gzip", content_type, body).await;
        let detail = refused.problem(413, "too-large")["detail"].clone();
        assert!(detail.as_str().unwrap().contains("000 bytes"), "{detail}");
    }
    assert_eq!(
        relay.metric(r#"relay_gateway_events_refused_total{reason="too_large"}"#),
        4.0
    );
}

#[tokio::test]
async fn a_broken_gzip_is_refused_as_such() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let whole = gzip(event("1").to_string());
    let mut wrong_sum = whole.clone();
    let sum = wrong_sum.len() - 8;
    wrong_sum[sum] ^= 1;
    for body in [
        Vec::new(),
        event("1").to_string().into(),
        whole[..5].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        [&whole[..], b"rest"].concat(),
        [&whole[..], &whole[..9]].concat(),
        wrong_sum,
    ] {
        let refused = post(&relay, "gzip", WHOLE, body).await.problem(400, "invalid");
        assert_eq!(refused["field"], "body");
        assert!(refused["detail"].as_str().unwrap().contains("gzip"), "{refused}");
    }
    assert_eq!(relay.waiting(Queue::Work).await, 0);
}

/// RFC 8259, section 8.1: a reader may ignore it.
#[tokio::test]
async fn a_byte_order_mark_before_json_is_skipped() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let post = async |content_type: &str, body: &str| {
        let body = format!("{BOM}{body}");
        relay
            .call_as(Method::POST, "/v1/events", content_type, body)
            .await
    };
    let whole = event("1").to_string();
    assert!(!is_replayed(&post(WHOLE, &whole).await));
    let batch = json!([event("2"), event("3")]).to_string();
    assert_eq!(post(BATCH, &batch).await.json(), json!({"ids": ["2", "3"]}));
    let short = post(SHORT, r#"{"type":"a.b","id":"4"}"#).await;
    assert_eq!(short.json(), json!({"id": "4"}));
    let keyed = relay
        .request(Method::POST, "/v1/events")
        .header("content-type", SHORT);
    let keyed = keyed.header("idempotency-key", "k1");
    let keyed = relay
        .send(keyed.body(format!("{BOM}{}", r#"{"type":"a.b"}"#)))
        .await;
    assert_eq!(keyed.status, 202, "{keyed:?}");
    for (id, content_type, data) in [
        ("5", "application/json", "{\"n\":1}"),
        ("6", "text/plain", "text"),
    ] {
        let binary = relay
            .request(Method::POST, "/v1/events")
            .header("content-type", content_type);
        let binary = binary
            .header("ce-specversion", "1.0")
            .header("ce-id", id)
            .header("ce-source", "/orders")
            .header("ce-type", "order.created");
        let accepted = relay.send(binary.body(format!("{BOM}{data}"))).await;
        assert_eq!(accepted.status, 202, "{accepted:?}");
    }
    let events = take(&relay, 7).await;
    let find = |id: &str| events.iter().find(|event| event.id().as_str() == id).unwrap();
    assert_eq!(*find("1").body(), whole, "all but the mark");
    let data = |id: &str| serde_json::from_slice::<Value>(find(id).body()).unwrap()["data"].clone();
    assert_eq!(data("5"), json!({"n": 1}));
    assert_eq!(data("6"), format!("{BOM}text"), "text is data as it is");

    let body = format!("{BOM}{}", json!({"url": "https://example.com/", "types": ["a"]}));
    let added = relay.call_as(Method::POST, "/v1/endpoints", SHORT, body).await;
    assert_eq!(added.status, 201, "{added:?}");
}
