//! Endpoints that fail every time are left in peace: they hold little, their events wait, and they come
//! back by themselves.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Mutex,
    time::Duration,
};

use relay_broker::Queue;
use relay_testkit::{Answer, Process, Receiver, Request, shared_broker, wait_until, wait_until_within};
use relay_tests::{Added, Database, World, metrics_address};
use serde_json::{Value, json};

fn ids(receiver: &Receiver) -> BTreeSet<String> {
    let requests = receiver.requests();
    let answered = requests.iter().filter(|request| request.answered);
    answered.map(|request| request.event_id().unwrap()).collect()
}

async fn publish(world: &World, event_type: &str, count: usize) -> BTreeSet<String> {
    let mut published = BTreeSet::new();
    for n in 0..count {
        published.insert(world.api.publish(event_type, json!(n)).await);
    }
    published
}

/// The sum of a process's counters that begin so.
async fn counted(world: &World, process: &Process, begin: &str) -> u64 {
    let metrics = world.api.metrics(&metrics_address(process).await).await;
    let counters = metrics.lines().filter(|line| line.starts_with(begin));
    let values = counters.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}

async fn wait_until_circuit_open(world: &World) {
    let metrics = metrics_address(&world.deliverers[0]).await;
    world.api.wait_for_metric(&metrics, "relay_circuits_open 1").await;
}

