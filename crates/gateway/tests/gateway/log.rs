//! The log over HTTP. What is in it was put there directly.

use relay_event::{Attempt, AttemptId, DeadReason, DeliveryState, EndpointId, ErrorClass, Event, Timestamp};
use relay_store::{NewEvent, Record};
use serde_json::json;

use crate::relay::{Relay, folder};

/// An event as it is published.
pub(crate) fn event(id: &str, event_type: &str) -> Event {
    let event = json!({"specversion": "1.0", "id": id, "source": "/orders", "type": event_type});
    Event::parse(event.to_string().into()).unwrap()
}

pub(crate) async fn record_event(relay: &Relay, event: Event, routed_to: &[&str]) {
    let now = Timestamp::now();
    let record = Record::Event(NewEvent {
        event,
        published_at: Some(now),
        routed_to: routed_to.iter().map(|id| id.parse().unwrap()).collect(),
    });
    relay.store.record(&[record], now).await.unwrap();
}

/// One attempt at an event's delivery that failed, and was the last.
pub(crate) fn failed(event: &Event, endpoint: &str) -> Attempt {
    Attempt {
        id: AttemptId::generate(),
        event_id: event.id().clone(),
        event_source: event.source().to_owned(),
        event_type: event.event_type().clone(),
        published_at: Some(Timestamp::now()),
        endpoint: endpoint.parse().unwrap(),
        attempt: 1,
        hop: 0,
        at: Timestamp::now(),
        duration_ms: 83,
        first_byte_ms: None,
        status: None,
        error: Some(ErrorClass::Connect),
        detail: Some("connection refused".to_owned()),
        answer: String::new(),
        state: DeliveryState::Dead,
        next_at: None,
        reason: Some(DeadReason::AttemptsExhausted),
        deliverer: "here-1".to_owned(),
    }
}

pub(crate) async fn record_attempt(relay: &Relay, attempt: Attempt) {
    let record = Record::Attempt(attempt);
    relay.store.record(&[record], Timestamp::now()).await.unwrap();
}

