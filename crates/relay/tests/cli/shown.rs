//! Text of others on the reader's terminal: it moves no cursor, hides nothing, and costs little.

use relay_event::DeadReason::AttemptsExhausted;
use relay_testkit::{Answer, Receiver};
use serde_json::{Value, json};

use crate::{
    gateway::{Gateway, ok, problem},
    receive::Receiving,
    support::{World, ended},
};

const ENDPOINT: &str = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";

/// Allowed raw in JSON, and understood or hidden by terminals: controls, marks that turn the direction of text,
/// invisible characters, line breaks that are no newline.
const HOSTILE: [char; 17] = [
    '\u{7f}',
    '\u{80}',
    '\u{9b}',
    '\u{9d}',
    '\u{ad}',
    '\u{61c}',
    '\u{200b}',
    '\u{200d}',
    '\u{200e}',
    '\u{2028}',
    '\u{2029}',
    '\u{202e}',
    '\u{2066}',
    '\u{feff}',
    '\u{fff9}',
    '\u{1bca0}',
    '\u{e0041}',
];

fn hostile() -> String {
    let marks: String = HOSTILE.iter().collect();
    format!("<{marks}>")
}

/// The part of it that an attribute of an event may hold: no controls.
fn marks() -> String {
    hostile().replace(char::is_control, "")
}

/// An event with such text wherever an event may have it.
fn event(id: &str) -> String {
    let (bad, subject) = (hostile(), marks());
    format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"order.created","subject":"{subject}","data":{{"{bad}":["{bad}",1.50]}}}}"#
    )
}

fn item(cursor: &str, id: &str) -> String {
    format!(r#"{{"cursor":"{cursor}","event":{}}}"#, event(id))
}

fn feed(items: &[String]) -> Answer {
    Answer::status(200).body(format!(
        r#"{{"events":[{}],"next":"c9","more":false}}"#,
        items.join(",")
    ))
}

#[track_caller]
fn assert_clean(output: &str) {
    let raw: Vec<char> = output
        .chars()
        .filter(|c| HOSTILE.contains(c) || (c.is_control() && *c != '\n'))
        .collect();
    assert!(raw.is_empty(), "{raw:?} in {output:?}");
}

/// The lines of JSON in what was printed mean what was sent.
#[track_caller]
fn assert_same(output: &str, sent: &str) {
    let sent: Value = serde_json::from_str(sent).unwrap();
    let same = |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|said| said == sent);
    assert!(output.lines().any(same), "{output}");
}

fn shown() -> String {
    let bad = hostile();
    format!(
        r#"{{"sequence":7,"id":"a","source":"/s{bad}e","type":"order.created","subject":"{bad}",
"recorded_at":"2026-01-31T09:30:00Z","size_bytes":812,"deliveries":[],"event":{}}}"#,
        event("a")
    )
}

#[tokio::test]
async fn an_event_is_shown_without_a_character_that_moves_or_hides() {
    let gateway = Gateway::start().await;
    gateway.receiver.respond_with(Answer::status(200).body(shown()));
    let readable = gateway.run(&["events", "show", "a"]).await.ok();
    assert_clean(&readable);
    assert!(
        readable.contains(r"\u009b") && readable.contains(r"\u202e"),
        "{readable}"
    );

    let json = gateway.run(&["events", "show", "a", "--json"]).await.ok();
    assert_clean(&json);
    let sent: Value = serde_json::from_str(&shown()).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), sent);

    let attempt = json!({"id": "at_0198b7a0c5d07d3f8a6e2b4c1d9e8f70", "endpoint": ENDPOINT, "attempt": 1,
        "at": "2026-01-31T09:30:01Z", "duration_ms": 12, "status": 500, "answer": hostile(), "detail": hostile(),
        "state": "dead", "reason": "attempts_exhausted", "deliverer": hostile()});
    let attempts = json!({"attempts": [attempt], "next": null}).to_string();
    gateway.answer(move |_, path, _| {
        let body = if path.contains("attempts") {
            attempts.clone()
        } else {
            shown()
        };
        Answer::status(200).body(body)
    });
    let args = ["events", "show", "a", "--attempts"];
    assert_clean(&gateway.run(&args).await.ok());
    let lines = gateway.run(&[&args[..], &["--json"]].concat()).await.ok();
    assert_clean(&lines);
    assert_same(&lines, &shown());
    assert_same(&lines, &attempt.to_string());
}

