//! An endpoint is removed while events wait for it: none that was matched for it is lost.

use std::{collections::BTreeSet, time::Duration};

use relay_broker::Queue;
use relay_event::{DeadLetter, DeadReason, Timestamp};
use relay_testkit::{Answer, Receiver, shared_broker, wait_until};
use relay_tests::{Added, Database, World};
use reqwest::Method;
use serde_json::json;

async fn publish(world: &World, count: usize) -> BTreeSet<String> {
    let mut published = BTreeSet::new();
    for n in 0..count {
        published.insert(world.api.publish("order.created", json!(n)).await);
    }
    published
}

/// Checks that these are the letters of a removed endpoint's events, one of each.
fn are_of(letters: &[DeadLetter], endpoint: &Added, events: &BTreeSet<String>) {
    for letter in letters {
        let of = letter.endpoint.as_ref().map(|id| id.as_str());
        assert_eq!(
            (letter.reason, of),
            (DeadReason::EndpointRemoved, Some(endpoint.id.as_str())),
            "{letter:#?}"
        );
    }
    let dead = letters.iter().filter_map(|letter| letter.event_id.clone());
    assert_eq!(&dead.collect::<BTreeSet<_>>(), events);
    assert_eq!(letters.len(), events.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_of_a_removed_endpoint_become_dead_letters() {
    let world = World::recorded(Database::Sqlite).await;
    let (removed, kept) = (Receiver::start().await, Receiver::start().await);
    removed.respond_with(Answer::status(500));
    kept.script((0..40).map(|_| Answer::status(500)));
    let settings = json!({"retry": ["3s", "3s"]});
    let endpoint = world.api.add(&removed, &["order.*"], settings.clone()).await;
    world.api.add(&kept, &["order.*"], settings).await;
    let published = publish(&world, 40).await;
    removed.wait_for(40).await;
    kept.wait_for(40).await;
    world.api.remove(&endpoint.id).await;

    are_of(&world.dead_letters(40).await, &endpoint, &published);
    // The same delay's queue goes on working for everybody else: more than the 32 places of its
    // dead-letter worker were taken by the removed endpoint's.
    kept.wait_for(80).await;
    assert_eq!(removed.requests().len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_for_a_removed_endpoint_becomes_dead_letters() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    let endpoint = world.api.add(&receiver, &["#"], json!({"paused": true})).await;
    let published = publish(&world, 300).await;
    world.wait_until_held(&endpoint.id, |held| held == 300).await;
    world.api.remove(&endpoint.id).await;

    are_of(&world.dead_letters(300).await, &endpoint, &published);
    assert_eq!(receiver.requests().len(), 0);
    world.wait_until_held(&endpoint.id, |held| held == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_expires_is_removed_with_what_is_held_for_it() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    let endpoint = world.api.add(&receiver, &["#"], json!({"paused": true})).await;
    let published = publish(&world, 5).await;
    world.wait_until_held(&endpoint.id, |held| held == 5).await;
    let soon = Timestamp::now() + Duration::from_secs(3);
    let changed = world.api.change(&endpoint.id, json!({"expires_at": soon})).await;
    assert_eq!(changed["expires_at"], json!(soon));

    are_of(&world.dead_letters(5).await, &endpoint, &published);
    let path = format!("/v1/endpoints/{}", endpoint.id);
    let shown = world.api.call(Method::GET, &path, None).await;
    assert_eq!(shown.status(), 404);
    assert!(soon <= Timestamp::now());
    assert_eq!(receiver.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_matched_yet_is_not_for_a_removed_endpoint() {
    let mut world = World::without_deliverer(shared_broker().await).await;
    let (removed, kept) = (Receiver::start().await, Receiver::start().await);
    let endpoint = world.api.add(&removed, &["#"], json!({})).await;
    world.api.add(&kept, &["#"], json!({})).await;
    publish(&world, 20).await;
    world.api.remove(&endpoint.id).await;
    world.add_deliverer().await;
    kept.wait_for(20).await;
    let last = world.api.publish("order.created", json!("last")).await;
    kept.wait_until("the last", |requests| {
        requests
            .iter()
            .any(|request| request.event_id().as_deref() == Some(&last))
    })
    .await;
    assert_eq!(
        (removed.requests().len(), world.waiting(Queue::Dead).await),
        (0, 0)
    );
}

/// One attempt is under way and holds the others up: they are not tried any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_turn_at_a_removed_endpoint_becomes_dead_letters() {
    let world = World::recorded(Database::Sqlite).await;
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    receiver.respond_with(Answer::Hold);
    let endpoint = world
        .api
        .add(&receiver, &["#"], json!({"max_in_flight": 1}))
        .await;
    world.api.add(&other, &["invoice.sent"], json!({})).await;
    let mut published = publish(&world, 10).await;
    let first = receiver.wait_for(1).await[0].event_id().unwrap();
    world.api.remove(&endpoint.id).await;
    // The deliverer of this knows that it is removed.
    world.api.publish("invoice.sent", json!(1)).await;
    other.wait_for(1).await;
    receiver.release();

    published.remove(&first);
    are_of(&world.dead_letters(9).await, &endpoint, &published);
    assert_eq!(receiver.requests().len(), 1);
}

/// An attempt that is under way is not broken off, and what it came to counts: here that it wants a retry.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_under_way_when_its_endpoint_is_removed_is_finished() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::Hold);
    let settings = json!({"timeout_ms": 2_000, "retry": ["1s"]});
    let endpoint = world.api.add(&receiver, &["#"], settings).await;
    let published = publish(&world, 2).await;
    receiver.wait_for(2).await;
    world.api.remove(&endpoint.id).await;
    // Neither is answered in time.
    let letters = world.dead_letters(2).await;
    assert!(letters.iter().all(|letter| letter.attempts == 1), "{letters:#?}");
    are_of(&letters, &endpoint, &published);
}

/// An operator deletes a queue by hand: nobody hangs on it, and it comes back with its binding.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_comes_back() {
    let mut world = World::start().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    world.api.publish("order.created", json!("before")).await;
    receiver.wait_for(1).await;
    world.producer().await.delete_queue("work").await;
    // An event that is published while it is not there is in the log alone.
    wait_until("an event to be delivered again", || async {
        world.api.publish("order.created", json!("after")).await;
        receiver.count() > 1
    })
    .await;
    let deliverer = world.deliverers.remove(0);
    deliverer.terminate();
    assert!(deliverer.wait_exit().await.success());
}
