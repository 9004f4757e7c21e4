//! A receiver finds out what it missed, and has it delivered after all.

use std::{collections::BTreeSet, fs, time::Duration};

use relay_event::Timestamp;
use relay_store::Retention;
use relay_testkit::{Answer, Process, Receiver, wait_until};
use relay_tests::{Database, World};
use reqwest::Method;
use serde_json::{Value, json};

/// A relay whose one endpoint took every third order only; the others are dead.
struct Desk {
    world: World,
    app: Receiver,
    secret: String,
    all: BTreeSet<String>,
    seen: BTreeSet<String>,
}

impl Desk {
    async fn new(events: usize) -> Self {
        let world = World::recorded(Database::Sqlite).await;
        let app = Receiver::start().await;
        app.respond_by(|request| {
            let taken = request.json()["data"].as_u64().unwrap() % 3 == 0;
            Answer::status(if taken { 204 } else { 500 })
        });
        let added = world.api.add(&app, &["order.*"], json!({"retry": []})).await;
        let (mut all, mut seen) = (BTreeSet::new(), BTreeSet::new());
        for number in 0..events {
            world.api.publish("invoice.sent", json!(number)).await;
            let id = world.api.publish("order.created", json!(number)).await;
            if number % 3 == 0 {
                seen.insert(id.clone());
            }
            all.insert(id);
        }
        app.wait_for(events).await;
        let desk = Self {
            world,
            app,
            secret: added.secret,
            all,
            seen,
        };
        desk.until_recorded(events * 2).await;
        let ids: Vec<&str> = desk.seen.iter().map(String::as_str).collect();
        fs::write(desk.path("seen"), ids.join("\n")).unwrap();
        desk
    }

    async fn until_recorded(&self, events: usize) {
        wait_until("every event in the feed", || async {
            let path = "/v1/feed?limit=1000";
            let answer = self.world.api.call(Method::GET, path, None).await;
            let page: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            let found = page["events"].as_array().map_or(0, Vec::len);
            (found == events).then_some(()).ok_or(found)
        })
        .await;
    }

    fn path(&self, name: &str) -> String {
        self.world.folder().join(name).to_str().unwrap().to_owned()
    }

    fn missed(&self) -> BTreeSet<String> {
        self.all.difference(&self.seen).cloned().collect()
    }

    fn start(&self, more: &[&str]) -> Process {
        let state = self.path("state");
        let common = [
            "reconcile",
            "--types",
            "order.*",
            "--since",
            "24h",
            "--state",
            &state,
        ];
        let env = [("RELAY_SECRET", self.secret.as_str())];
        self.world.cli_with(&env, &[&common[..], more].concat())
    }

    async fn run(&self, code: i32, more: &[&str]) -> Process {
        let ran = self.start(more);
        assert_eq!(ran.wait_exit().await.code(), Some(code), "{}", ran.output());
        ran
    }
}

fn ids(lines: &[String], id: impl Fn(&Value) -> Option<&str>) -> Vec<String> {
    let json = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
    json.filter_map(|line| Some(id(&line)?.to_owned())).collect()
}

fn set(ids: Vec<String>) -> BTreeSet<String> {
    let (number, set) = (ids.len(), BTreeSet::from_iter(ids));
    assert_eq!(set.len(), number, "none is named twice");
    set
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_listed_and_then_what_came_since() {
    let desk = Desk::new(30).await;
    let seen = desk.path("seen");
    let listed = desk.run(3, &["--seen", &seen, "--json"]).await;
    let listed = set(ids(&listed.lines(), |line| line["event"]["id"].as_str()));
    assert_eq!(listed, desk.missed());
    let nothing = desk.run(0, &["--seen", &seen]).await;
    assert!(
        nothing.output().contains("0 events looked at"),
        "{}",
        nothing.output()
    );

    let late = desk.world.api.publish("order.created", json!(1)).await;
    desk.until_recorded(61).await;
    let since = desk.run(3, &["--seen", &seen, "--json"]).await;
    assert_eq!(ids(&since.lines(), |line| line["event"]["id"].as_str()), [late]);
}

/// Killed while an answer is on its way, again and again, it delivers each once: what nobody has taken comes
/// again, and what was taken does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_delivered_however_often_it_is_killed() {
    let desk = Desk::new(60).await;
    let (seen, again) = (desk.path("seen"), Receiver::start().await);
    let url = again.url();
    let deliver = ["--seen", seen.as_str(), "--forward-to", &url];
    for round in 1..=4 {
        again.script((0..6).map(|_| Answer::status(204)));
        again.script([Answer::Hold]);
        let delivering = desk.start(&deliver);
        again.wait_for(round * 7).await;
        delivering.kill_9();
        delivering.wait_exit().await;
    }
    again.script([Answer::status(500)]);
    let failed = desk.run(1, &deliver).await;
    assert!(failed.output().contains("was 500"), "{}", failed.output());
    desk.run(0, &deliver).await;

    let requests = again.requests();
    let taken = requests
        .iter()
        .filter(|request| request.answered && request.index != 28);
    let taken: Vec<String> = taken.map(|request| request.event_id().unwrap()).collect();
    assert_eq!(set(taken), desk.missed());
    for request in &requests {
        let headers: http::HeaderMap = request
            .headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let webhook = standardwebhooks::Webhook::new(&desk.secret).unwrap();
        webhook.verify(&request.body, &headers).unwrap();
    }
    // Byte for byte what the endpoint got before.
    let before = desk.app.requests();
    let first = before
        .iter()
        .find(|request| request.webhook_id() == requests[0].webhook_id());
    assert_eq!(first.unwrap().body, requests[0].body);
    let nothing = desk.run(0, &deliver).await;
    assert!(nothing.output().contains("0 missed"), "{}", nothing.output());
}

