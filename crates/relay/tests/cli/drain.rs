use base64::{Engine, engine::general_purpose::STANDARD};
use relay_broker::Queue;
use relay_event::DeadReason::{AttemptsExhausted, EndpointGone, EndpointRemoved};
use serde_json::Value;

use crate::support::{World, event, ids, line};

#[tokio::test]
async fn redelivered_letters_are_on_their_way_to_their_endpoint_again() {
    let world = World::new().await;
    let endpoint = world
        .kill("order.created", &ids("a", 30), AttemptsExhausted)
        .await;
    world.kill("user.left", &ids("b", 3), EndpointRemoved).await;
    world.kill_garbage(b"no event").await;

    let dry = world
        .run(&["dlq", "drain", "--redeliver", "--dry-run"])
        .await
        .failed(3);
    assert!(dry.contains("30 dead letters would be redelivered"), "{dry}");
    world.wait_dead(34).await;
    let done = world.run(&["dlq", "drain", "--redeliver"]).await.failed(3);
    assert!(done.contains("30 dead letters redelivered"), "{done}");
    assert!(done.contains("3 stay: their endpoint was removed"), "{done}");
    assert!(done.contains("1 stays: it is no valid event"), "{done}");

    world.wait_dead(4).await;
    let mut taken = world.session.consume(Queue::Again, 1_000).await.unwrap();
    let mut message = taken.next().await.unwrap();
    assert_eq!(message.read(&world.session, 1 << 20).endpoint, Some(endpoint));
    message.give_back().await;
    taken.stop().await;
    assert_eq!(world.take_ids(Queue::Again, 30).await.len(), 30);
    world.wait_depth(Queue::Again, 0).await;
}

/// The returns that a queue lets pass.
const RETURNS: usize = 20;

/// Deliverers that ended on it again and again brought it there before it was for any endpoint.
#[tokio::test]
async fn a_letter_without_an_endpoint_goes_to_all_that_want_its_event() {
    let world = World::new().await;
    world.publish(&[event("a", "order.created")]).await;
    for queue in [Queue::Work, Queue::WorkLate] {
        let mut taken = world.session.consume(queue, 1).await.unwrap();
        for _ in 0..=RETURNS {
            taken.next().await.unwrap().give_back().await;
        }
        taken.stop().await;
    }
    world.wait_dead(1).await;
    let done = world.run(&["dlq", "drain", "--redeliver"]).await.ok();
    assert!(done.contains("1 dead letter redelivered"), "{done}");
    world.wait_dead(0).await;
    assert_eq!(world.take_ids(Queue::Work, 1).await, ["a".to_owned()].into());
}

#[tokio::test]
async fn only_those_that_fit_are_discarded_and_no_more_than_asked() {
    let world = World::new().await;
    world.kill("order.created", &ids("a", 5), AttemptsExhausted).await;
    let gone = world.kill("user.left", &ids("b", 5), EndpointGone).await;
    let discard = async |filter: &[&str]| {
        let args = [&["dlq", "drain", "--discard"], filter].concat();
        world.run(&args).await.ok()
    };
    let none = discard(&["--older-than", "1h"]).await;
    assert_eq!(none, "no dead letters discarded\n10 did not match");
    world.wait_dead(10).await;
    let two = discard(&["--type", "user.*", "--limit", "2"]).await;
    assert!(two.starts_with("2 dead letters discarded"), "{two}");
    world.wait_dead(8).await;
    discard(&["--endpoint", gone.as_str(), "--limit", "1"]).await;
    world.wait_dead(7).await;
    discard(&["--reason", "endpoint_gone"]).await;
    world.wait_dead(5).await;
    let mut left = world.dead_ids().await;
    left.sort();
    assert_eq!(left, ids("a", 5));
}

/// Those that stay are held by more than one consumer, and what is removed beside any of them is gone.
#[tokio::test]
async fn a_drain_among_thousands_that_stay_removes_what_it_says() {
    let world = World::new().await;
    for part in 0..3 {
        let kept = ids(&format!("kept-{part}"), 600);
        world
            .kill(&format!("kept.{part}"), &kept, AttemptsExhausted)
            .await;
        let gone = ids(&format!("gone-{part}"), 300);
        world.kill(&format!("gone.{part}"), &gone, EndpointGone).await;
    }
    world.wait_dead(2_700).await;
    let done = world
        .run(&["dlq", "drain", "--discard", "--reason", "endpoint_gone"])
        .await
        .ok();
    assert!(done.starts_with("900 dead letters discarded"), "{done}");
    world.wait_dead(1_800).await;
    assert!(world.dead_ids().await.iter().all(|id| id.starts_with("kept-")));
}

#[tokio::test]
async fn an_export_holds_the_events_as_they_were() {
    let world = World::new().await;
    let endpoint = world
        .kill("order.created", &ids("a", 700), AttemptsExhausted)
        .await;
    world.kill_garbage(b"no event").await;
    let path = world.path("dead.ndjson");
    let done = world.run(&["dlq", "drain", "--export", &path]).await.ok();
    assert!(done.starts_with("701 dead letters exported"), "{done}");
    world.wait_dead(0).await;

    let written = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines.len(), 701);
    for id in ids("a", 700) {
        let event = format!(r#""event":{}"#, line(&id, "order.created"));
        assert!(lines.iter().any(|line| line.contains(&event)), "{id}");
    }
    let first: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(first["endpoint"], endpoint.as_str());
    assert_eq!(
        (&first["attempts"], &first["last_status"]),
        (&6.into(), &500.into())
    );
    let garbage: Value = serde_json::from_str(lines[700]).unwrap();
    assert_eq!(garbage["body_base64"], STANDARD.encode("no event"));
    assert_eq!(garbage["reason"], "invalid_event");
}

#[tokio::test]
async fn an_existing_file_is_not_touched() {
    let world = World::new().await;
    world.kill("order.created", &ids("a", 2), AttemptsExhausted).await;
    let path = world.write("mine", "mine");
    let refused = world.run(&["dlq", "drain", "--export", &path]).await.failed(1);
    assert!(refused.contains("is there already"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    world.wait_dead(2).await;

    let fresh = world.path("fresh");
    let dry = ["dlq", "drain", "--export", &fresh, "--dry-run"];
    world.run(&dry).await.ok();
    assert!(!std::path::Path::new(&fresh).exists());
}

#[tokio::test]
async fn exactly_one_way_must_be_named() {
    let world = World::new().await;
    for args in [
        &["dlq", "drain"][..],
        &["dlq", "drain", "--discard", "--redeliver"],
        &["dlq", "drain", "--discard", "--rate", "fast"],
        &["dlq", "drain", "--discard", "--reason", "boredom"],
    ] {
        world.run(args).await.failed(2);
    }
}
