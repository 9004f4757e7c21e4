//! What the log tells of events, and what is sent again from it.

use relay_testkit::{Answer, Receiver, wait_until};
use relay_tests::{Database, World};
use reqwest::Method;
use serde_json::json;

/// Somebody fixes their endpoint, and has sent again what it missed.
#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_seen_recovered_and_replayed() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::recorded(database).await;
        let receiver = Receiver::start().await;
        receiver.respond_with(Answer::status(500).body("out of order"));
        let endpoint = world
            .api
            .add(&receiver, &["order.*"], json!({"retry": []}))
            .await
            .id;
        let mut ids = Vec::new();
        for n in 0..5 {
            ids.push(world.api.publish("order.created", json!(n)).await);
        }
        world.api.publish("invoice.sent", json!(1)).await;
        let dead = format!("/v1/deliveries?endpoint={endpoint}&state=dead");
        wait_for_count(&world, &dead, 5).await;

        let shown = world
            .cli(&["events", "show", &ids[0], "--attempts"])
            .await
            .output();
        assert!(
            shown.contains("attempts_exhausted") && shown.contains("out of order"),
            "{shown}"
        );
        receiver.respond_with(Answer::status(204));
        let recover = ["endpoint", "recover", &endpoint, "--since", "1h"];
        let preview = world.cli(&[&recover[..], &["--dry-run"]].concat()).await;
        assert!(preview.output().contains('5'), "{}", preview.output());
        assert_eq!(receiver.requests().len(), 5, "a preview sends nothing");
        let recovered = world.cli(&recover).await;
        assert!(recovered.wait_exit().await.success(), "{}", recovered.output());
        wait_for_count(
            &world,
            &format!("/v1/deliveries?endpoint={endpoint}&state=delivered"),
            5,
        )
        .await;
        wait_for_count(&world, &dead, 0).await;
        assert_eq!(receiver.requests().len(), 10);

        let replayed = world.cli(&["events", "replay", &ids[3]]).await;
        assert!(replayed.wait_exit().await.success(), "{}", replayed.output());
        receiver.wait_for(11).await;
        wait_until("the replay in the log", || async {
            let path = format!("/v1/events/{}/attempts", ids[3]);
            let attempts = world.api.json(Method::GET, &path, None).await;
            attempts["attempts"].as_array().unwrap().len() == 3
        })
        .await;
        let stats = world
            .api
            .json(Method::GET, &format!("/v1/endpoints/{endpoint}/stats"), None)
            .await;
        assert_eq!(
            (&stats["hour"]["delivered"], &stats["hour"]["failed"]),
            (&json!(6), &json!(5))
        );
    }
}

async fn wait_for_count(world: &World, path: &str, count: usize) {
    wait_until(format!("{count} deliveries at {path}"), || async {
        let page = world.api.json(Method::GET, path, None).await;
        let found = page["deliveries"].as_array().unwrap().len();
        (found == count).then_some(()).ok_or(page)
    })
    .await;
}

/// The deliverer makes no attempt at these, and the broker moves some of them by itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_knows_of_deaths_without_an_attempt() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::status(500));
    let paused = world
        .api
        .add(&receiver, &["order.*"], json!({"paused": true}))
        .await
        .id;
    let failing = world
        .api
        .add(&receiver, &["order.*"], json!({"retry": ["2s"]}))
        .await
        .id;
    let id = world.api.publish("order.created", json!(1)).await;
    wait_for_count(
        &world,
        &format!("/v1/deliveries?endpoint={paused}&state=pending"),
        1,
    )
    .await;
    wait_for_count(
        &world,
        &format!("/v1/deliveries?endpoint={failing}&state=retrying"),
        1,
    )
    .await;
    for endpoint in [&paused, &failing] {
        world.api.remove(endpoint).await;
        let dead = format!("/v1/deliveries?endpoint={endpoint}&state=dead");
        wait_for_count(&world, &dead, 1).await;
        let page = world.api.json(Method::GET, &dead, None).await;
        let delivery = &page["deliveries"][0];
        assert_eq!(
            (delivery["event"].as_str(), delivery["reason"].as_str()),
            (Some(id.as_str()), Some("endpoint_removed"))
        );
    }
}