async fn wait_for_view(
    world: &World,
    endpoint: &Added,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    wait_until(what, || async {
        let view = world.api.endpoint(&endpoint.id).await;
        if wanted(&view) {
            Ok(view)
        } else {
            Err(view.to_string())
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_never_answer_hold_little_and_delay_nobody() {
    let mut world = World::without_deliverer(shared_broker().await).await;
    let (healthy, mut silent) = (Receiver::start().await, Vec::new());
    for _ in 0..30 {
        let receiver = Receiver::start().await;
        receiver.respond_with(Answer::Hold);
        world.api.add(&receiver, &["order.*"], json!({})).await;
        silent.push(receiver);
    }
    world.api.add(&healthy, &["order.*"], json!({})).await;
    let before = publish(&world, "order.created", 60).await;
    world.add_deliverer().await;
    for receiver in &silent {
        receiver.wait_for(1).await;
    }
    let meanwhile = publish(&world, "order.created", 60).await;
    let all: BTreeSet<String> = before.union(&meanwhile).cloned().collect();
    wait_until("all events at the healthy one", || async { ids(&healthy) == all }).await;
    for receiver in &silent {
        let held = receiver.max_in_flight();
        assert!((1..=4).contains(&held), "{held} of 120 waiting");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_returns_gets_everything_and_little_was_burnt_meanwhile() {
    let mut world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    let schedule = vec!["2s"; 20];
    let endpoint = world.api.add(&receiver, &["#"], json!({"retry": schedule})).await;
    world.api.publish("order.created", json!("before")).await;
    receiver.wait_for(1).await;
    receiver.stop().await;
    let published = publish(&world, "order.created", 300).await;
    wait_until_circuit_open(&world).await;
    // One may be tried now, and a few be waiting for their retry.
    world.wait_until_held(&endpoint.id, |held| held >= 295).await;
    wait_until("some to be tried", || async {
        counted(&world, &world.recorders[0], "relay_dispatched_total").await > 1
    })
    .await;
    let deliverer = &world.deliverers[0];
    let burnt = counted(&world, deliverer, r#"relay_attempts_total{result="connect"}"#).await;
    assert!((10..50).contains(&burnt), "{burnt} attempts for 300 events");

    receiver.restart().await;
    wait_until_within(Duration::from_secs(60), "all 300 events", || async {
        let missing = published.difference(&ids(&receiver)).count();
        if missing == 0 {
            Ok(())
        } else {
            Err(format!("{missing} missing"))
        }
    })
    .await;
    let metrics = metrics_address(&world.deliverers[0]).await;
    world.api.wait_for_metric(&metrics, "relay_circuits_open 0").await;
    assert_eq!(world.waiting(Queue::Dead).await, 0);
    let deliverer = world.deliverers.remove(0);
    let said = |text: &str| {
        deliverer
            .lines()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    };
    assert_eq!(
        (said("its circuit is open"), said("it answers again")),
        (1, 1),
        "a change is said once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_for_too_long_is_disabled_and_its_owner_sees_why() {
    let mut world = World::without_deliverer(shared_broker().await).await;
    world.add_deliverer_with(&[("RELAY_DISABLE_AFTER", "3s")]).await;
    world.add_recorder().await;
    let receiver = Receiver::start().await;
    receiver.stop().await;
    let endpoint = world.api.add(&receiver, &["#"], json!({})).await;
    publish(&world, "order.created", 30).await;
    let view = wait_for_view(&world, &endpoint, "it to be disabled", |view| {
        view["state"] == "disabled"
    })
    .await;
    let reason = view["reason"].as_str().unwrap();
    let since = view["failing_since"].as_str().unwrap();
    assert_eq!(
        reason,
        format!("no attempt succeeded since {since}; last: connect")
    );

    // What waits is not lost, and its owner's word is enough to begin anew.
    receiver.restart().await;
    let view = world.api.change(&endpoint.id, json!({"paused": false})).await;
    assert_eq!(
        (&view["state"], &view["failing_since"]),
        (&json!("active"), &Value::Null)
    );
    receiver.wait_for(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn since_when_it_fails_outlives_a_deliverer_and_ends_with_a_success() {
    let mut world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.stop().await;
    let endpoint = world
        .api
        .add(&receiver, &["#"], json!({"retry": vec!["2s"; 20]}))
        .await;
    publish(&world, "order.created", 30).await;
    let noted = |view: &Value| view.get("failing_since").is_some();
    let view = wait_for_view(&world, &endpoint, "its failing to be noted", noted).await;
    assert_eq!(view["state"], "active");
    let since = view["failing_since"].clone();

    let stopping = world.deliverers.remove(0);
    stopping.terminate();
    assert!(stopping.wait_exit().await.success());
    world.add_deliverer().await;
    // It has seen nothing yet of what the other one saw.
    publish(&world, "order.created", 30).await;
    wait_until_circuit_open(&world).await;
    assert_eq!(world.api.endpoint(&endpoint.id).await["failing_since"], since);

    receiver.restart().await;
    wait_until_within(Duration::from_secs(90), "all 60 events", || async {
        let there = ids(&receiver).len();
        (there == 60).then_some(()).ok_or(there)
    })
    .await;
    let cleared = |view: &Value| view.get("failing_since").is_none();
    wait_for_view(&world, &endpoint, "its failing to be over", cleared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_an_open_circuit_that_moves_is_sent_to_at_once_and_one_that_goes_is_buried() {
    let world = World::recorded(Database::Sqlite).await;
    let (away, new) = (Receiver::start().await, Receiver::start().await);
    away.stop().await;
    let settings = json!({"retry": vec!["2s"; 20]});
    let endpoint = world.api.add(&away, &["#"], settings).await;
    publish(&world, "order.created", 40).await;
    wait_until_circuit_open(&world).await;
    world.api.change(&endpoint.id, json!({"url": new.url()})).await;
    new.wait_for(40).await;

    new.stop().await;
    let later = publish(&world, "order.created", 40).await;
    wait_until_circuit_open(&world).await;
    world.api.remove(&endpoint.id).await;
    let letters = world.dead_letters(40).await;
    let dead: BTreeSet<String> = letters.into_iter().filter_map(|letter| letter.event_id).collect();
    assert_eq!(dead, later);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_503_about_single_events_opens_no_circuit() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.respond_by(third_time_lucky());
    let settings = json!({"retry": ["1s", "1s"]});
    world.api.add(&receiver, &["#"], settings).await;
    let published = publish(&world, "order.created", 200).await;
    receiver
        .wait_until("three attempts at each", |requests| {
            published.iter().all(|id| {
                let attempts = requests
                    .iter()
                    .filter(|request| request.event_id().as_deref() == Some(id));
                attempts.count() == 3
            })
        })
        .await;
    assert_eq!(world.waiting(Queue::Dead).await, 0);
    let held = r#"relay_held_total{reason="circuit"}"#;
    assert_eq!(counted(&world, &world.deliverers[0], held).await, 0);
}

/// Refuses each event twice.
fn third_time_lucky() -> impl Fn(&Request) -> Answer + Send + Sync {
    let seen = Mutex::new(HashMap::<String, usize>::new());
    move |request| {
        let mut seen = seen.lock().unwrap();
        let attempts = seen.entry(request.event_id().unwrap()).or_default();
        *attempts += 1;
        Answer::status(if *attempts < 3 { 503 } else { 204 })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_never_answer_leave_room_in_the_process_to_one_that_does() {
    let mut world = World::without_deliverer(shared_broker().await).await;
    world.add_deliverer_with(&[("RELAY_MAX_ATTEMPTS", "8")]).await;
    let healthy = Receiver::start().await;
    world.api.add(&healthy, &["#"], json!({})).await;
    world.api.publish("order.created", json!("known to answer")).await;
    healthy.wait_for(1).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        let receiver = Receiver::start().await;
        receiver.respond_with(Answer::Hold);
        world.api.add(&receiver, &["#"], json!({})).await;
        silent.push(receiver);
    }
    publish(&world, "order.created", 20).await;
    let held = || silent.iter().map(Receiver::in_flight).sum::<usize>();
    wait_until("the silent ones to hold all they may", || async {
        match held() {
            6 => Ok(()),
            held => Err(held),
        }
    })
    .await;
    publish(&world, "order.created", 20).await;
    healthy.wait_for(41).await;
    assert_eq!(held(), 6, "of 8, a quarter is kept for who answers");
}
