//! The recorder that sends held deliveries on is killed, frozen, or beside another one: all that is held is delivered.

use std::{path::Path, time::Duration};

use relay_broker::{Queue, Settlement};
use relay_event::{DeliveryState, Endpoint, EndpointState, HoldReason};
use relay_recorder::{Config, DispatchTimes};
use relay_testkit::{Process, Proxy, shared_broker, wait_until};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use crate::{
    dispatch::{Deliverer, change, paused, until_held},
    outages::lock,
    relay::{Relay, config, folder},
};

/// The deliveries that are held in each test.
const HELD: usize = 5;

/// A recorder's words once it has a record that it cannot write.
const CANNOT_WRITE: &str = "the store cannot be used";

/// The settings of a recorder that takes over: what another one claimed is silent soon.
fn impatient(amqp_url: &str, folder: &TempDir) -> Config {
    Config {
        dispatch: DispatchTimes {
            silent: Duration::from_secs(1),
            ..DispatchTimes::default()
        },
        ..config(amqp_url, folder)
    }
}

/// A recorder in a process of its own, with the usual times.
fn process(config: &Config, amqp_url: &str) -> Process {
    let namespace = config.namespace.to_string();
    let store = format!("sqlite:{}", config.store.path().unwrap().display());
    let settings = [
        ("RELAY_AMQP_URL", amqp_url),
        ("RELAY_NAMESPACE", &namespace),
        ("RELAY_STORE_URL", &store),
        ("RELAY_RECHECK", "300ms"),
        ("RELAY_METRICS_LISTEN", "127.0.0.1:0"),
    ];
    let program = Path::new(env!("CARGO_BIN_EXE_relay-recorder"));
    Process::spawn_path(program, &settings, &[])
}

/// A recorder that may be killed, and deliveries that it holds for a paused endpoint.
struct World {
    relay: Relay,
    /// The wire between the first recorder and the broker.
    wire: Proxy,
    first: Process,
    endpoint: Endpoint,
    ids: Vec<String>,
}

impl World {
    async fn start(folder: &TempDir) -> Self {
        let url = shared_broker().await;
        let wire = Proxy::start(url).await;
        let config = impatient(url, folder);
        let first = process(&config, &wire.url());
        let relay = Relay::without_recorder(config, url).await;
        let (endpoint, ids) = paused(&relay, HELD).await;
        until_held(&relay, HELD as u64).await;
        Self {
            relay,
            wire,
            first,
            endpoint,
            ids,
        }
    }

    async fn resume(&self) {
        change(&self.relay, &self.endpoint, EndpointState::Active).await;
    }

    async fn deliverer(&self) -> Deliverer {
        Deliverer::start(self.relay.session().await).await
    }

    async fn until_claimed(&self) {
        wait_until("a delivery to be claimed", || async {
            let now = self.relay.store.waiting_by_endpoint().await.unwrap();
            now.endpoints.iter().any(|held| held.claimed > 0)
        })
        .await;
    }

    /// Waits until so many messages are in a queue that nobody has taken.
    async fn until_ready(&self, queue: Queue, count: u32) {
        let session = self.relay.session().await;
        wait_until(format!("{count} messages in {queue}"), || async {
            let depth = session.depth(queue).await.unwrap().unwrap();
            if depth.ready == count {
                Ok(())
            } else {
                Err(depth.ready)
            }
        })
        .await;
    }

    /// The first recorder is killed, and another one takes over: each delivery is delivered, and none stays held.
    async fn kill_and_find_all_delivered(mut self, deliverer: Deliverer) {
        self.first.kill_9();
        drop(self.wire);
        self.relay.record();
        find_all_delivered(&self.relay, deliverer, &self.ids).await;
        self.relay.stop_and_find_the_queues_empty().await;
    }
}

