//! Held deliveries are sent on, in the order of the log, once their endpoint may have them.

use std::time::Duration;

use relay_broker::{Queue, Received, Session, Settlement, Subscription};
use relay_event::{
    Attempt, AttemptId, DeadReason, DeliveryState, Endpoint, EndpointState, Event, History, HoldReason,
    Timestamp,
};
use relay_store::{ClaimFrom, ClaimRequest, Only};
use relay_testkit::{shared_broker, wait_until};
use sqlx::{Connection, SqliteConnection};

use crate::relay::{Relay, config, event, folder};

/// Takes events as a deliverer does, and holds them for the endpoint.
async fn hold(session: &Session, endpoint: &Endpoint, count: usize) {
    let mut subscription = session.consume(Queue::Work, 10).await.unwrap();
    for _ in 0..count {
        let mut taken = subscription.next().await.unwrap();
        let received = taken.read(session, 1_000);
        let part = taken.divide(1).remove(0);
        let held = Settlement::Held(HoldReason::Paused);
        part.settle(session, &endpoint.id, &received, &received.history, held, None)
            .await
            .unwrap();
    }
    subscription.stop().await;
}

/// A deliverer of what is sent on.
pub(crate) struct Deliverer {
    session: Session,
    subscription: Subscription,
}

impl Deliverer {
    pub(crate) async fn start(session: Session) -> Self {
        let subscription = session.consume(Queue::Dispatch, 10).await.unwrap();
        Self {
            session,
            subscription,
        }
    }

    /// Settles all deliveries of the next message, and returns their events' ids.
    pub(crate) async fn settle(&mut self, settlement: Settlement) -> Vec<String> {
        let mut taken = self.subscription.next().await.unwrap();
        let batch = taken.read_batch(&self.session).unwrap();
        let parts = taken.divide(batch.len());
        let mut ids = Vec::new();
        for (received, part) in batch.iter().zip(parts) {
            let event = received.event.as_ref().unwrap();
            let endpoint = received.endpoint.clone().unwrap();
            let (history, attempt) = attempt(received, event, settlement);
            part.settle(&self.session, &endpoint, received, &history, settlement, attempt)
                .await
                .unwrap();
            ids.push(event.id().to_string());
        }
        ids
    }

    /// Takes the next message away, as by a purge of the queue, and no more.
    pub(crate) async fn lose(mut self) {
        self.subscription.next().await.unwrap().ack();
        self.subscription.stop().await;
    }

    pub(crate) async fn deliver(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.extend(self.settle(Settlement::Delivered).await);
        }
        ids
    }
}

fn attempt(received: &Received, event: &Event, settlement: Settlement) -> (History, Option<Box<Attempt>>) {
    if settlement != Settlement::Delivered {
        return (received.history.clone(), None);
    }
    let history = History {
        attempts: received.history.attempts + 1,
        ..received.history.clone()
    };
    let attempt = Attempt {
        id: AttemptId::generate(),
        event_id: event.id().clone(),
        event_source: event.source().to_owned(),
        event_type: event.event_type().clone(),
        published_at: history.run,
        endpoint: received.endpoint.clone().unwrap(),
        attempt: history.attempts,
        hop: received.hop,
        at: Timestamp::now(),
        duration_ms: 5,
        first_byte_ms: None,
        status: Some(204),
        error: None,
        detail: None,
        answer: String::new(),
        state: DeliveryState::Delivered,
        next_at: None,
        reason: None,
        deliverer: "test".to_owned(),
    };
    (history, Some(Box::new(attempt)))
}

