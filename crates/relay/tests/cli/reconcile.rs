use std::fs;

use relay_testkit::{Answer, Receiver};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    gateway::{Gateway, expired, item, ok, page, problem},
    support::{Ended, ended},
};

const SINCE: [&str; 3] = ["reconcile", "--since", "24h"];

/// A receiver of a relay: what it has seen, and its state.
struct Desk {
    gateway: Gateway,
    folder: TempDir,
}

impl Desk {
    async fn new(seen: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("seen"), seen).unwrap();
        let gateway = Gateway::start().await;
        Self { gateway, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("state")).unwrap()).unwrap()
    }

    async fn run(&self, more: &[&str]) -> Ended {
        let (seen, state) = (self.path("seen"), self.path("state"));
        let args = [&SINCE[..], &["--seen", &seen, "--state", &state], more].concat();
        self.gateway.run(&args).await
    }

    async fn deliver(&self, to: &Receiver) -> Ended {
        let url = to.url();
        let secret = relay_event::Secret::generate();
        let env = [("RELAY_SECRET", secret.as_str())];
        let (seen, state) = (self.path("seen"), self.path("state"));
        let args = ["--seen", &seen, "--state", &state, "--forward-to", &url];
        ended(self.gateway.start_with(&env, &[&SINCE[..], &args].concat())).await
    }
}

#[tokio::test]
async fn what_was_missed_is_listed_once() {
    let desk = Desk::new("b\nc\t/tests\nd\t/elsewhere\n").await;
    desk.gateway.receiver.script([
        page(&[("c1", "a"), ("c2", "b")], "c2", true),
        page(&[("c3", "c"), ("c4", "d")], "c9", false),
    ]);
    let listed = desk.run(&[]).await.failed(3);
    let ids: Vec<&str> = listed
        .lines()
        .filter(|line| line.contains("order.created"))
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(ids, ["a", "d"], "{listed}");
    assert!(listed.contains("4 events looked at, 2 missed"), "{listed}");
    assert_eq!(desk.state()["cursor"], "c9");

    desk.gateway
        .receiver
        .script([page(&[("c10", "b")], "c10", false)]);
    let none = desk.run(&[]).await.ok();
    assert_eq!(none, "1 event looked at, 0 missed");
    let asked = desk.gateway.asked();
    assert!(
        asked[0].starts_with("GET /v1/feed?limit=1000&since="),
        "{asked:?}"
    );
    for (line, place) in asked[1..].iter().zip(["c2", "c9"]) {
        assert_eq!(*line, format!("GET /v1/feed?limit=1000&after={place}&wait=0s"));
    }
}

#[tokio::test]
async fn json_is_the_feed_s_item_and_what_was_seen_may_come_from_a_pipe() {
    let desk = Desk::new("").await;
    desk.gateway
        .receiver
        .script([page(&[("c1", "a"), ("c2", "b")], "c2", false)]);
    let line = "printf 'b\\n' | relay reconcile --since 24h --seen - --json --types 'order.*'";
    let listed = desk.gateway.run_in_shell(line).await.failed(3);
    let missed: Vec<&str> = listed.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(missed, [item("c1", "a")]);
    assert!(desk.gateway.asked()[0].contains("types=order.*"));
}

/// The reader hangs up before the second page.
#[tokio::test]
async fn what_nobody_read_is_listed_again() {
    let desk = Desk::new("").await;
    let events: Vec<(String, String)> = (0..1_000)
        .map(|n| (format!("c{n}"), format!("id-{n}-{}", "x".repeat(100))))
        .collect();
    let events: Vec<(&str, &str)> = events
        .iter()
        .map(|(cursor, id)| (cursor.as_str(), id.as_str()))
        .collect();
    desk.gateway.receiver.script([page(&events, "c1000", false)]);
    let (seen, state) = (desk.path("seen"), desk.path("state"));
    let line = format!(
        "{{ relay reconcile --since 24h --json --seen {seen} --state {state}; echo code $? >&2; }} | head -n 1"
    );
    let output = desk.gateway.run_in_shell(&line).await.ok();
    assert!(output.contains("code 3"), "{output}");
    assert_eq!(desk.state()["cursor"], Value::Null);
}

#[tokio::test]
async fn a_failed_delivery_is_taken_up_by_the_next_run() {
    let (desk, app) = (Desk::new("b\n").await, Receiver::start().await);
    let events = [("c1", "a"), ("c2", "b"), ("c3", "c"), ("c4", "d")];
    desk.gateway.receiver.script([page(&events, "c4", false)]);
    app.script([Answer::status(204), Answer::status(500)]);
    let failed = desk.deliver(&app).await.failed(1);
    assert!(
        failed.contains("the delivery of c failed: the receiver's answer was 500"),
        "{failed}"
    );
    assert!(failed.contains("3 missed, 1 delivered"), "{failed}");
    assert_eq!(desk.state()["cursor"], "c1");

    desk.gateway.receiver.script([page(&events[1..], "c4", false)]);
    let done = desk.deliver(&app).await.ok();
    assert!(done.contains("2 missed, 2 delivered"), "{done}");
    assert_eq!(desk.state()["cursor"], "c4");
    let ids: Vec<String> = app
        .requests()
        .iter()
        .map(|request| request.event_id().unwrap())
        .collect();
    assert_eq!(ids, ["a", "c", "c", "d"]);
    assert!(desk.gateway.asked()[1].contains("after=c1&"));
}

