//! Outages and shutdowns.

use std::time::Duration;

use relay_broker::Queue;
use relay_testkit::{Answer, Proxy, Receiver, private_broker_with, shared_broker, wait_until};
use relay_tests::{Database, World, limit, metrics_address};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection;

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_finishes_what_is_in_flight() {
    let mut world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::Hold);
    let endpoint = world
        .api
        .add(&receiver, &["#"], json!({"max_in_flight": 4}))
        .await;
    for n in 0..12 {
        world.api.publish("order.created", json!(n)).await;
    }
    receiver.wait_for(4).await;
    let stopping = world.deliverers.remove(0);
    stopping.terminate();
    // A delivery that only waits for its turn goes back, or is held if it has waited for long.
    let store = world.store().await;
    wait_until("the other eight to be given back", || async {
        let held = store.waiting_by_endpoint().await.unwrap().endpoints;
        let held = held
            .into_iter()
            .filter(|held| held.endpoint.as_str() == endpoint.id);
        let held: u64 = held.flat_map(|held| held.by_reason).map(|(_, count)| count).sum();
        let (work, again) = (
            world.waiting(Queue::Work).await,
            world.waiting(Queue::Dispatch).await,
        );
        let back = held + u64::from(work) + u64::from(again);
        (back == 8)
            .then_some(())
            .ok_or_else(|| format!("{held} held, {work} + {again} in queues"))
    })
    .await;
    receiver.release();
    assert!(stopping.wait_exit().await.success());
    // Those four were finished, not given back; the other eight wait for somebody else.
    assert_eq!(receiver.requests().len(), 4);
    receiver.respond_with(Answer::status(204));
    world.add_deliverer().await;
    receiver.wait_for(12).await;
}

/// A broker behind a wire that is cut and frozen, with messages under way in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_wire_to_the_broker_is_survived() {
    let (world, proxy) = World::behind_a_proxy().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    for round in 0..4 {
        for n in 0..100 {
            world.api.publish("order.created", json!(n)).await;
        }
        receiver.wait_for(round * 100 + 20).await;
        proxy.cut();
    }
    receiver
        .wait_until("all 400 events", |requests| {
            requests
                .iter()
                .filter_map(|r| r.event_id())
                .collect::<std::collections::BTreeSet<_>>()
                .len()
                == 400
        })
        .await;
}

/// Bytes stop, connections stay: only missing heartbeats tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_wire_to_the_broker_is_noticed() {
    let (world, proxy) = World::behind_a_proxy().await;
    let metrics = metrics_address(&world.deliverers[0]).await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    world.api.publish("order.created", json!("before")).await;
    receiver.wait_for(1).await;
    proxy.freeze(true);
    world.api.publish("order.created", json!("meanwhile")).await;
    relay_testkit::wait_until_within(Duration::from_secs(60), "the deliverer to notice", || async {
        let ready = world.api.metrics(&metrics).await;
        ready.contains("relay_broker_connected 0")
    })
    .await;
    proxy.freeze(false);
    receiver
        .wait_until("what was published meanwhile", |requests| {
            requests.iter().any(|r| r.json()["data"] == "meanwhile")
        })
        .await;
}

/// An announcement may be missed; the next look finds the change.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_made_while_the_deliverer_was_cut_off_takes_effect() {
    let (world, proxy) = World::behind_a_proxy().await;
    let (before, after) = (Receiver::start().await, Receiver::start().await);
    let endpoint = world.api.add(&before, &["#"], json!({})).await;
    world.api.publish("order.created", json!(1)).await;
    before.wait_for(1).await;
    proxy.refuse(true);
    proxy.cut();
    world.api.change(&endpoint.id, json!({"url": after.url()})).await;
    world.api.publish("order.created", json!(2)).await;
    proxy.refuse(false);
    after.wait_for(1).await;
    assert_eq!(before.requests().len(), 1);
}

/// A store that cannot be read stops no delivery, not even over a reconnect.
#[tokio::test(flavor = "multi_thread")]
async fn delivery_goes_on_without_the_store() {
    let (world, proxy) = World::behind_a_proxy().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    world.api.publish("order.created", json!(1)).await;
    receiver.wait_for(1).await;

    let database = format!("sqlite:{}", world.folder().join("relay.db").display());
    let mut database = sqlx::SqliteConnection::connect(&database).await.unwrap();
    let damage = "UPDATE fleet SET number = number + 1;
        UPDATE endpoints SET document = 'damaged', changed_in = (SELECT number FROM fleet)";
    sqlx::raw_sql(damage).execute(&mut database).await.unwrap();
    let metrics = metrics_address(&world.deliverers[0]).await;
    world.api.wait_until_not_ready(&metrics).await;
    proxy.cut();
    world.api.publish("order.created", json!(2)).await;
    receiver.wait_for(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_deliverers_share_an_endpoint() {
    let mut world = World::recorded(Database::Sqlite).await;
    let session = world.session().await;
    let consumers = async || {
        let depth = session.depth(Queue::Work).await.unwrap();
        depth.map_or(0, |depth| depth.consumers)
    };
    // A deliverer that has nothing to do has four.
    wait_until("the first to consume", || async { consumers().await == 4 }).await;
    world.add_deliverer().await;
    wait_until("both to consume", || async { consumers().await == 8 }).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::Hold);
    world
        .api
        .add(&receiver, &["#"], json!({"max_in_flight": 3}))
        .await;
    for n in 0..100 {
        world.api.publish("order.created", json!(n)).await;
    }
    // Three of each deliverer.
    receiver.wait_for(6).await;
    assert_eq!(receiver.max_in_flight(), 6);
    receiver.respond_with(Answer::status(204));
    receiver.release();
    receiver
        .wait_until("all 100 events", |requests| {
            requests
                .iter()
                .filter_map(|r| r.event_id())
                .collect::<std::collections::BTreeSet<_>>()
                .len()
                == 100
        })
        .await;
    assert!(receiver.max_in_flight() <= 6);
    session.close().await;
}

/// A broker that is short of memory takes no publishes; nobody is told "accepted" meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_of_the_broker_is_told_to_producers() {
    let broker = private_broker_with("vm_memory_high_watermark.absolute = 1MB").await;
    let world = World::without_deliverer(broker.amqp_url()).await;
    let metrics = metrics_address(world.gateway()).await;
    // The broker looks at its memory now and then, and tells of its alarm when somebody publishes.
    let accepted = wait_until("a publish to be refused", || async {
        let accepted = world.waiting(Queue::Archive).await;
        (!world.api.try_publish("order.created", json!(1)).await).then_some(accepted)
    })
    .await;
    world.api.wait_until_not_ready(&metrics).await;
    assert!(!world.api.try_publish("order.created", json!(2)).await);
    assert!(
        world
            .api
            .metrics(&metrics)
            .await
            .contains("relay_broker_blocked 1")
    );
    assert_eq!(world.waiting(Queue::Archive).await, accepted);
}

