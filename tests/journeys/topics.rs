//! The relay's reading of types and patterns is RabbitMQ's.

use std::collections::BTreeSet;

use relay_event::{EventType, TypePattern};
use relay_testkit::shared_broker;
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
    let producer = world.producer().await;
    let mut queues = Vec::new();
    for text in PATTERNS {
        let pattern: TypePattern = text.parse().unwrap();
        queues.push((pattern, producer.watch("events", text).await));
    }
    let types: Vec<EventType> = TYPES.iter().map(|text| text.parse().expect(text)).collect();
    for (number, event_type) in types.iter().enumerate() {
        let event =
            json!({"specversion": "1.0", "id": number.to_string(), "source": "/topics", "type": event_type});
        // Confirmed once it is in all queues.
        producer
            .publish_structured(event_type.as_str(), event.to_string().as_bytes())
            .await;
    }
    for (pattern, queue) in &queues {
        let wanted = types.iter().filter(|event_type| pattern.matches(event_type));
        let wanted: BTreeSet<&str> = wanted.map(EventType::as_str).collect();
        let routed = queue.take_all().await;
        let routed: BTreeSet<&str> = routed
            .iter()
            .map(|message| message.routing_key.as_str())
            .collect();
        assert_eq!(routed, wanted, "{pattern}");
    }
}
