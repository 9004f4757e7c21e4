//! Somebody follows the relay's events from elsewhere: `relay events follow`, and `relay listen`, which
//! posts them to a program on their machine.

use std::path::Path;

use relay_event::{Secret, Timestamp, signature};
use relay_testkit::{Process, Proxy, Receiver, Request, binary};
use relay_tests::{Database, Producer, TOKEN, World, address};
use serde_json::{Value, json};

async fn publish(producer: &Producer, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let event_type = if number % 3 == 0 {
            "invoice.sent"
        } else {
            "order.created"
        };
        let event = json!({"specversion": "1.0", "id": format!("event-{number}"), "source": "/journey",
            "type": event_type, "data": number});
        producer
            .publish_structured(event_type, event.to_string().as_bytes())
            .await;
    }
}

/// The ids of all events of a type, in the order of the log.
async fn log(world: &World, url: &str, event_type: &str) -> Vec<String> {
    let args = ["events", "list", "--all", "--json", "--type", event_type];
    let listed = world.cli_with(&[("RELAY_URL", url)], &args);
    assert!(listed.wait_exit().await.success(), "{}", listed.output());
    let mut ids = ids(&listed.lines(), |line| line["id"].as_str());
    ids.reverse();
    ids
}

/// The ids in the lines that are JSON.
fn ids(lines: &[String], id: impl Fn(&Value) -> Option<&str>) -> Vec<String> {
    let json = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
    json.filter_map(|line| Some(id(&line)?.to_owned())).collect()
}

fn posted(requests: &[Request]) -> Vec<String> {
    let id = |request: &Request| request.event_id().unwrap();
    requests.iter().map(id).collect()
}

fn is_signed(request: &Request, secret: &Secret) -> bool {
    let header = |name: &str| request.header(name).unwrap_or_default();
    let (id, time, signatures) = (
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
    );
    let now = Timestamp::now().as_secs();
    let secret = std::slice::from_ref(secret);
    signature::verify(secret, id, time, signatures, &request.body, now).is_ok()
}

/// Events go on being published by AMQP while gateways are killed and wires are cut.
#[tokio::test(flavor = "multi_thread")]
async fn who_listens_gets_the_log_without_gap_or_repeat_whatever_is_killed() {
    const ROUND: usize = 150;
    const ROUNDS: usize = 4;
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::recorded(database).await;
        let front = Proxy::start(world.api.url()).await;
        let (app, secret, url) = (Receiver::start().await, Secret::generate(), front.url());
        let elsewhere = |args: &[&str]| world.cli_with(&[("RELAY_URL", &url)], args);
        let producer = world.producer().await;
        publish(&producer, 0..10).await;

        let to = app.url();
        let types = ["--types", "order.*"];
        let listen = [
            "listen",
            "--since",
            "1h",
            "--forward-to",
            &to,
            "--secret",
            secret.as_str(),
        ];
        let listening = elsewhere(&[&listen[..], &types].concat());
        let follow = ["events", "follow", "--since", "1h", "--json"];
        let following = elsewhere(&[&follow[..], &types].concat());
        let mut gateway: Option<Process> = None;
        for round in 0..ROUNDS {
            let from = 10 + round * ROUND;
            let before = app.count();
            publish(&producer, from..from + ROUND / 2).await;
            app.wait_for(before + 5).await;
            match &gateway {
                None => world.gateway().kill_9(),
                Some(gateway) if round % 2 == 0 => gateway.kill_9(),
                Some(_) => front.cut(),
            }
            publish(&producer, from + ROUND / 2..from + ROUND).await;
            let another = world.another_gateway();
            front.lead_to(address(&another).await);
            gateway = Some(another);
        }

        let all = 10 + ROUNDS * ROUND;
        let orders = (0..all).filter(|number| number % 3 != 0).count();
        let requests = app.wait_for(orders).await;
        following.wait_for_output(&format!("\"event-{}\"", all - 2)).await;
        let log = log(&world, &url, "order.*").await;
        assert_eq!(log.len(), orders);
        for process in [&listening, &following] {
            process.signal("INT");
            assert!(process.wait_exit().await.success(), "{}", process.output());
            assert!(process.output().contains("go on with --cursor "));
            assert!(process.output().contains("retrying"), "nothing was cut");
        }
        assert_eq!(app.count(), orders, "nothing comes twice");
        assert_eq!(posted(&requests), log);
        assert_eq!(ids(&following.lines(), |line| line["event"]["id"].as_str()), log);
        assert!(requests.iter().all(|request| is_signed(request, &secret)));
    }
}

