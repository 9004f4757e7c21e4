//! The log's commands on a whole relay in one process.

use std::collections::BTreeSet;

use relay_testkit::{Answer, Process, Receiver, database, wait_until};
use reqwest::Client;
use serde_json::Value;

use crate::support::World;

pub(crate) async fn up(world: &World, more: &[&str]) -> Process {
    let args = ["up", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let relay = world.start(&[&args[..], more].concat());
    relay.wait_for_output("The relay is ready.").await;
    relay
}

pub(crate) async fn endpoint(world: &World, receiver: &Receiver) -> String {
    let url = receiver.url();
    let add = [
        "endpoint", "add", "--url", &url, "--types", "order.*", "--retry", "none", "--json",
    ];
    let added = world.run(&add).await.json();
    added["id"].as_str().unwrap().to_owned()
}

/// Waits until the one delivery stands so, after so many attempts.
pub(crate) async fn wait_delivery(world: &World, state: &str, attempts: u64) {
    wait_until(format!("a delivery that is {state}"), || async {
        let listed = world
            .run(&["deliveries", "list", "--state", state, "--json"])
            .await
            .ok();
        match serde_json::from_str::<Value>(&listed) {
            Ok(delivery) if delivery["attempts"] == attempts => Ok(()),
            _ => Err(listed),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_died_is_found_and_sent_again() {
    find_and_send_again(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_may_be_in_postgres() {
    find_and_send_again(&["--store", &database().await]).await;
}

async fn find_and_send_again(options: &[&str]) {
    let world = World::new().await;
    let relay = up(&world, options).await;
    let receiver = Receiver::start().await;
    receiver.script([Answer::status(500).body("out of order")]);
    let id = endpoint(&world, &receiver).await;
    let publish = [
        "publish",
        "--type",
        "order.created",
        "--id",
        "a/1",
        "--data",
        r#"{"n": 1.50}"#,
    ];
    world.run(&publish).await.ok();

    wait_delivery(&world, "dead", 1).await;
    let listed = world
        .run(&["events", "list", "--type", "order.#", "--since", "1h"])
        .await
        .ok();
    assert!(
        listed.contains("a/1") && listed.contains("order.created"),
        "{listed}"
    );
    let shown = world.run(&["events", "show", "a/1", "--attempts"]).await.ok();
    for fact in ["\"n\": 1.50", "attempts_exhausted", "out of order", &id] {
        assert!(shown.contains(fact), "{fact}: {shown}");
    }

    let recover = ["endpoint", "recover", &id, "--since", "1h"];
    let dry = world.run(&[&recover[..], &["--dry-run"]].concat()).await.ok();
    assert_eq!(dry, "1 event would be recovered");
    let recovered = world.run(&recover).await.ok();
    let said = recovered.lines().any(|line| line == "1 event recovered");
    assert!(said, "{recovered}");
    wait_delivery(&world, "delivered", 1).await;
    let replayed = world.run(&["events", "replay", "a/1"]).await.ok();
    assert_eq!(replayed, format!("a/1 replayed to 1 endpoint: {id}"));
    receiver.wait_for(3).await;

    wait_until("three attempts in the stats", || async {
        let stats = world.run(&["endpoint", "stats", &id, "--json"]).await.json();
        (stats["hour"]["delivered"] == 2 && stats["hour"]["failed"] == 1)
            .then_some(())
            .ok_or(stats)
    })
    .await;
    relay.terminate();
    assert!(relay.wait_exit().await.success());
}

/// Each name is there once, and each part has its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_parts_share_one_page_of_metrics() {
    let world = World::new().await;
    let relay = up(&world, &[]).await;
    let running = std::fs::read_to_string(world.path("relay.json")).unwrap();
    let running: Value = serde_json::from_str(&running).unwrap();
    let url = format!("{}/metrics", running["metrics_url"].as_str().unwrap());
    relay_service::install_crypto();
    let answer = Client::new().get(url).send().await.unwrap();
    let page = String::from_utf8(answer.bytes().await.unwrap().to_vec()).unwrap();
    let kinds: Vec<&str> = page.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(kinds.iter().collect::<BTreeSet<_>>().len(), kinds.len(), "{page}");
    for name in [
        "relay_gateway_events_published_total",
        "relay_attempts_in_flight",
        "relay_recorder_lag_seconds",
    ] {
        let prefix = format!("# TYPE {name} ");
        assert!(
            kinds.iter().any(|kind| kind.starts_with(&prefix)),
            "{name}: {page}"
        );
    }
    relay.terminate();
    assert!(relay.wait_exit().await.success());
}

#[tokio::test]
async fn a_mistyped_store_does_not_show_its_password() {
    let world = World::new().await;
    let args = ["up", "--store", "mysql://relay:hunter2@localhost/relay"];
    let refused = world.run(&args).await.failed(2);
    assert!(
        refused.contains("--store") && refused.contains("postgres://"),
        "{refused}"
    );
    assert!(!refused.contains("hunter2"), "{refused}");
}