#[tokio::test]
async fn lists_and_feeds_are_clean() {
    let gateway = Gateway::start().await;
    let listed = json!({"sequence": 7, "id": "a", "source": hostile(), "type": "order.created",
        "subject": hostile(), "recorded_at": "2026-01-31T09:30:00Z", "size_bytes": 812});
    gateway
        .receiver
        .respond_with(ok(200, &json!({"events": [listed], "next": null})));
    assert_clean(&gateway.run(&["events", "list"]).await.ok());
    let lines = gateway.run(&["events", "list", "--json"]).await.ok();
    assert_clean(&lines);
    assert_same(&lines, &listed.to_string());

    for options in [&["--json"][..], &[]] {
        gateway.receiver.script([feed(&[item("c1", "a")])]);
        gateway.receiver.respond_with(Answer::Hold);
        let following = [&["events", "follow", "--since", "1h"], options].concat();
        let following = gateway.start_command(&following);
        following.wait_for_output("order.created").await;
        following.signal("INT");
        let output = ended(following).await.ok();
        assert_clean(&output);
        if !options.is_empty() {
            assert_same(&output, &item("c1", "a"));
        }
    }
    for options in [&["--json"][..], &[]] {
        gateway.receiver.script([feed(&[item("c1", "a")])]);
        let seen = ["reconcile", "--since", "1h", "--seen", "/dev/null"];
        let output = gateway.run(&[&seen[..], options].concat()).await.failed(3);
        assert_clean(&output);
        if !options.is_empty() {
            assert_same(&output, &item("c1", "a"));
        }
    }
}

/// A failure in the words of the relay, or of what stands before it, is text of others too.
#[tokio::test]
async fn refusals_that_quote_others_are_clean() {
    let gateway = Gateway::start().await;
    gateway.receiver.respond_with(problem(400, &hostile()));
    for args in [
        &["events", "list"][..],
        &["endpoint", "list"],
        &["publish", "--via", "http", "--type", "a"],
        &["events", "replay", "a"],
    ] {
        assert_clean(&gateway.run(args).await.failed(1));
    }
    gateway.receiver.script([problem(503, &hostile())]);
    gateway.receiver.respond_with(problem(400, &hostile()));
    assert_clean(&gateway.run(&["events", "follow"]).await.failed(1));
    let view = json!({"id": ENDPOINT, "url": "http://x/", "types": ["a"], "state": "disabled",
        "reason": hostile(), hostile(): hostile()});
    gateway.receiver.respond_with(ok(200, &view));
    for options in [&[][..], &["--json"]] {
        let show = [&["endpoint", "show", ENDPOINT], options].concat();
        assert_clean(&gateway.run(&show).await.ok());
    }
}

#[tokio::test]
async fn deliveries_are_clean_on_both_sides() {
    for options in [&["--json"][..], &[]] {
        let receiving = Receiving::alone(options).await;
        assert_eq!(
            receiving.post(axum::http::HeaderMap::new(), &event("a")).await,
            200
        );
        receiving.process.wait_for_output("order.created").await;
        receiving.process.signal("INT");
        assert_clean(&ended(receiving.process).await.ok());
    }
    for options in [&["--json"][..], &[]] {
        let (gateway, app) = (Gateway::start().await, Receiver::start().await);
        app.respond_with(Answer::status(500).body(hostile()));
        gateway.receiver.script([feed(&[item("c1", "a")]), Answer::Hold]);
        let url = app.url();
        let listen = ["listen", "--since", "1h", "--forward-to", &url];
        let listening = gateway.start_command(&[&listen[..], options].concat());
        gateway.receiver.wait_for(2).await;
        listening.signal("INT");
        let output = ended(listening).await.ok();
        assert!(output.contains("order.created"), "{output}");
        assert_clean(&output);
    }
}