pub(crate) async fn until_held(relay: &Relay, count: u64) {
    wait_until(format!("{count} deliveries to be held"), || async {
        let now = relay.store.waiting_by_endpoint().await.unwrap();
        let held: u64 = now.endpoints.iter().map(relay_store::HeldFor::all).sum();
        if (held, now.without_event) == (count, 0) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
}

pub(crate) async fn change(relay: &Relay, endpoint: &Endpoint, state: EndpointState) {
    let change = |endpoint: &mut Endpoint| {
        endpoint.state = state.clone();
        Ok(())
    };
    relay.store.update(&endpoint.id, change).await.unwrap().unwrap();
    let session = relay.session().await;
    session.announce_change(&endpoint.id).await.unwrap();
}

/// An endpoint that is paused, and events that are held for it.
pub(crate) async fn paused(relay: &Relay, count: usize) -> (Endpoint, Vec<String>) {
    let endpoint = relay.add_endpoint("#").await;
    change(relay, &endpoint, EndpointState::Paused).await;
    let mut ids = Vec::new();
    for _ in 0..count {
        let event = event("a");
        relay.publish(&event).await;
        ids.push(event.id().to_string());
    }
    hold(&relay.session().await, &endpoint, count).await;
    (endpoint, ids)
}

#[tokio::test]
async fn a_paused_endpoint_that_is_resumed_gets_all_in_order() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (endpoint, ids) = paused(&relay, 30).await;
    until_held(&relay, 30).await;
    let mut deliverer = Deliverer::start(relay.session().await).await;
    change(&relay, &endpoint, EndpointState::Active).await;
    assert_eq!(deliverer.deliver(30).await, ids);
    until_held(&relay, 0).await;
    assert_eq!(relay.metric("relay_dispatched_total"), 30.0);
    relay.stop_and_find_the_queues_empty().await;
}

#[tokio::test]
async fn replays_have_one_turn_in_four_beside_live_deliveries() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (endpoint, live) = paused(&relay, 12).await;
    let events: Vec<Event> = (0..6).map(|_| event("b")).collect();
    let mut work = relay.session().await.consume(Queue::Work, 10).await.unwrap();
    for event in &events {
        relay.publish(event).await;
        work.next().await.unwrap().ack();
    }
    work.stop().await;
    let replays: Vec<String> = events.iter().map(|event| event.id().to_string()).collect();
    let logged = relay.logged(18).await.into_iter();
    let places: Vec<_> = logged
        .filter(|logged| replays.iter().any(|id| id == logged.id.as_str()))
        .map(|logged| (logged.sequence, endpoint.id.clone()))
        .collect();
    let now = Timestamp::now();
    relay
        .store
        .begin_generation(&places, Only::All, now)
        .await
        .unwrap();
    until_held(&relay, 18).await;

    let mut deliverer = Deliverer::start(relay.session().await).await;
    change(&relay, &endpoint, EndpointState::Active).await;
    let delivered = deliverer.deliver(18).await;
    let (of_live, of_replays): (Vec<_>, Vec<_>) = delivered.iter().cloned().partition(|id| live.contains(id));
    assert_eq!((&of_live, &of_replays), (&live, &replays));
    let first = delivered.iter().position(|id| replays.contains(id)).unwrap();
    // One, two and four live deliveries at most are in the turns before.
    assert!((3..=7).contains(&first), "{delivered:?}");
    until_held(&relay, 0).await;
    relay.stop_and_find_the_queues_empty().await;
}

#[tokio::test]
async fn a_hold_before_its_event_waits_for_it() {
    let (folder, url) = (folder(), shared_broker().await);
    let mut relay = Relay::without_recorder(config(url, &folder), url).await;
    let (endpoint, ids) = paused(&relay, 3).await;
    change(&relay, &endpoint, EndpointState::Active).await;
    let mut deliverer = Deliverer::start(relay.session().await).await;
    relay.record();
    let mut delivered = deliverer.deliver(3).await;
    delivered.sort();
    let mut expected = ids;
    expected.sort();
    assert_eq!(delivered, expected);
    until_held(&relay, 0).await;
    relay.stop_and_find_the_queues_empty().await;
}