/// What the machine lacks is no failure of an endpoint: it costs no attempt, and closes nothing off.
#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_that_may_open_no_more_files_waits_until_it_may() {
    let world = World::recorded(Database::Sqlite).await;
    let deliverer = &world.deliverers[0];
    let (receiver, first) = (Receiver::start().await, Receiver::start().await);
    world.api.add(&first, &["first"], json!({})).await;
    // A name takes a file to be resolved, too.
    let named = format!("http://localhost:{}/hook", receiver.addr().port());
    for settings in [json!({"retry": ["1s"]}), json!({"retry": ["1s"], "url": named})] {
        world.api.add(&receiver, &["a.b"], settings).await;
    }
    // Whoever has delivered something has all files open that it needs besides.
    world.api.publish("first", json!(0)).await;
    first.wait_for(1).await;

    limit(deliverer, "--nofile=3:");
    let mut events = Vec::new();
    for n in 0..20 {
        events.push(world.api.publish("a.b", json!(n)).await);
    }
    deliverer
        .wait_for_output("no file or memory for more connections")
        .await;
    limit(deliverer, "--nofile=1024:");
    for event in &events {
        let path = format!("/v1/events/{event}/attempts");
        let attempts = wait_until("an attempt at each", || async {
            let response = world.api.call(Method::GET, &path, None).await;
            let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            let attempts = answer["attempts"].as_array().cloned();
            attempts.filter(|attempts| attempts.len() >= 2)
        })
        .await;
        assert!(
            attempts.len() == 2 && attempts.iter().all(|attempt| attempt["state"] == "delivered"),
            "{attempts:?}"
        );
    }
    assert_eq!(receiver.count(), 2 * events.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_turn_when_its_endpoint_is_paused_is_held() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::Hold);
    let endpoint = world
        .api
        .add(&receiver, &["#"], json!({"max_in_flight": 1}))
        .await;
    for n in 0..5 {
        world.api.publish("a.b", json!(n)).await;
    }
    receiver.wait_for(1).await;
    world.api.change(&endpoint.id, json!({"paused": true})).await;
    // The deliverer that holds this knows that it is paused.
    world.api.publish("a.b", json!(5)).await;
    world.wait_until_held(&endpoint.id, |held| held > 0).await;
    receiver.release();
    world.wait_until_held(&endpoint.id, |held| held == 5).await;
    assert_eq!(receiver.requests().len(), 1);

    receiver.respond_with(Answer::status(204));
    world.api.change(&endpoint.id, json!({"paused": false})).await;
    receiver.wait_for(6).await;
}

/// A database that says nothing delays nothing that a deliverer does meanwhile: after the broker's wire was cut
/// it takes again from the endpoints that it knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_database_delays_no_delivery() {
    let mut world = World::on(shared_broker().await, Database::Postgres).await;
    let broker = Proxy::start(&world.amqp_url).await;
    let database = Proxy::start(&world.store_url).await;
    let (amqp_url, store_url) = (broker.url(), database.url());
    world
        .add_deliverer_with(&[("RELAY_AMQP_URL", &amqp_url), ("RELAY_STORE_URL", &store_url)])
        .await;
    let receiver = Receiver::start().await;
    let endpoint = world.api.add(&receiver, &["#"], json!({})).await;
    world.api.publish("a.b", json!(1)).await;
    receiver.wait_for(1).await;

    database.freeze(true);
    let deliverer = &world.deliverers[0];
    deliverer.wait_for_output("the endpoints cannot be read").await;
    broker.cut();
    world.api.publish("a.b", json!(2)).await;
    receiver.wait_for(2).await;
    // The database has not answered since.
    let output = deliverer.output();
    assert_eq!(output.matches("the endpoints are read").count(), 1, "{output}");

    // What changes meanwhile is found afterwards.
    world.api.change(&endpoint.id, json!({"paused": true})).await;
    database.freeze(false);
    let metrics = metrics_address(deliverer).await;
    world.api.wait_until_ready(&metrics).await;
    world.api.publish("a.b", json!(3)).await;
    world
        .api
        .wait_for_metric(&metrics, r#"relay_held_total{reason="paused"} 1"#)
        .await;
    assert_eq!(receiver.count(), 2);
}
