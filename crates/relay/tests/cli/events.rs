use relay_testkit::Answer;
use serde_json::{Value, json};

use crate::gateway::{Gateway, ok, problem};

const ENDPOINT: &str = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";

fn listed(id: &str) -> Value {
    json!({"sequence": 7, "id": id, "source": "/s", "type": "order.created",
        "recorded_at": "2026-01-31T09:30:00Z", "size_bytes": 812})
}

fn page(ids: &[&str], next: Option<&str>) -> Answer {
    let events: Vec<Value> = ids.iter().map(|id| listed(id)).collect();
    ok(200, &json!({"events": events, "next": next}))
}

/// The name and the value of each parameter of a request, as they are on the wire.
fn parameters(asked: &str) -> Vec<&str> {
    let (_, query) = asked.split_once('?').unwrap_or_default();
    query.split('&').collect()
}

#[tokio::test]
async fn all_are_asked_for_page_by_page_and_printed_as_lines_of_json() {
    let gateway = Gateway::start().await;
    gateway
        .receiver
        .script([page(&["c", "b"], Some("c1")), page(&["a"], None)]);
    let args = ["events", "list", "--all", "--json", "--type", "order.*,a.#"];
    let more = [
        "--source",
        "/s x",
        "--subject",
        "o&1",
        "--since",
        "2026-01-31T10:00:00+01:00",
    ];
    let output = gateway.run(&[&args[..], &more].concat()).await.ok();
    let expected = ["c", "b", "a"].map(|id| listed(id).to_string());
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);

    let asked = gateway.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    let first = [
        "types=order.*%2Ca.%23",
        "source=%2Fs+x",
        "subject=o%261",
        "since=2026-01-31T09%3A00%3A00.000Z",
        "limit=1000",
    ];
    assert!(asked[0].starts_with("GET /v1/events?"), "{}", asked[0]);
    assert_eq!(parameters(&asked[0]), first);
    assert_eq!(parameters(&asked[1]), [&first[..], &["cursor=c1"]].concat());
}

#[tokio::test]
async fn a_table_ends_at_the_limit_and_says_that_there_is_more() {
    let gateway = Gateway::start().await;
    let ids: Vec<String> = (0..1_000).map(|number| format!("id-{number}")).collect();
    gateway.answer(move |_, _, _| {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        page(&ids, Some("on"))
    });
    let output = gateway.run(&["events", "list", "--limit", "1500"]).await.ok();
    let rows = output.lines().filter(|line| line.starts_with("id-")).count();
    assert_eq!(rows, 1_500);
    assert_eq!(output.matches("RECORDED").count(), 1);
    assert!(
        output.contains("there are more events; --limit or --all"),
        "{output}"
    );
    let asked = gateway.asked();
    assert_eq!(parameters(&asked[0]), ["limit=1000"]);
    assert_eq!(parameters(&asked[1]), ["limit=500", "cursor=on"]);
}

#[tokio::test]
async fn an_empty_list_and_a_refused_one() {
    let gateway = Gateway::start().await;
    gateway.receiver.respond_with(page(&[], None));
    assert_eq!(gateway.run(&["events", "list"]).await.ok(), "no events");
    assert_eq!(parameters(&gateway.asked()[0]), ["limit=100"]);
    let none = gateway.run(&["events", "list", "--since", "1h"]).await.ok();
    assert_eq!(none, "no such events");
    gateway
        .receiver
        .respond_with(problem(503, "the store is unavailable"));
    let output = gateway.run(&["events", "list"]).await.failed(1);
    assert!(output.contains("the store is unavailable"), "{output}");
    for wrong in [["--type", "#.#.#"], ["--since", "soon"], ["--limit", "0"]] {
        gateway
            .run(&[&["events", "list"], &wrong[..]].concat())
            .await
            .failed(2);
    }
    assert_eq!(gateway.asked().len(), 3, "wrong usage asks for nothing");
}

fn attempt(number: u32, answer: &str) -> Value {
    json!({"id": "at_0198b7a0c5d07d3f8a6e2b4c1d9e8f70", "endpoint": ENDPOINT, "attempt": number,
        "at": "2026-01-31T09:30:01Z", "duration_ms": 12, "status": 500, "answer": answer,
        "state": "retrying", "next_at": "2026-01-31T09:30:31Z", "deliverer": "host:7"})
}