/// Delivers whatever is sent on until each of these events was delivered, and finds that the log knows it.
async fn find_all_delivered(relay: &Relay, mut deliverer: Deliverer, ids: &[String]) {
    let delivering = tokio::spawn(async move {
        loop {
            deliverer.settle(Settlement::Delivered).await;
        }
    });
    wait_until("the log to have all deliveries as delivered", || async {
        let count = delivered_in_log(relay).await;
        if count == ids.len() { Ok(()) } else { Err(count) }
    })
    .await;
    until_held(relay, 0).await;
    delivering.abort();
}

async fn delivered_in_log(relay: &Relay) -> usize {
    let mut count = 0;
    for event in relay.events().await {
        let deliveries = relay.store.deliveries_of(event.sequence).await.unwrap();
        let states = deliveries.iter().map(|delivery| delivery.standing.state);
        count += states.filter(|state| *state == DeliveryState::Delivered).count();
    }
    count
}

#[tokio::test]
async fn a_recorder_is_killed_after_a_claim_and_before_its_publish() {
    let folder = folder();
    let world = World::start(&folder).await;
    world.wire.freeze(true);
    world.resume().await;
    world.until_claimed().await;
    world.until_ready(Queue::Dispatch, 0).await;
    let deliverer = world.deliverer().await;
    world.kill_and_find_all_delivered(deliverer).await;
}

#[tokio::test]
async fn a_recorder_is_killed_after_a_publish() {
    let folder = folder();
    let world = World::start(&folder).await;
    world.resume().await;
    world.until_ready(Queue::Dispatch, 1).await;
    world.first.kill_9();
    let deliverer = world.deliverer().await;
    world.kill_and_find_all_delivered(deliverer).await;
}

/// The record of a delivery, or of another hold, comes to a recorder that cannot write it.
async fn killed_before_the_record_is_written(settlement: Settlement) {
    let folder = folder();
    let world = World::start(&folder).await;
    world.resume().await;
    world.until_ready(Queue::Dispatch, 1).await;
    let other = lock(&world.relay.config.store).await;
    let mut deliverer = world.deliverer().await;
    assert_eq!(deliverer.settle(settlement).await.len(), 1);
    world.first.wait_for_output(CANNOT_WRITE).await;
    world.first.kill_9();
    other.close().await.unwrap();
    until_held(&world.relay, HELD as u64).await;
    world.kill_and_find_all_delivered(deliverer).await;
}

#[tokio::test]
async fn a_recorder_is_killed_before_it_writes_that_something_was_delivered() {
    killed_before_the_record_is_written(Settlement::Delivered).await;
}

#[tokio::test]
async fn a_recorder_is_killed_before_it_writes_that_something_is_held_again() {
    killed_before_the_record_is_written(Settlement::Held(HoldReason::Rate)).await;
}

#[tokio::test]
async fn a_recorder_is_killed_after_it_writes_a_record_and_before_it_acks_it() {
    let folder = folder();
    let world = World::start(&folder).await;
    world.resume().await;
    world.until_ready(Queue::Dispatch, 1).await;
    let mut other = lock(&world.relay.config.store).await;
    let mut deliverer = world.deliverer().await;
    assert_eq!(deliverer.settle(Settlement::Delivered).await.len(), 1);
    world.first.wait_for_output(CANNOT_WRITE).await;
    world.wire.freeze(true);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    until_held(&world.relay, HELD as u64 - 1).await;
    world.kill_and_find_all_delivered(deliverer).await;
}

/// Its claims do not wait until they are silent.
#[tokio::test]
async fn what_was_claimed_is_published_in_the_next_session_if_it_was_not_in_the_last() {
    let folder = folder();
    let world = World::start(&folder).await;
    world.wire.freeze(true);
    world.resume().await;
    world.until_claimed().await;
    world.until_ready(Queue::Dispatch, 0).await;
    world.wire.cut();
    world.wire.freeze(false);
    let deliverer = world.deliverer().await;
    find_all_delivered(&world.relay, deliverer, &world.ids).await;
}

