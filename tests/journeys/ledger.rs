//! Every event accepted is accounted for, whatever is killed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use relay_broker::Queue;
use relay_testkit::{
    Answer, Receiver, Request, private_broker, shared_broker, wait_until, wait_until_within,
};
use relay_tests::{Database, World, metrics_address};
use serde_json::json;

const EVENTS: usize = 1_500;

/// Fails each event's first attempt for a third of them.
async fn moody() -> Receiver {
    let receiver = Receiver::start().await;
    receiver.respond_by(|request| {
        let number = request.json()["data"].as_u64().unwrap();
        if number % 3 == 0 && request.attempt == 1 {
            Answer::status(500)
        } else {
            Answer::status(204)
        }
    });
    receiver
}

fn delivered(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut delivered = BTreeMap::new();
    for request in requests {
        let first_failed = request.json()["data"].as_u64().unwrap() % 3 == 0 && request.attempt == 1;
        if !first_failed {
            *delivered.entry(request.event_id().unwrap()).or_insert(0) += 1;
        }
    }
    delivered
}

async fn publish(world: &World, from: usize, to: usize) -> BTreeSet<String> {
    let producer = world.producer().await;
    let mut ids = BTreeSet::new();
    for number in from..to {
        let id = format!("event-{number}");
        let event = json!({"specversion": "1.0", "id": id, "source": "/ledger", "type": "order.created", "data": number});
        producer
            .publish_structured("order.created", event.to_string().as_bytes())
            .await;
        ids.insert(id);
    }
    ids
}

async fn settle_up(receiver: &Receiver, published: &BTreeSet<String>) {
    wait_until_within(Duration::from_secs(90), "every event to be delivered", || async {
        let delivered: BTreeSet<String> = delivered(&receiver.requests()).into_keys().collect();
        let missing = published.difference(&delivered).count();
        if missing == 0 {
            Ok(())
        } else {
            Err(format!("{missing} of {} missing", published.len()))
        }
    })
    .await;
    let repeated = delivered(&receiver.requests())
        .values()
        .filter(|count| **count > 1)
        .count();
    println!(
        "{} events, {repeated} of them delivered more than once",
        published.len()
    );
}

/// Each kill comes at another moment of the flow: with attempts under way, copies unconfirmed,
/// messages unacked.
#[tokio::test(flavor = "multi_thread")]
async fn killing_deliverers_loses_nothing() {
    let mut world = World::recorded(Database::Sqlite).await;
    let receiver = moody().await;
    world
        .api
        .add(
            &receiver,
            &["order.*"],
            json!({"retry": ["1s", "1s", "1s", "1s"]}),
        )
        .await;
    let mut published = BTreeSet::new();
    for round in 0..5 {
        let seen = receiver.requests().len();
        published.extend(publish(&world, round * EVENTS / 5, (round + 1) * EVENTS / 5).await);
        receiver.wait_for(seen + 7 + 13 * round).await;
        let victim = world.deliverers.remove(0);
        victim.kill_9();
        victim.wait_exit().await;
        world.add_deliverer().await;
    }
    settle_up(&receiver, &published).await;
    assert_eq!(world.waiting(Queue::Dead).await, 0);
}

/// With answers held, every message is certainly between its attempt and its settlement.
#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_killed_with_attempts_in_flight_loses_none() {
    let mut world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::Hold);
    world
        .api
        .add(&receiver, &["#"], json!({"max_in_flight": 4}))
        .await;
    for n in 0..50 {
        world.api.publish("order.created", json!(n)).await;
    }
    receiver.wait_for(4).await;
    let victim = world.deliverers.remove(0);
    victim.kill_9();
    victim.wait_exit().await;
    receiver.respond_with(Answer::status(204));
    world.add_deliverer().await;
    receiver
        .wait_until("all 50 events answered", |requests| {
            let answered = requests.iter().skip(4);
            answered
                .filter_map(Request::event_id)
                .collect::<BTreeSet<_>>()
                .len()
                == 50
        })
        .await;
}