/// All pages of a list, by `next`; each page's texts of this field.
async fn pages(relay: &Relay, path: &str, list: &str, field: &str) -> Vec<Vec<String>> {
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = relay.get(&format!("{path}{cursor}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let page = answer.json();
        let items = page[list].as_array().unwrap().iter();
        pages.push(
            items
                .map(|item| item[field].as_str().unwrap().to_owned())
                .collect(),
        );
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn events_are_listed_newest_first_in_pages() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    assert_eq!(
        relay.get("/v1/events").await.json(),
        json!({"events": [], "next": null})
    );
    for (id, event_type) in [("1", "a.b"), ("2", "c"), ("3", "a.b"), ("4", "a.d"), ("5", "a.b")] {
        record_event(&relay, event(id, event_type), &[]).await;
    }
    for (path, expected) in [
        (
            "/v1/events?limit=2",
            vec![vec!["5", "4"], vec!["3", "2"], vec!["1"]],
        ),
        ("/v1/events?limit=5", vec![vec!["5", "4", "3", "2", "1"]]),
        (
            "/v1/events?limit=2&types=a.*",
            vec![vec!["5", "4"], vec!["3", "1"]],
        ),
        ("/v1/events?types=c,a.d&since=1h", vec![vec!["4", "2"]]),
        ("/v1/events?source=/orders&until=1h", vec![vec![]]),
        (
            "/v1/events?source=%2Forders&limit=3",
            vec![vec!["5", "4", "3"], vec!["2", "1"]],
        ),
        ("/v1/events?source=/else", vec![vec![]]),
        ("/v1/events?subject=42", vec![vec![]]),
    ] {
        assert_eq!(pages(&relay, path, "events", "id").await, expected, "{path}");
    }
    let listed = relay.get("/v1/events?limit=1").await.json()["events"][0].clone();
    assert_eq!(
        (&listed["type"], &listed["source"]),
        (&json!("a.b"), &json!("/orders"))
    );
    assert_eq!(listed["size_bytes"], event("5", "a.b").body().len());
    assert!(listed["published_at"].is_string() && listed["recorded_at"].is_string());
    assert!(listed.get("subject").is_none(), "{listed}");
}

/// Each event has a type of its own, as a producer may give it: so many that they are looked at part by part.
#[tokio::test]
async fn few_of_very_many_types_are_found_part_by_part() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let numbers: Vec<usize> = (0..9_000).collect();
    for batch in numbers.chunks(1_000) {
        let new = |number: &usize| {
            let event_type = match number {
                3 | 8_995 => "order.created".to_owned(),
                _ => format!("spam.t{number}"),
            };
            Record::Event(NewEvent {
                event: event(&number.to_string(), &event_type),
                published_at: None,
                routed_to: Vec::new(),
            })
        };
        let records: Vec<_> = batch.iter().map(new).collect();
        relay.store.record(&records, Timestamp::now()).await.unwrap();
    }
    let expected = vec![vec!["8995".to_owned()], vec!["3".to_owned()]];
    let listed = pages(&relay, "/v1/events?types=*.created", "events", "id").await;
    assert_eq!(listed, expected);
    let none = pages(&relay, "/v1/events?types=*.paid", "events", "id").await;
    assert_eq!(none, [[""; 0]; 2]);
    let all_at_once = pages(&relay, "/v1/events?types=order.*", "events", "id").await;
    assert_eq!(all_at_once, [["8995", "3"]]);

    let (mut after, mut fed) = ("start".to_owned(), Vec::new());
    for more in [true, false] {
        let page = relay
            // What the gateway knows of the log's end may be a second old, as nothing is announced here.
            .get(&format!("/v1/feed?types=*.created&after={after}&wait=30s"))
            .await;
        assert_eq!(page.status, 200, "{page:?}");
        assert_eq!(page.header("retry-after") == Some("0"), more);
        let page = page.json();
        assert_eq!(page["more"], more, "{page}");
        let ids = page["events"].as_array().unwrap().iter();
        fed.extend(ids.map(|item| item["event"]["id"].as_str().unwrap().to_owned()));
        after = page["next"].as_str().unwrap().to_owned();
    }
    assert_eq!(fed, ["3", "8995"]);
}

/// Ids are whatever a header can carry, and events are shown as they are delivered.
#[tokio::test]
async fn an_event_is_shown_byte_for_byte_whatever_its_id() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let endpoint = relay.add(&["a"]).await;
    for (id, path) in [
        ("a/b", "a%2Fb"),
        ("?c=1%&~#x", "%3Fc=1%25&~%23x"),
        ("%2F", "%252F"),
        ("{+}", "%7B+%7D"),
    ] {
        let body = format!(
            r#"{{ "specversion":"1.0", "id":"{id}",  "source":"/x", "type":"a", "data":{{"n":1.50, "n":"\u00e9"}} }}"#
        );
        let event = Event::parse(body.clone().into()).unwrap();
        record_event(&relay, event.clone(), &[]).await;
        record_attempt(&relay, failed(&event, &endpoint)).await;
        let shown = relay.get(&format!("/v1/events/{path}")).await;
        assert_eq!(shown.status, 200, "{shown:?}");
        assert!(
            shown.text.ends_with(&format!(r#","event":{body}}}"#)),
            "{shown:?}"
        );
        let shown = shown.json();
        assert_eq!(shown["id"], id);
        let delivery = &shown["deliveries"][0];
        assert!(
            delivery["at"].is_string() && delivery.get("next_at").is_none(),
            "{delivery}"
        );
        let stands =
            ["endpoint", "state", "attempts", "reason", "error"].map(|field| delivery[field].clone());
        let expected = json!([endpoint, "dead", 1, "attempts_exhausted", "connect"]);
        assert_eq!(json!(stands), expected);
        let attempts = relay.get(&format!("/v1/events/{path}/attempts")).await.json();
        assert_eq!(attempts["attempts"][0]["detail"], "connection refused");
    }
}

#[tokio::test]
async fn sources_may_use_the_same_ids() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    record_event(&relay, event("1", "a"), &[]).await;
    let other = json!({"specversion": "1.0", "id": "1", "source": "/new", "type": "b"});
    record_event(&relay, Event::parse(other.to_string().into()).unwrap(), &[]).await;
    for (path, event_type) in [
        ("/v1/events/1", "b"),
        ("/v1/events/1?source=/new", "b"),
        ("/v1/events/1?source=/orders", "a"),
    ] {
        assert_eq!(relay.get(path).await.json()["type"], event_type, "{path}");
    }
    relay
        .get("/v1/events/1?source=/else")
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn attempts_and_deliveries_are_listed_in_pages() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (one, other) = (relay.add(&["a"]).await, relay.add(&["a"]).await);
    let events = ["1", "2", "3"].map(|id| event(id, "a"));
    let mut ids = Vec::new();
    for event in &events {
        record_event(&relay, event.clone(), &[&one, &other]).await;
        let attempt = failed(event, &one);
        ids.push(attempt.id.to_string());
        record_attempt(&relay, attempt).await;
    }
    let attempts = [2, 3].map(|attempt| Attempt {
        attempt,
        ..failed(&events[0], &one)
    });
    for attempt in attempts.clone() {
        record_attempt(&relay, attempt).await;
    }

    let of_the_first = vec![
        vec![ids[0].clone(), attempts[0].id.to_string()],
        vec![attempts[1].id.to_string()],
    ];
    let path = "/v1/events/1/attempts?limit=2";
    assert_eq!(pages(&relay, path, "attempts", "id").await, of_the_first);
    let path = format!("/v1/events/1/attempts?endpoint={other}");
    assert_eq!(pages(&relay, &path, "attempts", "id").await, [[""; 0]]);

    for (path, expected) in [
        (
            "/v1/deliveries?limit=4".to_owned(),
            vec![vec!["3", "3", "2", "2"], vec!["1", "1"]],
        ),
        (
            "/v1/deliveries?limit=1&state=dead".to_owned(),
            vec![vec!["3"], vec!["2"], vec!["1"]],
        ),
        (
            format!("/v1/deliveries?endpoint={other}&state=pending&since=1h"),
            vec![vec!["3", "2", "1"]],
        ),
        (
            format!("/v1/deliveries?endpoint={other}&state=dead"),
            vec![vec![]],
        ),
        ("/v1/deliveries?until=1h".to_owned(), vec![vec![]]),
    ] {
        assert_eq!(
            pages(&relay, &path, "deliveries", "event").await,
            expected,
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_name() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let endpoint = relay.add(&["a"]).await;
    for id in ["1", "2"] {
        record_event(
            &relay,
            event(id, "a"),
            &[&endpoint, EndpointId::generate().as_str()],
        )
        .await;
    }
    let next = async |path| relay.get(path).await.json()["next"].as_str().unwrap().to_owned();
    let of_events = next("/v1/events?limit=1").await;
    let of_deliveries = next("/v1/deliveries?limit=1").await;
    for (path, field) in [
        ("/v1/events?limit=0".to_owned(), "limit"),
        ("/v1/events?limit=1001".to_owned(), "limit"),
        ("/v1/events?types=a,%23.%23.%23".to_owned(), "types[1]"),
        ("/v1/events?since=yesterday".to_owned(), "since"),
        ("/v1/events?since=1h&until=2h".to_owned(), "since"),
        ("/v1/events?state=dead".to_owned(), "state"),
        ("/v1/events?cursor=garbage".to_owned(), "cursor"),
        (format!("/v1/events?cursor={of_deliveries}"), "cursor"),
        (format!("/v1/deliveries?cursor={of_events}"), "cursor"),
        (format!("/v1/events/1/attempts?cursor={of_events}"), "cursor"),
        ("/v1/deliveries?state=gone".to_owned(), "state"),
        ("/v1/deliveries?endpoint=7".to_owned(), "endpoint"),
        ("/v1/events/1?sauce=/x".to_owned(), "sauce"),
        ("/v1/events/1/attempts?state=dead".to_owned(), "state"),
        (format!("/v1/endpoints/{endpoint}/stats?since=1h"), "since"),
    ] {
        let problem = relay.get(&path).await.problem(400, "invalid");
        assert_eq!(problem["field"], field, "{path}: {problem}");
    }
    let attempts = [
        failed(&event("1", "a"), &endpoint),
        failed(&event("1", "a"), &endpoint),
    ];
    for attempt in attempts {
        record_attempt(&relay, attempt).await;
    }
    let of_another = next("/v1/events/1/attempts?limit=1").await;
    let path = format!("/v1/events/2/attempts?cursor={of_another}");
    assert_eq!(relay.get(&path).await.problem(400, "invalid")["field"], "cursor");
}

#[tokio::test]
async fn an_event_that_is_not_there_may_be_there_in_a_moment() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    for path in [
        "/v1/events/1",
        "/v1/events/1/attempts",
        "/v1/events/%ff",
        "/v1/events/two%20words",
    ] {
        let problem = relay.get(path).await.problem(404, "not-found");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("in a moment"), "{path}: {problem}");
    }
    relay.get("/v1/events/").await.problem(404, "not-found");
    relay.get("/v1/events/a/b").await.problem(404, "not-found");
}
