use relay_event::{DeadReason, DeliveryState, EndpointId, ErrorClass, EventId, Timestamp};
use serde::Deserialize;

use crate::{
    api::{Api, Pages, Query, understand},
    output, words,
};

/// An attempt as the relay tells it.
#[derive(Deserialize)]
struct Attempt {
    endpoint: EndpointId,
    attempt: u32,
    at: Timestamp,
    duration_ms: u64,
    first_byte_ms: Option<u64>,
    status: Option<u16>,
    error: Option<ErrorClass>,
    detail: Option<String>,
    #[serde(default)]
    answer: String,
    state: DeliveryState,
    next_at: Option<Timestamp>,
    reason: Option<DeadReason>,
    deliverer: String,
}

/// Prints every attempt to deliver an event, page by page: as text, or each as a line of JSON.
pub(super) async fn print(api: &Api, id: &EventId, source: &str, json: bool) -> anyhow::Result<()> {
    let id = super::in_path(source, id);
    let path = ["v1", "events", &id, "attempts"];
    let query = Query::default().with("source", Some(source));
    let mut pages = Pages::new(api, &path, query, u64::MAX);
    while let Some(items) = pages.next().await? {
        if json && !items.is_empty() {
            output::say_more(&output::lines(&items));
        }
        for item in items.iter().filter(|_| !json) {
            let attempt = understand(item.get().as_bytes())?;
            output::say_more(&format!("\n{}", readable(&attempt, Timestamp::now())));
        }
    }
    Ok(())
}

fn readable(attempt: &Attempt, now: Timestamp) -> String {
    let first_byte = attempt
        .first_byte_ms
        .map(|millis| format!(", first byte after {millis} ms"));
    let took = format!("{} ms{}", attempt.duration_ms, first_byte.unwrap_or_default());
    // An answer of several lines takes one here.
    let answer = attempt.answer.replace(['\n', '\r', '\t'], " ");
    output::block(&output::known([
        ("attempt", Some(attempt.attempt.to_string())),
        ("endpoint", Some(attempt.endpoint.to_string())),
        ("at", Some(words::time(attempt.at, now))),
        ("took", Some(took)),
        ("outcome", words::outcome(attempt.status, attempt.error)),
        ("detail", attempt.detail.clone()),
        ("answer", Some(answer).filter(|answer| !answer.is_empty())),
        ("state", Some(state(attempt))),
        ("deliverer", Some(attempt.deliverer.clone())),
    ]))
}

/// How the delivery stood after it.
fn state(attempt: &Attempt) -> String {
    match (attempt.next_at, attempt.reason) {
        (Some(next), _) => format!("{}, next at {next}", attempt.state),
        (None, Some(reason)) => format!("{}: {reason}", attempt.state),
        (None, None) => attempt.state.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(more: Value) -> String {
        let mut attempt = json!({
            "id": "at_0198b7a0c5d07d3f8a6e2b4c1d9e8f70", "attempt": 2, "at": "2026-01-31T09:29:00Z",
            "endpoint": "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70", "duration_ms": 12, "deliverer": "host:7",
        });
        let more = more.as_object().unwrap().clone();
        attempt.as_object_mut().unwrap().extend(more);
        let now = "2026-01-31T09:30:00Z".parse().unwrap();
        readable(&serde_json::from_value(attempt).unwrap(), now)
    }

    #[test]
    fn an_answer_is_shown_on_one_line() {
        let failed = json!({"status": 500, "first_byte_ms": 7, "answer": "no\n\tway\u{1b}",
            "state": "retrying", "next_at": "2026-01-31T09:34:00Z"});
        let expected = "\
attempt    2
endpoint   ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70
at         2026-01-31T09:29:00.000Z (1m ago)
took       12 ms, first byte after 7 ms
outcome    500
answer     no  way\u{fffd}
state      retrying, next at 2026-01-31T09:34:00.000Z
deliverer  host:7";
        assert_eq!(shown(failed), expected);
    }

    #[test]
    fn the_last_one_says_why_there_is_no_other() {
        let dead = json!({"error": "connect", "detail": "refused", "answer": "", "state": "dead",
            "reason": "attempts_exhausted"});
        let text = shown(dead);
        for line in [
            "outcome    connect",
            "detail     refused",
            "state      dead: attempts_exhausted",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("answer"), "{text}");
    }
}