/// The deliverer knew one endpoint of three, and the store did not tell it of the others.
#[tokio::test]
async fn what_was_matched_without_the_store_goes_to_those_whom_the_match_missed() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let known = relay.add_endpoint("a").await;
    let missed = relay.add_endpoint("a").await;
    relay.add_endpoint("b").await;
    let event = event("a");
    relay.publish(&event).await;
    let session = relay.session().await;
    let mut subscription = session.consume(Queue::Work, 10).await.unwrap();
    let mut taken = subscription.next().await.unwrap();
    let received = taken.read(&session, 1_000);
    let part = taken.divide(1).remove(0);
    part.match_blindly(&session, &received, vec![known.id])
        .await
        .unwrap();
    subscription.stop().await;

    let mut deliverer = Deliverer::start(session).await;
    let mut taken = deliverer.subscription.next().await.unwrap();
    let [sent] = taken.read_batch(&deliverer.session).unwrap().try_into().unwrap();
    assert_eq!((sent.event.unwrap(), sent.endpoint), (event, Some(missed.id)));
    taken.give_back().await;
    deliverer.deliver(1).await;
    until_held(&relay, 0).await;
    relay.stop_and_find_the_queues_empty().await;
}

/// Gives an endpoint's row this document, as if another version of the relay had written it.
async fn overwrite(relay: &Relay, endpoint: &Endpoint, document: &str) {
    let path = format!("sqlite:{}", relay.config.store.path().unwrap().display());
    let mut store = SqliteConnection::connect(&path).await.unwrap();
    let mut tx = store.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::query("UPDATE fleet SET number = number + 1, change = change || 'x'")
        .execute(&mut *tx)
        .await
        .unwrap();
    let written = "UPDATE endpoints SET document = ?, changed_in = (SELECT number FROM fleet) WHERE id = ?";
    sqlx::query(written)
        .bind(document)
        .bind(endpoint.id.as_str())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_match_without_the_store_waits_for_endpoints_that_do_not_read_and_delays_no_hold() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let known = relay.add_endpoint("a").await;
    change(&relay, &known, EndpointState::Paused).await;
    let missed = relay.add_endpoint("a").await;
    change(&relay, &missed, EndpointState::Paused).await;
    let document = serde_json::to_string(&relay.store.endpoint(&missed.id).await.unwrap()).unwrap();
    overwrite(&relay, &missed, "{}").await;
    relay.publish(&event("a")).await;
    let session = relay.session().await;
    let mut subscription = session.consume(Queue::Work, 10).await.unwrap();
    let mut taken = subscription.next().await.unwrap();
    let received = taken.read(&session, 1_000);
    let part = taken.divide(1).remove(0);
    let recorded = part.match_blindly(&session, &received, vec![known.id.clone()]);
    recorded.await.unwrap();
    subscription.stop().await;
    relay.publish(&event("a")).await;
    hold(&session, &known, 1).await;
    until_held(&relay, 1).await;
    overwrite(&relay, &missed, &document).await;
    until_held(&relay, 2).await;
    relay.stop_and_find_the_queues_empty().await;
}

#[tokio::test]
async fn what_is_held_for_a_removed_endpoint_is_sent_on_to_die() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (endpoint, _) = paused(&relay, 5).await;
    until_held(&relay, 5).await;
    relay.store.delete(&endpoint.id, Timestamp::now()).await.unwrap();
    let session = relay.session().await;
    session.announce_change(&endpoint.id).await.unwrap();
    let mut deliverer = Deliverer::start(session).await;
    let dead = Settlement::Dead(DeadReason::EndpointRemoved);
    assert_eq!(deliverer.settle(dead).await.len(), 5);
    let letters = relay.dead(5).await;
    let reason = |letter: &relay_event::DeadLetter| letter.reason == DeadReason::EndpointRemoved;
    assert!(letters.iter().all(reason), "{letters:?}");
    until_held(&relay, 0).await;
    relay.stop_and_find_the_queues_empty().await;
}