/// Nobody can say what was missed of what is forgotten, but from when to when that was, they can.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_too_late_hears_what_is_no_longer_known() {
    let desk = Desk::new(3).await;
    let (seen, world) = (desk.path("seen"), &desk.world);
    desk.run(3, &["--seen", &seen]).await;
    let state: Value = serde_json::from_slice(&fs::read(desk.path("state")).unwrap()).unwrap();
    let cursor = state["cursor"].as_str().unwrap();

    world.api.publish("order.created", json!(0)).await;
    desk.until_recorded(7).await;
    let old = Retention {
        events_before: Timestamp::now() + Duration::from_secs(3600),
        attempts_before: Timestamp::default(),
    };
    let forgotten = world.store().await.forget(&old, 1_000).await.unwrap();
    assert_eq!(forgotten.events, 7);
    let path = format!("/v1/feed?after={cursor}");
    wait_until("the cursor to expire", || async {
        let answer = world.api.call(Method::GET, &path, None).await;
        let status = answer.status().as_u16();
        (status == 410).then_some(()).ok_or(status)
    })
    .await;
    let kept = world.api.publish("order.created", json!(0)).await;
    desk.until_recorded(1).await;

    let late = desk.run(4, &["--seen", &seen, "--json"]).await;
    let gap = format!("recorded from {} to ", state["until"].as_str().unwrap());
    assert!(late.output().contains(&gap), "{}", late.output());
    let listed = ids(&late.lines(), |line| line["event"]["id"].as_str());
    assert_eq!(listed, [kept.as_str()]);
    let nothing = desk.run(0, &["--seen", &seen]).await;
    assert!(
        nothing.output().contains("0 events looked at"),
        "{}",
        nothing.output()
    );

    let following = world.cli_started(&["events", "follow", "--cursor", cursor, "--json"]);
    following.wait_for_output(&kept).await;
    following.signal("INT");
    assert!(following.wait_exit().await.success(), "{}", following.output());
    assert!(following.output().contains("no longer in the log"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_no_use_and_a_wrong_token_are_said_and_change_nothing() {
    let desk = Desk::new(3).await;
    let (seen, state) = (desk.path("seen"), desk.path("state"));
    let kept = |cursor: &str| {
        json!({"cursor": cursor, "until": "2026-01-31T09:30:00Z", "filter": "types=order.*"}).to_string()
    };
    for text in ["garbage".to_owned(), kept("garbage")] {
        fs::write(&state, &text).unwrap();
        let refused = desk.run(1, &["--seen", &seen]).await;
        assert!(refused.output().contains(&state), "{}", refused.output());
        assert_eq!(fs::read_to_string(&state).unwrap(), text);
    }
    fs::remove_file(&state).unwrap();
    let refused = desk.run(1, &["--seen", &seen, "--token", "another"]).await;
    assert!(
        !refused.output().contains(relay_tests::TOKEN),
        "{}",
        refused.output()
    );
    assert!(!fs::exists(&state).unwrap());
    desk.run(2, &[]).await;
    let url = desk.world.api.url();
    desk.run(3, &["--seen", &seen, "--feed", url]).await;
}
