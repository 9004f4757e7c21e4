//! Dead letters whose endpoint is gone: they stay as they are, and a redelivery says so.

use relay_broker::{Queue, Settlement};
use relay_event::DeadReason::{AttemptsExhausted, EndpointRemoved};
use relay_testkit::{Answer, Receiver};
use serde_json::Value;

use crate::{
    support::{World, ids},
    up::{endpoint, up, wait_delivery},
};

/// Some stay where they are.
const STAY: i32 = 3;

fn letter(shown: &Value) -> Value {
    shown["dead_letters"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_a_removed_endpoint_stays_as_it_is() {
    let world = World::new().await;
    let relay = up(&world, &[]).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::status(500));
    let id = endpoint(&world, &receiver).await;
    world
        .run(&["publish", "--type", "order.created", "--id", "a"])
        .await
        .ok();
    wait_delivery(&world, "dead", 1).await;
    let show = ["dlq", "show", "a", "--json"];
    let before = letter(&world.run(&show).await.json());
    assert_eq!(before["last_status"], 500);
    world.wait_dead(1).await;
    world.run(&["endpoint", "remove", &id]).await.ok();

    let redeliver = ["dlq", "drain", "--redeliver"];
    for options in [&["--dry-run"][..], &[]] {
        let drained = world.run(&[&redeliver[..], options].concat()).await.failed(STAY);
        assert!(drained.contains("no dead letters"), "{drained}");
        assert!(drained.contains("1 stays: its endpoint was removed"), "{drained}");
        world.wait_dead(1).await;
        assert_eq!(letter(&world.run(&show).await.json()), before);
        world.wait_dead(1).await;
    }
    relay.terminate();
    assert!(relay.wait_exit().await.success());
}

/// Without a gateway to ask.
#[tokio::test]
async fn a_redelivery_keeps_what_is_known_of_the_letter() {
    let world = World::new().await;
    let id = world.kill("order.created", &ids("a", 1), AttemptsExhausted).await;
    let show = ["dlq", "show", "a-0", "--json"];
    let before = letter(&world.run(&show).await.json());
    world.wait_dead(1).await;

    let drained = world.run(&["dlq", "drain", "--redeliver"]).await.ok();
    assert!(drained.contains("1 dead letter redelivered"), "{drained}");
    assert!(
        drained.contains("cannot say which endpoints were removed"),
        "{drained}"
    );
    world.wait_dead(0).await;
    let mut taken = world.session.consume(Queue::Again, 1).await.unwrap();
    let mut message = taken.next().await.unwrap();
    let received = message.read(&world.session, 1 << 20);
    for part in message.divide(1) {
        let dead = Settlement::Dead(EndpointRemoved);
        let settled = part.settle(&world.session, &id, &received, &received.history, dead, None);
        settled.await.unwrap();
    }
    taken.stop().await;
    world.wait_dead(1).await;
    let after = letter(&world.run(&show).await.json());
    for fact in [
        "endpoint",
        "event_id",
        "event",
        "attempts",
        "first_attempt",
        "last_attempt",
        "last_status",
        "last_error",
    ] {
        assert_eq!(after[fact], before[fact], "{fact}: {after}");
    }
    assert_eq!(after["reason"], "endpoint_removed", "{after}");
    let told = after.to_string();
    assert!(told.contains("attempts_exhausted"), "{told}");
}

#[tokio::test]
async fn a_letter_without_a_date_is_not_old() {
    let world = World::new().await;
    world.kill_garbage(b"no event").await;
    let discard = ["dlq", "drain", "--discard", "--older-than", "0s"];
    let none = world.run(&discard).await.ok();
    assert!(none.starts_with("no dead letters discarded"), "{none}");
    world.wait_dead(1).await;
    let listed = world
        .run(&["dlq", "list", "--older-than", "365d", "--json"])
        .await
        .json();
    assert_eq!(listed["dead_letters"].as_array().unwrap().len(), 0);
    world.wait_dead(1).await;
}
