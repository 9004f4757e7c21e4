use std::collections::BTreeSet;

use relay_broker::Queue;
use relay_event::DeadReason::AttemptsExhausted;
use relay_testkit::wait_until;
use serde_json::Value;

use crate::support::{World, ended, ids};

const LETTERS: usize = 100;

/// Whole lines only: the last one may have been cut.
fn exported(path: &str) -> BTreeSet<String> {
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let whole = written.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole
        .map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            record["event"]["id"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// The dead letters once those that the dead process held are back: all that nobody else has.
async fn left(world: &World, elsewhere: usize) -> BTreeSet<String> {
    let at_least = u32::try_from(LETTERS - elsewhere).unwrap();
    wait_until("the held letters to return", || async {
        let depth = world.depth(Queue::Dead).await;
        if depth >= at_least {
            Ok(())
        } else {
            Err(format!("{depth}"))
        }
    })
    .await;
    world.dead_ids().await.into_iter().collect()
}

fn all() -> BTreeSet<String> {
    ids("a", LETTERS).into_iter().collect()
}

#[tokio::test]
async fn an_export_that_is_killed_loses_nothing() {
    let world = World::new().await;
    world
        .kill("order.created", &ids("a", LETTERS), AttemptsExhausted)
        .await;
    let path = world.path("dead.ndjson");
    let drain = world.start(&["dlq", "drain", "--export", &path, "--rate", "20/s"]);
    wait_until("the first lines", || async { !exported(&path).is_empty() }).await;
    drain.kill_9();

    let written = exported(&path);
    assert!(written.len() < LETTERS, "it was killed in the middle");
    let left = left(&world, written.len()).await;
    assert_eq!(&written | &left, all());
}

#[tokio::test]
async fn a_redelivery_that_is_killed_loses_nothing() {
    let world = World::new().await;
    world
        .kill("order.created", &ids("a", LETTERS), AttemptsExhausted)
        .await;
    let drain = world.start(&["dlq", "drain", "--redeliver", "--rate", "20/s"]);
    wait_until("the first redelivered", || async {
        world.depth(Queue::Again).await > 0
    })
    .await;
    drain.kill_9();

    let redelivered = usize::try_from(world.depth(Queue::Again).await).unwrap();
    assert!(redelivered < LETTERS, "it was killed in the middle");
    let left = left(&world, redelivered).await;
    assert_eq!(&world.take_ids(Queue::Again, redelivered).await | &left, all());
}

#[tokio::test]
async fn ctrl_c_stops_and_tells_what_was_done() {
    let world = World::new().await;
    world
        .kill("order.created", &ids("a", LETTERS), AttemptsExhausted)
        .await;
    let path = world.path("dead.ndjson");
    let drain = world.start(&["dlq", "drain", "--export", &path, "--rate", "20/s"]);
    wait_until("the first lines", || async { !exported(&path).is_empty() }).await;
    drain.signal("INT");
    let output = ended(drain).await.failed(130);

    let written = exported(&path);
    let summary = format!("{} dead letters exported", written.len());
    assert!(
        output.contains(&summary) && output.contains("stopped"),
        "{output}"
    );
    let left = left(&world, written.len()).await;
    assert_eq!(left.len() + written.len(), LETTERS, "none is in both");
    assert_eq!(&written | &left, all());
}