/// More of them than are removed before held deliveries have their turn again, and one that stays.
#[tokio::test]
async fn endpoints_whose_time_is_over_are_removed_and_that_is_announced() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let stays = relay.add_endpoint("a").await;
    let session = relay.session().await;
    let mut changes = session.changes().await;
    let mut expired = Vec::new();
    for _ in 0..40 {
        let endpoint = relay.add_endpoint("a").await;
        let change = |endpoint: &mut Endpoint| {
            endpoint.expires_at = Some(Timestamp::now());
            Ok(())
        };
        relay.store.update(&endpoint.id, change).await.unwrap().unwrap();
        expired.push(endpoint.id);
    }
    session.announce_change(&expired[0]).await.unwrap();
    loop {
        changes.next().await;
        let left = relay.store.endpoints().await.unwrap();
        if left == std::slice::from_ref(&stays) {
            break;
        }
    }
    relay.stop_and_find_the_queues_empty().await;
}

/// It ends every deliverer that takes it: 20 times in whatever message it came, and 20 times alone.
#[tokio::test]
async fn a_delivery_that_ends_its_deliverers_is_dead_alone() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (endpoint, ids) = paused(&relay, 5).await;
    until_held(&relay, 5).await;
    let mut deliverer = Deliverer::start(relay.session().await).await;
    change(&relay, &endpoint, EndpointState::Active).await;
    let (mut returns, mut delivered) = (0, Vec::new());
    while returns < 42 || delivered.len() < 4 {
        let mut taken = deliverer.subscription.next().await.unwrap();
        let batch = taken.read_batch(&deliverer.session).unwrap();
        let sent: Vec<&str> = batch
            .iter()
            .map(|received| received.event.as_ref().unwrap().id().as_str())
            .collect();
        if sent.contains(&ids[0].as_str()) {
            returns += 1;
            assert_eq!(
                sent.len(),
                1,
                "the first is sent alone, and later because it was returned"
            );
            drop(taken); // As a deliverer that ends does.
            continue;
        }
        delivered.extend(sent.iter().map(|id| (*id).to_owned()));
        let parts = taken.divide(batch.len());
        for (received, part) in batch.iter().zip(parts) {
            let event = received.event.as_ref().unwrap();
            let (history, attempt) = attempt(received, event, Settlement::Delivered);
            part.settle(
                &deliverer.session,
                &endpoint.id,
                received,
                &history,
                Settlement::Delivered,
                attempt,
            )
            .await
            .unwrap();
        }
    }
    let letters = relay.dead(1).await;
    let letter = &letters[0];
    assert_eq!(
        (letter.reason, letter.endpoint.as_ref(), letter.event_id.as_ref()),
        (DeadReason::DeliveryLimit, Some(&endpoint.id), Some(&ids[0]))
    );
    assert_eq!(delivered, ids[1..]);
    until_held(&relay, 0).await;
    relay.stop_and_find_the_queues_empty().await;
}

/// The process claims, and ends before it publishes: the claim stays, and another epoch sees it.
#[tokio::test]
async fn a_claim_that_was_never_published_is_no_end() {
    let (folder, url) = (folder(), shared_broker().await);
    let mut relay = Relay::without_recorder(config(url, &folder), url).await;
    relay.record();
    relay.until_ready().await;
    let (endpoint, ids) = paused(&relay, 2).await;
    until_held(&relay, 2).await;
    relay.stop().await;
    let lease = Duration::from_secs(3600);
    let epoch = relay.store.take_duty("killed", lease).await.unwrap().unwrap();
    let request = ClaimRequest {
        endpoint: endpoint.id.clone(),
        limit: 1,
        from: ClaimFrom::LiveFirst,
    };
    let claims = relay
        .store
        .claim(epoch, &[request], 1_000)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(claims[0].deliveries[0].event.id().as_str(), ids[0]);
    relay.store.leave_duty(epoch).await.unwrap();
    let next = relay.store.take_duty("next", lease).await.unwrap().unwrap();
    let silent = relay
        .store
        .hold_silent_claims_again(next, (Duration::ZERO, Duration::MAX), 9);
    assert_eq!(silent.await.unwrap().unwrap().deliveries, 1);
    let frozen = relay.store.claim(epoch, &[], 1_000).await.unwrap();
    assert_eq!(frozen, None, "the one that woke up claims nothing");
    until_held(&relay, 2).await;
}