/// One event, whose id is no word of a path, with two pages of attempts.
fn one_event(method: &str, path: &str, _body: Value) -> Answer {
    assert_eq!(method, "GET");
    match path {
        "/v1/events/a%2Fb%3F" | "/v1/events/a%2Fb%3F?source=%2Fs" => {
            let mut shown = listed("a/b?");
            shown["deliveries"] = json!([{"endpoint": ENDPOINT, "state": "retrying", "attempts": 2,
                "at": "2026-01-31T09:30:01Z", "next_at": "2026-01-31T09:30:31Z", "error": "timeout"}]);
            let text = shown.to_string();
            let head = text.strip_suffix('}').unwrap();
            Answer::status(200).body(format!(r#"{head},"event":{{"n":1.50,"id":"a/b?"}}}}"#))
        }
        "/v1/events/a%2Fb%3F/attempts?source=%2Fs&limit=1000" => {
            ok(200, &json!({"attempts": [attempt(1, "no")], "next": "c1"}))
        }
        "/v1/events/a%2Fb%3F/attempts?source=%2Fs&limit=1000&cursor=c1" => {
            ok(200, &json!({"attempts": [attempt(2, "never")], "next": null}))
        }
        _ => problem(404, "there is no such event in the log"),
    }
}

#[tokio::test]
async fn an_event_of_any_id_is_shown_with_its_deliveries_and_attempts() {
    let gateway = Gateway::start().await;
    gateway.answer(one_event);
    let shown = gateway.run(&["events", "show", "a/b?"]).await.ok();
    for fact in ["order.created", "\"n\": 1.50", ENDPOINT, "retrying", "timeout"] {
        assert!(shown.contains(fact), "{fact}: {shown}");
    }
    let args = ["events", "show", "a/b?", "--source", "/s", "--attempts"];
    let whole = gateway.run(&args).await.ok();
    assert!(whole.starts_with(&shown), "{whole}");
    let (first, second) = (
        whole.find("answer     no").unwrap(),
        whole.find("answer     never").unwrap(),
    );
    assert!(first < second, "{whole}");
}

#[tokio::test]
async fn the_relay_s_answer_is_printed_word_for_word() {
    let gateway = Gateway::start().await;
    gateway.answer(one_event);
    let show = ["events", "show", "a/b?", "--json"];
    let shown = gateway.run(&show).await.ok();
    assert!(shown.contains("\"n\": 1.50"), "{shown}");
    let json: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(json["deliveries"][0]["attempts"], 2);

    let lines = gateway.run(&[&show[..], &["--attempts"]].concat()).await.ok();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, [json, attempt(1, "no"), attempt(2, "never")]);
}

#[tokio::test]
async fn an_unknown_event_says_how_to_find_another() {
    let gateway = Gateway::start().await;
    gateway.answer(one_event);
    let output = gateway.run(&["events", "show", "nobody"]).await.failed(1);
    assert!(
        output.contains("no such event") && output.contains("relay events list"),
        "{output}"
    );
    for id in ["..", "two\nlines"] {
        gateway.run(&["events", "show", id]).await.failed(2);
    }
}

#[tokio::test]
async fn a_replay_goes_to_all_or_to_one() {
    let gateway = Gateway::start().await;
    gateway
        .receiver
        .respond_with(ok(202, &json!({"id": "a/b", "endpoints": [ENDPOINT]})));
    let all = gateway.run(&["events", "replay", "a/b"]).await.ok();
    assert_eq!(all, format!("a/b replayed to 1 endpoint: {ENDPOINT}"));
    let one = [
        "events",
        "replay",
        "a/b",
        "--source",
        "/s",
        "--endpoint",
        ENDPOINT,
    ];
    gateway.run(&one).await.ok();
    assert_eq!(
        gateway.asked(),
        [
            "POST /v1/events/a%2Fb/replay",
            "POST /v1/events/a%2Fb/replay?source=%2Fs"
        ]
    );
    assert_eq!(gateway.bodies(), [json!({}), json!({"endpoint": ENDPOINT})]);

    for (answer, says) in [
        (problem(404, "there is no such event"), "relay events list"),
        (problem(503, "it may have been sent"), "it may have been sent"),
    ] {
        gateway.receiver.respond_with(answer);
        let refused = gateway.run(&["events", "replay", "x"]).await.failed(1);
        assert!(refused.contains(says), "{refused}");
    }
}
