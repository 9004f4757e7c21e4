//! The relay's reading of types and patterns is RabbitMQ's.

use std::collections::BTreeSet;

use relay_event::{EndpointId, Event, EventType, Timestamp, TypePattern};
use relay_testkit::{shared_broker, wait_until};
use relay_tests::World;
use serde_json::json;

/// Words that are empty, or hold spaces, other scripts, wildcards and what looks like a separator.
const TYPES: [&str; 26] = [
    "a",
    "a.b",
    "a.b.c",
    "b",
    ".",
    "..",
    "a.",
    ".a",
    "a..b",
    "a...b",
    ".a.",
    " ",
    "a b",
    "a .b",
    " a",
    "a*",
    "*a.b",
    "#a",
    "a.b#",
    "**",
    "größe.ändern",
    "日本.語",
    "a/b",
    "a,b",
    "%61",
    "A.B",
];

const PATTERNS: [&str; 36] = [
    "#",
    "*",
    "*.*",
    "*.*.*",
    "a",
    "a.*",
    "a.#",
    "*.b",
    "#.b",
    "a.*.b",
    "a.#.b",
    "#.#",
    "*.#",
    "#.*",
    "#.a.#",
    ".",
    "..",
    "a.",
    ".a",
    ".*",
    "*.",
    ".#",
    "#.",
    "a..b",
    " ",
    "a b",
    "a*",
    "*a.b",
    "a*.#",
    "#a",
    "**",
    "größe.*",
    "日本.語",
    "a,b",
    "%61",
    "A.#",
];

/// Every type is published once, and every pattern is a queue's: what comes into it is what the pattern matches.
#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_matches_what_rabbitmq_routes_by_it() {
    let world = World::without_deliverer(shared_broker().await).await;
    let session = world.session().await;
    let mut endpoints = Vec::new();
    for pattern in PATTERNS {
        let (id, pattern): (_, TypePattern) = (EndpointId::generate(), pattern.parse().unwrap());
        session.declare_endpoint(&id, &[]).await.unwrap();
        session
            .bind_endpoint(&id, std::slice::from_ref(&pattern), &[])
            .await
            .unwrap();
        endpoints.push((id, pattern));
    }
    let types: Vec<EventType> = TYPES.iter().map(|text| text.parse().expect(text)).collect();
    for (number, event_type) in types.iter().enumerate() {
        let event =
            json!({"specversion": "1.0", "id": number.to_string(), "source": "/topics", "type": event_type});
        let event = Event::parse(event.to_string().into()).unwrap();
        session.publish_event(&event, Timestamp::now()).await.unwrap();
    }
    for (id, pattern) in &endpoints {
        let wanted = types.iter().filter(|event_type| pattern.matches(event_type));
        let wanted: BTreeSet<&str> = wanted.map(EventType::as_str).collect();
        let queue = session.topology().endpoint(id);
        wait_until("what the pattern matches to be in its queue", || async {
            let depth = session.depth(&queue).await.unwrap().unwrap();
            let ready = usize::try_from(depth.ready).unwrap();
            let report = || format!("{pattern}: {ready} instead of {wanted:?}");
            (ready == wanted.len()).then_some(()).ok_or_else(report)
        })
        .await;
        let mut taking = session.subscribe(&queue, 100).await.unwrap();
        let (mut held, mut routed) = (Vec::new(), BTreeSet::new());
        for _ in 0..wanted.len() {
            let mut taken = taking.next().await.unwrap();
            let event = taken.read(&session, usize::MAX).event.unwrap();
            routed.insert(event.event_type().to_string());
            held.push(taken);
        }
        assert!(
            routed.iter().map(String::as_str).eq(wanted),
            "{pattern}: {routed:?}"
        );
    }
    session.close().await;
}
