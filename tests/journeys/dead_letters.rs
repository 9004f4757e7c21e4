//! The operator's drain, with the person's tool.

use std::collections::BTreeSet;

use relay_broker::Queue;
use relay_testkit::{Answer, Receiver};
use relay_tests::World;
use serde_json::json;

/// A relay with an endpoint that failed `count` events for good.
async fn with_dead_letters(count: usize) -> (World, Receiver, BTreeSet<String>) {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::status(500));
    world.api.add(&receiver, &["order.*"], json!({"retry": []})).await;
    let mut ids = BTreeSet::new();
    for n in 0..count {
        ids.insert(world.api.publish("order.created", json!(n)).await);
    }
    assert_eq!(
        world.dead_letters(u32::try_from(count).unwrap()).await.len(),
        count
    );
    (world, receiver, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivered_events_keep_their_ids_and_begin_their_schedule_anew() {
    let (world, receiver, ids) = with_dead_letters(20).await;
    receiver.script([Answer::status(500)]);
    receiver.respond_with(Answer::status(204));
    let drained = world.cli(&["dlq", "drain", "--redeliver"]).await;
    assert!(drained.exit_status().unwrap().success(), "{}", drained.output());

    // One of them fails once more and is dead again, with one attempt counted, not two.
    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!(letter.attempts, 1);
    assert!(ids.contains(letter.event_id.as_deref().unwrap()));
    let requests = receiver.wait_for(40).await;
    let again: BTreeSet<String> = requests[20..].iter().map(|r| r.event_id().unwrap()).collect();
    assert_eq!(again, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_changes_nothing_and_showing_tells_all() {
    let (world, _receiver, ids) = with_dead_letters(3).await;
    let id = ids.first().unwrap();
    for _ in 0..2 {
        let listed = world.cli(&["dlq", "list", "--json"]).await;
        let told = listed.output();
        assert!(ids.iter().all(|id| told.contains(id.as_str())), "{told}");
        let shown = world.cli(&["dlq", "show", id]).await.output();
        assert!(
            shown.contains("attempts_exhausted") && shown.contains("500"),
            "{shown}"
        );
    }
    assert_eq!(world.waiting(Queue::Dead).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_killed_midway_loses_nothing() {
    let (world, _receiver, ids) = with_dead_letters(60).await;
    let folder = world.folder();
    let (first, second) = (folder.join("first.ndjson"), folder.join("second.ndjson"));
    let export = world.cli_started(&[
        "dlq",
        "drain",
        "--export",
        first.to_str().unwrap(),
        "--rate",
        "20/s",
    ]);
    relay_testkit::wait_until("some lines to be exported", || async {
        std::fs::read_to_string(&first).is_ok_and(|text| text.lines().count() >= 5)
    })
    .await;
    export.kill_9();
    export.wait_exit().await;
    let finished = world
        .cli(&["dlq", "drain", "--export", second.to_str().unwrap()])
        .await;
    assert!(finished.exit_status().unwrap().success(), "{}", finished.output());

    let mut exported = BTreeSet::new();
    for file in [first, second] {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            // The last line of a killed export may be cut short; its letter is still in the queue.
            if let Ok(line) = serde_json::from_str::<serde_json::Value>(line) {
                exported.insert(line["event"]["id"].as_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(exported, ids);
    assert_eq!(world.waiting(Queue::Dead).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_takes_only_what_matches() {
    let (world, receiver, _ids) = with_dead_letters(4).await;
    world
        .api
        .add(&receiver, &["invoice.*"], json!({"retry": []}))
        .await;
    let kept = world.api.publish("invoice.sent", json!(1)).await;
    world.dead_letters(5).await;
    let dry = world
        .cli(&["dlq", "drain", "--discard", "--type", "order.*", "--dry-run"])
        .await;
    assert!(dry.exit_status().unwrap().success(), "{}", dry.output());
    assert_eq!(world.waiting(Queue::Dead).await, 5);
    let done = world
        .cli(&["dlq", "drain", "--discard", "--type", "order.*"])
        .await;
    assert!(done.exit_status().unwrap().success(), "{}", done.output());
    let left = world.dead_letters(1).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].event_id.as_deref(), Some(kept.as_str()));
}
