//! The broker, the store or the recorder goes away in the middle: nothing is lost, nothing is twice.

use relay_broker::Queue;
use relay_event::Timestamp;
use relay_store::StoreUrl;
use relay_testkit::{Proxy, private_postgres, shared_broker, wait_until};
use sqlx::{Connection, SqliteConnection};

use crate::relay::{FULL, Producer, Relay, config, event, folder};

/// Nobody else can write into the store until this ends.
pub(crate) async fn lock(url: &StoreUrl) -> SqliteConnection {
    let path = format!("sqlite:{}", url.path().unwrap().display());
    let mut store = SqliteConnection::connect(&path).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut store).await.unwrap();
    store
}

#[tokio::test]
async fn what_comes_while_the_store_is_away_is_recorded_later() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    relay.publish(&event("a")).await;
    relay.logged(1).await;
    let mut other = lock(&relay.config.store).await;
    for _ in 0..10 {
        relay.publish(&event("a")).await;
    }
    wait_until("the store to be missed", || async {
        !relay.context.health.is_ready()
    })
    .await;
    assert!(relay.metric(r#"relay_recorder_store_errors_total{kind="unavailable"}"#) >= 1.0);
    wait_until("the log to be behind", || async {
        relay.metric("relay_recorder_lag_seconds") > 1.0
    })
    .await;
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    relay.logged(11).await;
    relay.until_ready().await;
    relay.stop_and_find_the_queues_empty().await;
}

#[tokio::test]
async fn a_recorder_that_is_told_to_stop_gives_back_what_it_could_not_write() {
    let folder = folder();
    let mut relay = Relay::start(&folder).await;
    relay.publish(&event("a")).await;
    relay.logged(1).await;
    let other = lock(&relay.config.store).await;
    for _ in 0..10 {
        relay.publish(&event("a")).await;
    }
    wait_until("the store to be missed", || async {
        !relay.context.health.is_ready()
    })
    .await;
    relay.stop().await;
    let session = relay.session().await;
    wait_until("the events to be back", || async {
        let depth = session.depth(Queue::Archive).await;
        let ready = depth.unwrap().unwrap().ready;
        if ready == 10 { Ok(()) } else { Err(ready) }
    })
    .await;
    drop(other);
}

#[tokio::test]
async fn a_cut_connection_loses_nothing_and_records_nothing_twice() {
    const EVENTS: usize = 2_000;
    let (folder, url) = (folder(), shared_broker().await);
    let proxy = Proxy::start(url).await;
    let mut config = config(&proxy.url(), &folder);
    config.batch_records = 20;
    let mut relay = Relay::without_recorder(config, url).await;
    relay.record();
    relay.until_ready().await;
    for part in 0..4 {
        let session = relay.session().await;
        let events: Vec<_> = (0..EVENTS / 4).map(|_| event("a")).collect();
        let published = events
            .iter()
            .map(|event| session.publish_event(event, Timestamp::now()));
        futures_util::future::try_join_all(published).await.unwrap();
        if part < 3 {
            proxy.cut();
        }
    }
    relay.logged(EVENTS).await;
    relay.counted("events", EVENTS as f64).await;
    relay.stop_and_find_the_queues_empty().await;
}

#[tokio::test]
async fn a_standby_takes_over() {
    let (folder, url) = (folder(), shared_broker().await);
    let first_config = config(url, &folder);
    let mut first = Relay::without_recorder(first_config.clone(), url).await;
    first.record();
    first.until_ready().await;
    first.publish(&event("a")).await;
    first.logged(1).await;
    let mut second = Relay::without_recorder(first_config, url).await;
    second.record();
    second.until_ready().await;
    second.publish(&event("a")).await;
    second.logged(2).await;
    first.counted("events", 2.0).await;
    second.counted("events", 0.0).await;
    first.stop().await;
    second.publish(&event("a")).await;
    second.logged(3).await;
    second.counted("events", 1.0).await;
    second.stop_and_find_the_queues_empty().await;
}

/// Somebody deleted a queue by hand.
#[tokio::test]
async fn a_deleted_queue_comes_back() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    relay.publish(&event("a")).await;
    relay.logged(1).await;
    Producer::connect(&relay.config)
        .await
        .delete_queue("archive")
        .await;
    wait_until("another event to be recorded", || async {
        let session = relay.session().await;
        let _ = session.publish_event(&event("a"), Timestamp::now()).await;
        relay.events().await.len() > 1
    })
    .await;
}

/// As during an alarm, when the recorder has to empty the broker, of all times.
#[tokio::test]
async fn while_nothing_can_be_set_aside_all_else_is_recorded() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let producer = Producer::connect(&relay.config).await;
    producer.refuse_dead_letters().await;
    for _ in 0..3 {
        producer.publish_event("a", b"no event").await;
        relay.publish(&event("a")).await;
    }
    relay.logged(3).await;
    relay.publish(&event("a")).await;
    relay.logged(4).await;
    let set_aside = r#"relay_recorder_set_aside_total{reason="invalid_event"}"#;
    assert_eq!(relay.metric(set_aside), 0.0);
    producer.delete_queue(FULL).await;
    wait_until("all of them to be set aside", || async {
        let count = relay.metric(set_aside);
        if count == 3.0 { Ok(()) } else { Err(count) }
    })
    .await;
    relay.stop_and_find_the_queues_empty().await;
}

#[tokio::test]
async fn a_killed_database_loses_nothing_and_gets_nothing_twice() {
    const EVENTS: usize = 600;
    let (folder, url) = (folder(), shared_broker().await);
    let mut postgres = private_postgres().await;
    let mut config = config(url, &folder);
    config.store = postgres.url().parse().unwrap();
    config.batch_records = 20;
    let mut relay = Relay::without_recorder(config, url).await;
    relay.record();
    relay.until_ready().await;
    for part in 0..3 {
        let session = relay.session().await;
        let events: Vec<_> = (0..EVENTS / 3).map(|_| event("a")).collect();
        let published = events
            .iter()
            .map(|event| session.publish_event(event, Timestamp::now()));
        futures_util::future::try_join_all(published).await.unwrap();
        if part < 2 {
            postgres.kill().await;
            wait_until("the store to be missed", || async {
                !relay.context.health.is_ready()
            })
            .await;
            postgres.start().await;
        }
    }
    relay.logged(EVENTS).await;
    relay.until_ready().await;
    relay.stop_and_find_the_queues_empty().await;
}
