//! Many clients at once.

use relay_tests::{Database, World};
use rustix::process::{Resource, getrlimit};
use tokio::task::JoinSet;

use super::{
    clients::{next_event, stream},
    items, next, page, publish, until_followed,
};

const CLIENTS: u64 = 1_000;

/// Files that the test and the gateway have open besides.
const OTHERS: u64 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_at_once_gets_the_next_event() {
    let mut world = World::on(relay_testkit::shared_broker().await, Database::Sqlite).await;
    world.add_recorder().await;
    let room = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let each = usize::try_from(CLIENTS.min(room.saturating_sub(OTHERS)) / 2).unwrap();
    let mut clients = JoinSet::new();
    for _ in 0..each {
        let api = world.api.clone();
        clients.spawn(async move {
            let mut stream = stream(&api, "/v1/stream?types=order.%23", None).await;
            let event = next_event(&mut stream).await;
            event["id"].as_str().unwrap().to_owned()
        });
        let api = world.api.clone();
        clients.spawn(async move {
            let mut after = "now".to_owned();
            loop {
                let page = page(&api, &format!("after={after}&wait=60s&types=order.%23")).await;
                if let [(_, id)] = &items(&page)[..] {
                    return id.clone();
                }
                after = next(&page);
            }
        });
    }
    until_followed(&world, "stream", each).await;
    until_followed(&world, "poll", each).await;
    publish(&world.api, "invoice.sent", 0..1).await;
    publish(&world.api, "order.created", 1..2).await;
    for got in clients.join_all().await {
        assert_eq!(got, "1");
    }
    for how in ["stream", "poll"] {
        until_followed(&world, how, 0).await;
    }
}