/// The epochs of the claims that have not ended, and the number of all claims of what is held.
async fn claims(relay: &Relay) -> (Vec<i64>, i64) {
    let path = format!("sqlite:{}", relay.config.store.path().unwrap().display());
    let mut store = SqliteConnection::connect(&path).await.unwrap();
    let epochs = "SELECT epoch FROM held WHERE claimed_at IS NOT NULL";
    let epochs = sqlx::query_scalar(epochs).fetch_all(&mut store).await.unwrap();
    let hops = sqlx::query_scalar("SELECT SUM(hop) FROM held");
    let hops = hops.fetch_one(&mut store).await.unwrap();
    (epochs, hops)
}

#[tokio::test]
async fn a_recorder_that_was_frozen_claims_nothing_once_another_took_over() {
    let (folder, url) = (folder(), shared_broker().await);
    let config = impatient(url, &folder);
    let separator = if url.contains('?') { '&' } else { '?' };
    let frozen = process(&config, &format!("{url}{separator}heartbeat=60"));
    let mut relay = Relay::without_recorder(config, url).await;
    let (endpoint, ids) = paused(&relay, HELD).await;
    until_held(&relay, HELD as u64).await;
    change(&relay, &endpoint, EndpointState::Active).await;
    wait_until("the first claim", || async {
        claims(&relay).await == (vec![1], 1)
    })
    .await;
    frozen.signal("STOP");

    // Its message is lost, so nothing is heard of the claim: the next recorder holds the delivery again, and claims it.
    Deliverer::start(relay.session().await).await.lose().await;
    relay.record();
    wait_until("the other's claim", || async {
        claims(&relay).await == (vec![2], 2)
    })
    .await;
    frozen.signal("CONT");
    let over = "another process sends held deliveries on";
    frozen.wait_for_output(over).await;
    assert_eq!(claims(&relay).await, (vec![2], 2));
    assert_eq!(relay.metric("relay_dispatched_total"), 1.0);

    let deliverer = Deliverer::start(relay.session().await).await;
    find_all_delivered(&relay, deliverer, &ids).await;
    assert_eq!(relay.metric("relay_dispatched_total"), ids.len() as f64);
    frozen.kill_9();
    relay.stop_and_find_the_queues_empty().await;
}

#[tokio::test]
async fn of_two_recorders_one_sends_on_and_the_other_once_that_one_stops() {
    let (folder, url) = (folder(), shared_broker().await);
    let config = impatient(url, &folder);
    let mut first = Relay::without_recorder(config.clone(), url).await;
    let mut second = Relay::without_recorder(config, url).await;
    for relay in [&mut first, &mut second] {
        relay.record();
        relay.until_ready().await;
    }
    let (endpoint, ids) = paused(&first, HELD).await;
    until_held(&first, HELD as u64).await;
    change(&first, &endpoint, EndpointState::Active).await;
    let mut deliverer = Deliverer::start(first.session().await).await;
    assert_eq!(deliverer.deliver(HELD).await, ids);
    until_held(&first, 0).await;
    let sent = |relay: &Relay| relay.metric("relay_dispatched_total");
    let mut both = [sent(&first), sent(&second)];
    let (mut dispatcher, other) = if both[0] > 0.0 {
        (first, second)
    } else {
        (second, first)
    };
    both.sort_by(f64::total_cmp);
    assert_eq!(both, [0.0, HELD as f64]);

    dispatcher.stop().await;
    let (endpoint, ids) = paused(&other, HELD).await;
    until_held(&other, HELD as u64).await;
    change(&other, &endpoint, EndpointState::Active).await;
    assert_eq!(deliverer.deliver(HELD).await, ids);
    until_held(&other, 0).await;
    assert_eq!(sent(&dispatcher), HELD as f64);
    other.stop_and_find_the_queues_empty().await;
}