/// An ack may stand for many messages, but never for one that is still under way.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_while_others_are_acked_comes_again() {
    const HELD: [u64; 3] = [0, 7, 150];
    let mut world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.respond_by(|request| {
        let number = request.json()["data"].as_u64().unwrap();
        if HELD.contains(&number) && request.attempt == 1 {
            Answer::Hold
        } else {
            Answer::status(204)
        }
    });
    world
        .api
        .add(&receiver, &["#"], json!({"max_in_flight": 20}))
        .await;
    let published = publish(&world, 0, 300).await;
    receiver.wait_for(300).await;
    let victim = world.deliverers.remove(0);
    wait_until("all others to be settled", || async {
        let metrics = world.api.metrics(&metrics_address(&victim).await).await;
        let all = "relay_deliveries_total{outcome=\"delivered\"} 297";
        metrics.contains(all).then_some(()).ok_or(metrics)
    })
    .await;
    // A round trip to the broker for what follows the last settlement.
    world.waiting(Queue::Work).await;
    victim.kill_9();
    victim.wait_exit().await;
    world.add_deliverer().await;
    receiver.wait_for(303).await;
    let answered: BTreeSet<String> = receiver
        .wait_until("every event to be answered", |requests| {
            requests.iter().filter(|request| request.answered).count() >= 300
        })
        .await
        .iter()
        .filter(|request| request.answered)
        .map(|request| request.event_id().unwrap())
        .collect();
    assert_eq!(answered, published);
}

/// The gateway dies between taking events and telling its clients: those told are all there.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_while_publishing_loses_nothing_it_accepted() {
    let world = World::without_deliverer(shared_broker().await).await;
    let mut accepted = tokio::task::JoinSet::new();
    for n in 0..8 {
        let api = world.api.clone();
        accepted.spawn(async move { publish_until_refused(&api, n).await });
    }
    wait_until_within(Duration::from_secs(30), "some events to be accepted", || async {
        world.waiting(Queue::Archive).await > 100
    })
    .await;
    world.gateway().kill_9();
    let accepted: BTreeSet<String> = accepted.join_all().await.into_iter().flatten().collect();
    assert!(!accepted.is_empty());
    let archived = world.archived().await;
    let missing: Vec<&String> = accepted.difference(&archived).collect();
    assert!(missing.is_empty(), "accepted and not there: {missing:?}");
}

async fn publish_until_refused(api: &relay_tests::Api, worker: usize) -> Vec<String> {
    let mut accepted = Vec::new();
    loop {
        let id = format!("{worker}-{}", accepted.len());
        if api
            .offer(json!({"id": id, "type": "order.created"}))
            .await
            .is_err()
        {
            return accepted;
        }
        accepted.push(id);
    }
}

/// A kill of the broker is a power cut to it: confirmed messages are on its disk.
#[tokio::test(flavor = "multi_thread")]
async fn killing_the_broker_in_mid_flow_loses_nothing_confirmed() {
    let mut broker = private_broker().await;
    let mut world = World::without_deliverer(broker.amqp_url()).await;
    world.add_deliverer().await;
    world.add_recorder().await;
    let receiver = moody().await;
    world
        .api
        .add(
            &receiver,
            &["order.*"],
            json!({"retry": ["1s", "1s", "1s", "1s"]}),
        )
        .await;
    let mut published = publish(&world, 0, 600).await;
    receiver.wait_for(100).await;
    broker.kill().await;

    let metrics = relay_tests::metrics_address(&world.deliverers[0]).await;
    world.api.wait_until_not_ready(&metrics).await;
    // While it is away the gateway refuses, and a client that tries again gets through in the end.
    assert!(!world.api.try_publish("order.created", json!(1)).await);
    let (api, late) = (world.api.clone(), "event-late".to_owned());
    let retrying =
        tokio::spawn(async move { api.publish_until_accepted(&late, "order.created", json!(1)).await });
    broker.start().await;
    retrying.await.unwrap();
    published.insert("event-late".to_owned());
    world.api.wait_until_ready(&metrics).await;
    published.extend(publish(&world, 601, 700).await);
    settle_up(&receiver, &published).await;

    let said = |text: &str| {
        world.deliverers[0]
            .lines()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    };
    assert_eq!(said("no connection to the broker"), 1, "an outage is said once");
    assert_eq!(world.deliverers[0].exit_status(), None);
    broker.stop().await;
}
