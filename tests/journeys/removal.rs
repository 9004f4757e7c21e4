//! An endpoint is removed while events wait for it: none of them is lost.

use std::collections::BTreeSet;

use relay_event::DeadReason;
use relay_testkit::{Answer, Receiver, shared_broker, wait_until};
use relay_tests::World;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn retries_of_a_removed_endpoint_become_dead_letters() {
    let world = World::start().await;
    let (removed, kept) = (Receiver::start().await, Receiver::start().await);
    removed.respond_with(Answer::status(500));
    kept.script((0..40).map(|_| Answer::status(500)));
    let settings = json!({"retry": ["3s", "3s"]});
    let endpoint = world.api.add(&removed, &["order.*"], settings.clone()).await;
    world.api.add(&kept, &["order.*"], settings).await;
    let mut published = BTreeSet::new();
    for n in 0..40 {
        published.insert(world.api.publish("order.created", json!(n)).await);
    }
    removed.wait_for(40).await;
    kept.wait_for(40).await;
    world.api.remove(&endpoint.id).await;

    let letters = world.dead_letters(40).await;
    assert!(
        letters
            .iter()
            .all(|letter| letter.reason == DeadReason::EndpointRemoved)
    );
    assert!(letters.iter().all(|letter| {
        letter
            .endpoint
            .as_ref()
            .is_some_and(|id| id.as_str() == endpoint.id)
    }));
    let dead: BTreeSet<String> = letters.into_iter().filter_map(|letter| letter.event_id).collect();
    assert_eq!(dead, published);
    // The same delay's queue goes on working for everybody else: more than the 32 places of its
    // dead-letter worker were taken by the removed endpoint's.
    kept.wait_for(80).await;
    assert_eq!(removed.requests().len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_removed_endpoints_queue_becomes_dead_letters_and_the_queue_goes() {
    let mut world = World::without_deliverer(shared_broker().await).await;
    let receiver = Receiver::start().await;
    let endpoint = world.api.add(&receiver, &["#"], json!({})).await;
    for n in 0..300 {
        world.api.publish("order.created", json!(n)).await;
    }
    world.api.remove(&endpoint.id).await;
    world.add_deliverer().await;

    let letters = world.dead_letters(300).await;
    let dead: BTreeSet<Option<String>> = letters.into_iter().map(|letter| letter.event_id).collect();
    assert_eq!(dead.len(), 300);
    assert_eq!(receiver.requests().len(), 0);
    let session = world.session().await;
    let queue = format!("{}.endpoint.{}", world.namespace, endpoint.id);
    wait_until("the queue to be deleted", || async {
        session.depth(&queue).await.unwrap().is_none()
    })
    .await;
    session.close().await;
}

/// What is in flight when its endpoint is removed is still owed: the queue must stay until it is
/// settled, though it looks empty, because a crash brings it back there.
#[tokio::test(flavor = "multi_thread")]
async fn removal_waits_for_what_is_in_flight() {
    let mut world = World::start().await;
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    receiver.respond_with(Answer::Hold);
    let endpoint = world
        .api
        .add(&receiver, &["order.*"], json!({"timeout_ms": 120_000}))
        .await;
    let mut later = Vec::new();
    for _ in 0..8 {
        later.push(world.api.add(&other, &["invoice.*"], json!({})).await);
    }
    let id = world.api.publish("order.created", json!(1)).await;
    receiver.wait_for(1).await;
    world.api.remove(&endpoint.id).await;

    // Once the queues of several removed later are deleted, the first has had its turns too.
    for endpoint in &later {
        world.api.remove(&endpoint.id).await;
    }
    let session = world.session().await;
    for endpoint in &later {
        let queue = format!("{}.endpoint.{}", world.namespace, endpoint.id);
        wait_until("the other queues to be deleted", || async {
            session.depth(&queue).await.unwrap().is_none()
        })
        .await;
    }
    session.close().await;
    assert_eq!(world.waiting("dead").await, 0);
    let victim = world.deliverers.remove(0);
    victim.kill_9();
    victim.wait_exit().await;
    world.add_deliverer().await;
    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.reason, letter.event_id),
        (DeadReason::EndpointRemoved, Some(id))
    );
}

/// An operator deletes a queue by hand: nobody hangs on it, and it comes back with its bindings.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_comes_back() {
    let mut world = World::start().await;
    let receiver = Receiver::start().await;
    let endpoint = world.api.add(&receiver, &["#"], json!({})).await;
    world.api.publish("order.created", json!("before")).await;
    receiver.wait_for(1).await;
    let session = world.session().await;
    session
        .delete_endpoint(&endpoint.id.parse().unwrap())
        .await
        .unwrap();
    let queue = format!("{}.endpoint.{}", world.namespace, endpoint.id);
    wait_until("the queue to be back with its consumer", || async {
        session
            .depth(&queue)
            .await
            .unwrap()
            .is_some_and(|depth| depth.consumers == 1)
    })
    .await;
    session.close().await;
    // Its bindings follow; what is published before them goes to the log alone.
    wait_until("an event to be delivered", || async {
        world.api.publish("order.created", json!("after")).await;
        match receiver.count() {
            0 | 1 => Err("none"),
            _ => Ok(()),
        }
    })
    .await;
    let deliverer = world.deliverers.remove(0);
    deliverer.terminate();
    assert!(deliverer.wait_exit().await.success());
}