/// What was printed before, and what comes after, is one log.
#[tokio::test(flavor = "multi_thread")]
async fn where_one_stopped_another_goes_on() {
    let world = World::recorded(Database::Sqlite).await;
    let producer = world.producer().await;
    let mut seen = Vec::new();
    let mut cursor: Option<String> = None;
    for round in 0..3 {
        let args = ["events", "follow", "--json"];
        let following = match &cursor {
            None => world.cli_started(&args),
            Some(cursor) => world.cli_started(&[&args[..], &["--cursor", cursor]].concat()),
        };
        following.wait_for_output("following").await;
        publish(&producer, round * 20..round * 20 + 10).await;
        following
            .wait_for_output(&format!("\"event-{}\"", round * 20 + 9))
            .await;
        following.signal("INT");
        assert!(following.wait_exit().await.success(), "{}", following.output());
        seen.extend(ids(&following.lines(), |line| line["event"]["id"].as_str()));
        let said = following.wait_for_output("go on with --cursor ").await;
        cursor = said.rsplit(' ').next().map(str::to_owned);
        publish(&producer, round * 20 + 10..round * 20 + 20).await;
    }
    // The last ten came after the last one stopped.
    let all: Vec<String> = (0..50).map(|number| format!("event-{number}")).collect();
    assert_eq!(seen, all);
    assert_eq!(log(&world, world.api.url(), "#").await[..50], all);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_well_is_said_at_once() {
    let world = World::recorded(Database::Sqlite).await;
    let other = World::recorded(Database::Sqlite).await;
    publish(&world.producer().await, 0..5).await;
    publish(&other.producer().await, 0..5).await;
    let cursor_of = async |world: &World| {
        let following = world.cli_started(&["events", "follow", "--since", "1h"]);
        following.wait_for_output("event-4").await;
        following.signal("INT");
        let said = following.wait_for_output("go on with --cursor ").await;
        said.rsplit(' ').next().unwrap().to_owned()
    };
    let (mine, others) = (cursor_of(&world).await, cursor_of(&other).await);
    assert_ne!(mine, others);
    for cursor in ["garbage", &others] {
        for command in [
            &["events", "follow"][..],
            &["listen", "--forward-to", "http://127.0.0.1:1"],
        ] {
            let refused = world.cli(&[command, &["--cursor", cursor]].concat()).await;
            assert_eq!(refused.wait_exit().await.code(), Some(2), "{}", refused.output());
            assert!(refused.output().contains("--cursor"), "{}", refused.output());
        }
    }
    let refused = world.cli_with(&[("RELAY_TOKEN", "another")], &["events", "follow"]);
    assert_eq!(refused.wait_exit().await.code(), Some(1));
    let said = refused.output();
    assert!(said.contains("RELAY_TOKEN") && !said.contains(TOKEN), "{said}");
    // Who reads one line gets one line, and the follower ends though nothing more happens.
    let relay = binary("relay");
    let line = format!("{} events follow --since 1h | head -n 1", relay.display());
    let env = [("RELAY_URL", world.api.url()), ("RELAY_TOKEN", TOKEN)];
    let piped = Process::spawn_path(Path::new("/bin/sh"), &env, &["-c", &line]);
    assert!(piped.wait_exit().await.success());
    assert_eq!(ids(&piped.lines(), |_| None).len(), 0);
    assert_eq!(piped.output().matches("event-").count(), 1, "{}", piped.output());
}
