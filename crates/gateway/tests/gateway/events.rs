//! What is taken as an event, and what is not.

use relay_broker::Queue;
use relay_testkit::wait_until;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::relay::{Answer, Relay, config, folder};

const WHOLE: &str = "application/cloudevents+json";
const SHORT: &str = "application/json";

async fn post(relay: &Relay, content_type: &str, body: &str) -> Answer {
    relay
        .call_as(Method::POST, "/v1/events", content_type, body.to_owned())
        .await
}

/// The events in the work queue, as they were published.
async fn taken(relay: &Relay, count: u32) -> Vec<Value> {
    let events = relay.look_into(Queue::Work, count).await.into_iter();
    events
        .map(|(event, _)| serde_json::from_slice(event.body()).unwrap())
        .collect()
}

#[tokio::test]
async fn an_event_is_in_the_queue_when_it_is_accepted() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let whole =
        r#"{"specversion": "1.0", "id": "a 1","source":"/x","type":"order.created"}"#.replace("a 1", "a1");
    let accepted = post(&relay, WHOLE, &whole).await;
    assert_eq!((accepted.status, accepted.json()), (202, json!({"id": "a1"})));
    assert_eq!(relay.waiting(Queue::Work).await, 1);

    let short = r#"{"type":"order.paid","data":{"n":1.50}}"#;
    let accepted = post(&relay, "application/json; charset=UTF-8", short).await;
    assert_eq!(accepted.status, 202);
    assert_eq!(relay.waiting(Queue::Work).await, 2);

    let events = taken(&relay, 2).await;
    assert_eq!(events[0], serde_json::from_str::<Value>(&whole).unwrap());
    assert_eq!(events[1]["id"], accepted.json()["id"]);
    assert_eq!(events[1]["source"], "/relay");
    assert_eq!(events[1]["specversion"], "1.0");
    assert!(events[1]["time"].is_string());
    assert_eq!(relay.metric("relay_gateway_events_published_total"), 2.0);
}

#[tokio::test]
async fn an_id_that_is_given_is_kept() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    for content_type in [WHOLE, SHORT] {
        let body = r#"{"specversion":"1.0","id":"mine","source":"/x","type":"a.b"}"#;
        assert_eq!(post(&relay, content_type, body).await.json()["id"], "mine");
    }
}

#[tokio::test]
async fn invalid_events_name_the_field_and_are_not_published() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let full = |change: Value| {
        let mut event = json!({"specversion": "1.0", "id": "1", "source": "/x", "type": "a.b"});
        event
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        event.to_string()
    };
    let table = [
        (WHOLE, String::new(), "event"),
        (WHOLE, "{".to_owned(), "event"),
        (WHOLE, "[]".to_owned(), "event"),
        (WHOLE, r#"{"type":"a.b"}"#.to_owned(), "specversion"),
        (WHOLE, full(json!({"specversion": "0.3"})), "specversion"),
        (WHOLE, full(json!({"id": ""})), "id"),
        (WHOLE, full(json!({"id": "two\nlines"})), "id"),
        (WHOLE, full(json!({"source": ""})), "source"),
        (WHOLE, full(json!({"type": "a.*"})), "type"),
        (WHOLE, full(json!({"time": "today"})), "time"),
        (WHOLE, full(json!({"data_base64": "!"})), "data_base64"),
        (WHOLE, full(json!({"extension": {}})), "extension"),
        (WHOLE, full(json!({"Extension": "x"})), "Extension"),
        (SHORT, "{}".to_owned(), "type"),
        (SHORT, "null".to_owned(), "event"),
        (SHORT, r#"{"type":7}"#.to_owned(), "type"),
        (SHORT, r#"{"type":"a","type":"b"}"#.to_owned(), "type"),
    ];
    for (content_type, body, field) in &table {
        let problem = post(&relay, content_type, body).await.problem(400, "invalid");
        assert_eq!(problem["field"], *field, "{body}: {problem}");
    }
    assert_eq!(relay.waiting(Queue::Work).await, 0);
    let refused = relay.metric(r#"relay_gateway_events_refused_total{reason="invalid"}"#);
    assert_eq!(refused, table.len() as f64);
}

#[tokio::test]
async fn other_media_types_are_refused_by_name() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    for content_type in [
        "text/plain",
        "application/jsonp",
        "application/json; charset=latin1",
        "application/cloudevents+avro",
    ] {
        let refused = post(&relay, content_type, r#"{"type":"a.b"}"#).await;
        let problem = refused.problem(415, "unsupported-media-type");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(WHOLE) && detail.contains(SHORT), "{detail}");
    }
    let bare = relay.request(Method::POST, "/v1/events").body("{}");
    relay.send(bare).await.problem(415, "unsupported-media-type");
}

#[tokio::test]
async fn an_event_over_the_limit_is_refused_with_the_limit() {
    let folder = folder();
    let mut config = config(relay_testkit::shared_broker().await, &folder);
    config.max_event_bytes = 1_000;
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    let frame = r#"{"specversion":"1.0","id":"1","source":"/x","type":"a.b","data":""}"#;
    let sized = |size: usize| {
        let data = format!(r#""data":"{}""#, "x".repeat(size - frame.len()));
        frame.replace(r#""data":"""#, &data)
    };
    assert_eq!(post(&relay, WHOLE, &sized(1_000)).await.status, 202);
    let large = "x".repeat(1_000_000);
    // A shorthand within the limit that is over it once it is filled in.
    let filled = json!({"type": "a.b", "data": "x".repeat(950)}).to_string();
    for (content_type, body) in [(WHOLE, &sized(1_001)), (SHORT, &large), (SHORT, &filled)] {
        let problem = post(&relay, content_type, body).await.problem(413, "too-large");
        assert!(
            problem["detail"].as_str().unwrap().contains("1000 bytes"),
            "{problem}"
        );
    }
    assert_eq!(
        relay.metric(r#"relay_gateway_events_refused_total{reason="too_large"}"#),
        3.0
    );
}

/// Neither a promise of too much nor a stream without end is read on.
#[tokio::test]
async fn a_body_is_not_read_beyond_the_limit() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let address = relay.url.strip_prefix("http://").unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\n";

    let mut promising = TcpStream::connect(address).await.unwrap();
    let promise = format!("{head}content-length: 262145\r\n\r\n");
    promising.write_all(promise.as_bytes()).await.unwrap();
    assert!(answer(&mut promising).await.starts_with("HTTP/1.1 413"));

    let mut endless = TcpStream::connect(address).await.unwrap();
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    endless.write_all(chunked.as_bytes()).await.unwrap();
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    for _ in 0..8 {
        endless.write_all(chunk.as_bytes()).await.unwrap();
    }
    endless.write_all(b"1\r\nx\r\n").await.unwrap();
    assert!(answer(&mut endless).await.starts_with("HTTP/1.1 413"));
}

/// The next answer's beginning.
async fn answer(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 1_000];
    let read = stream.read(&mut buffer).await.unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let folder = folder();
    let mut config = config(relay_testkit::shared_broker().await, &folder);
    config.limits.body_timeout = std::time::Duration::from_millis(50);
    let relay = Relay::start_with(config).await;
    let mut slow = TcpStream::connect(relay.url.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut slow).await.starts_with("HTTP/1.1 408"));
}

#[tokio::test]
async fn many_at_once_are_all_there() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    futures_util::future::join_all((0..200).map(|_| relay.publish(&["a.b"]))).await;
    wait_until("all of them", || async {
        relay.waiting(Queue::Work).await == 200
    })
    .await;
}