#[tokio::test]
async fn dead_letters_are_clean() {
    let world = World::new().await;
    let event = relay_event::Event::parse(event("a").into()).unwrap();
    world.kill_events(&[event], AttemptsExhausted).await;
    world.kill_garbage(hostile().as_bytes()).await;
    for args in [
        &["dlq", "list"][..],
        &["dlq", "list", "--json"],
        &["dlq", "show", "a"],
        &["dlq", "show", "a", "--json"],
    ] {
        world.wait_dead(2).await;
        assert_clean(&world.run(args).await.ok());
    }
    world.wait_dead(2).await;
    let shown = world.run(&["dlq", "show", "a", "--json"]).await.json();
    world.wait_dead(2).await;
    assert_eq!(shown["dead_letters"][0]["event"]["data"][hostile()][0], hostile());

    // A file is no terminal: what is exported is what came.
    let path = world.path("dead.ndjson");
    world.run(&["dlq", "drain", "--export", &path]).await.ok();
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.contains(&self::event("a")), "{written}");
}

/// Carriage returns between the parts of JSON are white space.
#[tokio::test]
async fn an_event_whose_lines_end_as_on_windows_is_shown_as_json() {
    let gateway = Gateway::start().await;
    let event = "{\r\n\"specversion\":\"1.0\",\r\n\"id\":\"a\",\"source\":\"/s\",\"type\":\"order.created\",\
                 \r\n\"data\":[1,\r2]}";
    let shown = shown().replace(&self::event("a"), event).replace('\n', "\r\n");
    gateway
        .receiver
        .respond_with(Answer::status(200).body(shown.clone()));
    let readable = gateway.run(&["events", "show", "a"]).await.ok();
    assert_clean(&readable);
    let start = readable.find("\n{").expect("the event as JSON");
    let mut said = serde_json::Deserializer::from_str(&readable[start..]).into_iter::<Value>();
    let said = said.next().unwrap().unwrap();
    assert_eq!(said, serde_json::from_str::<Value>(event).unwrap());
    let json = gateway.run(&["events", "show", "a", "--json"]).await.ok();
    assert_clean(&json);
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap(),
        serde_json::from_str::<Value>(&shown).unwrap()
    );
}

/// Two spaces for each of 100,000 levels would be 20 GB.
#[tokio::test]
async fn json_that_nests_without_end_costs_no_more_than_its_size() {
    const DEPTH: usize = 100_000;
    let gateway = Gateway::start().await;
    let data = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let event =
        format!(r#"{{"specversion":"1.0","id":"a","source":"/s","type":"order.created","data":{data}}}"#);
    let shown = format!(
        r#"{{"id":"a","source":"/s","type":"order.created","recorded_at":"2026-01-31T09:30:00Z","size_bytes":1,
"deliveries":[],"event":{event}}}"#
    );
    gateway.receiver.respond_with(Answer::status(200).body(shown));
    for options in ["", "--json"] {
        let line = format!("ulimit -v 4000000; relay events show a {options}");
        let output = gateway.run_in_shell(&line).await.ok();
        let brackets = output.matches('[').count();
        assert!(
            brackets >= DEPTH && output.len() < 3 * DEPTH,
            "{brackets} in {}",
            output.len()
        );
    }
    gateway.receiver.script([Answer::status(200).body(format!(
        r#"{{"events":[{{"cursor":"c1","event":{event}}}],"next":"c1","more":false}}"#
    ))]);
    let line = "ulimit -v 4000000; relay reconcile --since 1h --seen /dev/null --json";
    let output = gateway.run_in_shell(line).await.failed(3);
    assert!(output.len() > 2 * DEPTH, "{}", output.len());
}

/// Columns are as wide as a terminal draws them, and what follows stays below its head.
#[tokio::test]
async fn wide_characters_take_two_columns() {
    let gateway = Gateway::start().await;
    let listed = |id: &str, subject: &str| {
        json!({"sequence": 7, "id": id, "source": "/s", "type": "a", "subject": subject,
            "recorded_at": "2026-01-31T09:30:00Z", "size_bytes": 812})
    };
    let events = [
        listed("1", "日本語"),
        listed("2", "e\u{301}te"),
        listed("3", "abcdef"),
    ];
    gateway
        .receiver
        .respond_with(ok(200, &json!({"events": events, "next": null})));
    let table = gateway.run(&["events", "list"]).await.ok();
    let rows: Vec<&str> = table.lines().skip(1).collect();
    for (row, cell) in rows
        .iter()
        .zip(["日本語   812", "e\u{301}te      812", "abcdef   812"])
    {
        assert!(row.contains(cell), "{table}");
    }
}
