//! Consumers that let the relay keep their place.

use relay_testkit::shared_broker;
use relay_tests::{Database, World, metrics_address};
use reqwest::Method;
use serde_json::{Value, json};

use super::{end_after, ids, items, publish};

async fn read(world: &World, query: &str) -> Value {
    let path = format!("/v1/feed/billing?{query}");
    world.api.json(Method::GET, &path, None).await
}

async fn commit(world: &World, commit: Value) -> Value {
    let path = "/v1/feed/billing/commit";
    world.api.json(Method::POST, path, Some(commit)).await
}

async fn listed(world: &World) -> Value {
    let listed = world.api.json(Method::GET, "/v1/consumers", None).await;
    listed["consumers"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_not_committed_comes_again() {
    let mut world = World::on(shared_broker().await, Database::Sqlite).await;
    world.add_recorder().await;
    publish(&world.api, "order.created", 0..30).await;
    end_after(&world, 30).await;

    // It takes ten and is done with four of them, when it crashes.
    let page = read(&world, "limit=10").await;
    assert_eq!(listed(&world).await, json!([]), "reading commits nothing");
    let taken = items(&page);
    let done = |cursor: &str| json!({"cursor": cursor});
    let committed = commit(&world, done(&taken[3].0)).await;
    assert_eq!(
        (&committed["name"], &committed["cursor"], &committed["lag"]),
        (&json!("billing"), &json!(taken[3].0), &json!(26))
    );
    world.replace_gateway().await;
    let again = read(&world, "limit=3&after=start").await;
    assert_eq!(ids(&items(&again)), ["4", "5", "6"]);

    // Two of the same name: who is behind changes nothing, unless it says so.
    let last = &taken[9].0;
    assert_eq!(commit(&world, done(last)).await["lag"], 20);
    let behind = commit(&world, done(&taken[0].0)).await;
    assert_eq!((&behind["cursor"], &behind["lag"]), (&json!(last), &json!(20)));
    assert_eq!(listed(&world).await, json!([behind]));
    let metrics = metrics_address(world.gateway()).await;
    let lag = |lag| format!("relay_feed_consumer_lag_events{{consumer=\"billing\"}} {lag}\n");
    world.api.wait_for_metric(&metrics, &lag(20)).await;
    let back = commit(&world, json!({"cursor": taken[0].0, "back": true})).await;
    assert_eq!((&back["cursor"], &back["lag"]), (&json!(taken[0].0), &json!(29)));
    world.api.wait_for_metric(&metrics, &lag(29)).await;
    assert_eq!(ids(&items(&read(&world, "limit=1").await)), ["1"]);

    let removing = world.api.call(Method::DELETE, "/v1/feed/billing", None);
    assert_eq!(removing.await.status(), 204);
    let removing = world.api.call(Method::DELETE, "/v1/feed/billing", None);
    assert_eq!(removing.await.status(), 404);
    assert_eq!(listed(&world).await, json!([]));
    relay_testkit::wait_until("the metric to be gone", || async {
        !world.api.metrics(&metrics).await.contains("billing")
    })
    .await;
    assert_eq!(ids(&items(&read(&world, "limit=1").await)), ["0"]);
}