/// The first delivery fails, so there is no cursor yet; a day later `--since 24h` would mean another day.
#[tokio::test]
async fn a_beginning_that_failed_is_begun_again_at_the_same_moment() {
    let (desk, app) = (Desk::new("").await, Receiver::start().await);
    app.respond_with(Answer::status(503));
    desk.gateway
        .receiver
        .respond_with(page(&[("c1", "a")], "c1", false));
    for _ in 0..2 {
        desk.deliver(&app).await.failed(1);
    }
    let asked = desk.gateway.asked();
    assert!(asked[0].contains("since=") && asked[0] == asked[1], "{asked:?}");
}

#[tokio::test]
async fn what_the_log_no_longer_has_is_said_from_when_to_when() {
    let desk = Desk::new("").await;
    let state = json!({"cursor": "c1", "until": "2026-01-31T09:30:00Z", "filter": ""});
    fs::write(desk.path("state"), state.to_string()).unwrap();
    desk.gateway.receiver.script([
        expired("c5"),
        page(&[("c6", "a")], "c6", false),
        ok(200, &json!({"id": "a", "recorded_at": "2026-02-01T10:00:00Z"})),
        page(&[("c6", "a")], "c6", false),
    ]);
    let output = desk.run(&[]).await.failed(4);
    let gap = "from 2026-01-31T09:30:00.000Z to 2026-02-01T10:00:00.000Z";
    assert!(output.contains(gap) && output.contains("1 missed"), "{output}");
    assert_eq!(desk.state()["cursor"], "c6");
    assert_eq!(desk.gateway.asked()[2], "GET /v1/events/a?source=%2Ftests");

    desk.gateway.receiver.script([page(&[], "c6", false)]);
    desk.run(&[]).await.ok();
}

#[tokio::test]
async fn a_state_that_is_of_no_use_is_named_and_kept() {
    let desk = Desk::new("").await;
    let path = desk.path("state");
    let state = json!({"cursor": "garbage", "until": "2026-01-31T09:30:00Z", "filter": ""}).to_string();
    fs::write(&path, &state).unwrap();
    desk.gateway
        .receiver
        .respond_with(problem(400, "after: is no cursor of this log"));
    let refused = desk.run(&[]).await.failed(1);
    assert!(
        refused.contains(&path) && refused.contains("after: is no cursor"),
        "{refused}"
    );
    desk.gateway.receiver.respond_with(problem(401, "no valid token"));
    let refused = desk.run(&[]).await.failed(1);
    assert!(
        !refused.contains(&path) && refused.contains("RELAY_TOKEN"),
        "{refused}"
    );
    desk.run(&["--types", "order.*"]).await.failed(2);
    assert_eq!(fs::read_to_string(&path).unwrap(), state);

    fs::write(&path, "what is this").unwrap();
    let refused = desk.run(&[]).await.failed(1);
    assert!(
        refused.contains(&path) && refused.contains("remove it"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_relay_may_be_named_here_and_what_is_wrong_is_said() {
    let desk = Desk::new("a\tb\tc\n").await;
    let seen = desk.path("seen");
    for (args, code, says) in [
        (&["--since", "24h"][..], 2, "--seen"),
        (&["--seen", &seen], 2, "--since"),
        (&["--since", "24h", "--seen", &seen], 1, "line 1"),
        (&["--since", "24h", "--seen", "/no/such/file"], 1, "/no/such/file"),
        (
            &["--since", "24h", "--forward-to", "http://127.0.0.1:1"],
            2,
            "--secret",
        ),
        (
            &["--since", "24h", "--seen", &seen, "--feed", "here"],
            2,
            "--feed",
        ),
        (
            &["--since", "24h", "--seen", &seen, "--token", "hunter 2"],
            2,
            "--token",
        ),
    ] {
        let refused = desk
            .gateway
            .run(&[&["reconcile"], args].concat())
            .await
            .failed(code);
        assert!(refused.contains(says) && !refused.contains("hunter"), "{refused}");
    }
    assert!(desk.gateway.asked().is_empty());

    let other = Gateway::start().await;
    other.receiver.respond_with(page(&[], "c1", false));
    fs::write(&seen, "").unwrap();
    let url = format!("http://{}/", other.receiver.addr());
    let args = ["--seen", &seen, "--feed", &url, "--token", "other"];
    desk.gateway.run(&[&SINCE[..], &args].concat()).await.ok();
    assert_eq!(
        other.receiver.requests()[0].header("authorization"),
        Some("Bearer other")
    );
}
