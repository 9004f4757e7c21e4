//! A message that is settled part by part.

use relay_broker::{Arrival, Queue, Settlement};
use relay_event::{Attempt, AttemptId, DeadReason, DeliveryState, EndpointId, Event, HoldReason, Timestamp};

use crate::relay::{MAX_BYTES, Relay, TYPE, endpoints, event};

fn attempt(event: &Event, endpoint: &EndpointId) -> Box<Attempt> {
    Box::new(Attempt {
        id: AttemptId::generate(),
        event_id: event.id().clone(),
        event_source: event.source().to_owned(),
        event_type: event.event_type().clone(),
        published_at: None,
        endpoint: endpoint.clone(),
        hop: 0,
        attempt: 1,
        at: Timestamp::now(),
        duration_ms: 1,
        first_byte_ms: None,
        status: Some(200),
        error: None,
        detail: None,
        answer: String::new(),
        state: DeliveryState::Delivered,
        next_at: None,
        reason: None,
        deliverer: "test".to_owned(),
    })
}

#[tokio::test]
async fn an_event_is_acked_once_each_of_its_parts_is_safe() {
    let mut relay = Relay::start().await;
    relay.publish(&event()).await;
    let archived = relay.received(Queue::Archive).await;
    assert_eq!(archived.arrival, Arrival::Published);
    assert_eq!(archived.event.unwrap(), event());

    let (mut taken, consumer) = relay.take(Queue::Work).await;
    let message = taken.read(&relay.session, MAX_BYTES);
    assert_eq!(message.arrival, Arrival::Published);
    assert!(message.published_at.is_some() && message.endpoint.is_none());
    let [delivered, waits, held, dead] = endpoints();
    let retry = Settlement::Retry("1s".parse().unwrap());
    let mut parts = taken.divide(4).into_iter();
    for (endpoint, settlement, attempt) in [
        (
            &delivered,
            Settlement::Delivered,
            Some(attempt(&event(), &delivered)),
        ),
        (&waits, retry, None),
        (&held, Settlement::Held(HoldReason::Paused), None),
    ] {
        let part = parts.next().unwrap();
        let settled = part.settle(
            &relay.session,
            endpoint,
            &message,
            &message.history,
            settlement,
            attempt,
        );
        settled.await.unwrap();
    }
    // The session ends before the last one: all of it comes again.
    relay.again().await;
    drop((parts, consumer));
    let (mut taken, consumer) = relay.take(Queue::Work).await;
    let message = taken.read(&relay.session, MAX_BYTES);
    let [part] = taken.divide(1).try_into().ok().unwrap();
    let settlement = Settlement::Dead(DeadReason::EndpointGone);
    let settled = part.settle(
        &relay.session,
        &dead,
        &message,
        &message.history,
        settlement,
        None,
    );
    settled.await.unwrap();
    consumer.stop().await;
    relay.again().await;
    assert_eq!(relay.ready(Queue::Work).await, 0);

    let again = relay.received(Queue::Again).await;
    assert_eq!(again.arrival, Arrival::Again);
    assert_eq!(again.endpoint, Some(waits));
    assert_eq!(again.published_at, message.published_at);
    assert_eq!(again.event.unwrap(), event());
    let (mut taken, _consumer) = relay.take(Queue::Holds).await;
    let [hold] = taken.holds(&relay.session).holds.try_into().unwrap();
    assert_eq!((hold.endpoint, hold.reason), (held, HoldReason::Paused));
    assert_eq!(
        (hold.event_type.as_str(), hold.event, hold.published_at),
        (TYPE, None, message.published_at)
    );
    taken.ack();
    let (taken, mut consumer) = relay.take(Queue::Records).await;
    let records = taken.records(&relay.session);
    assert_eq!(records.attempts[0].endpoint, delivered);
    taken.ack();
    let taken = consumer.next().await.unwrap();
    assert_eq!(taken.records(&relay.session).death.unwrap().endpoint, dead);
    taken.ack();
    assert_eq!(relay.ready(Queue::Dead).await, 1);
}

#[tokio::test]
async fn a_match_without_the_store_for_very_many_endpoints_is_read_back_whole() {
    let relay = Relay::start().await;
    relay.publish(&event()).await;
    let (mut taken, _work) = relay.take(Queue::Work).await;
    let message = taken.read(&relay.session, MAX_BYTES);
    let [part] = taken.divide(1).try_into().ok().unwrap();
    let mut known: Vec<_> = (0..60_000).map(|_| EndpointId::generate()).collect();
    let recording = part.match_blindly(&relay.session, &message, known.clone());
    recording.await.unwrap();
    let (mut consumer, mut read) = (relay.consume(Queue::BlindMatches).await, Vec::new());
    while read.len() < known.len() {
        let taken = consumer.next().await.unwrap();
        read.extend(taken.blind_match().unwrap().endpoints);
        taken.ack();
    }
    known.sort_unstable();
    assert_eq!(read, known);
}

#[tokio::test]
async fn a_match_without_the_store_is_recorded_before_the_event_is_acked() {
    let mut relay = Relay::start().await;
    relay.publish(&event()).await;
    let (mut taken, consumer) = relay.take(Queue::Work).await;
    let message = taken.read(&relay.session, MAX_BYTES);
    let [part] = taken.divide(1).try_into().ok().unwrap();
    let known = endpoints::<2>().to_vec();
    part.match_blindly(&relay.session, &message, known.clone())
        .await
        .unwrap();
    consumer.stop().await;
    relay.again().await;
    assert_eq!(relay.ready(Queue::Work).await, 0);
    let (taken, _consumer) = relay.take(Queue::BlindMatches).await;
    let matched = taken.blind_match().unwrap();
    assert_eq!(matched.endpoints, known);
    let named = (matched.event_id, matched.event_source, matched.event_type);
    let event = event();
    let expected = (
        event.id().clone(),
        event.source().to_owned(),
        event.event_type().clone(),
    );
    assert_eq!(named, expected);
    assert_eq!(
        (matched.published_at, matched.event),
        (message.published_at, None)
    );
    taken.ack();
}

#[tokio::test]
async fn an_event_that_nobody_wants_is_acked_at_once() {
    let mut relay = Relay::start().await;
    relay.publish(&event()).await;
    let (taken, consumer) = relay.take(Queue::Work).await;
    assert!(taken.divide(0).is_empty());
    consumer.stop().await;
    relay.again().await;
    assert_eq!(relay.ready(Queue::Work).await, 0);
}

#[tokio::test]
async fn an_event_comes_again_if_one_of_its_parts_is_dropped_or_given_back_or_panics() {
    let relay = Relay::start().await;
    relay.publish(&event()).await;
    let mut consumer = relay.consume(Queue::Work).await;
    for round in 0..3 {
        let mut taken = consumer.next().await.unwrap();
        let message = taken.read(&relay.session, MAX_BYTES);
        assert!(message.event.is_ok(), "it is whole");
        let [first, second, third] = taken.divide(3).try_into().ok().unwrap();
        match round {
            0 => drop(second),
            1 => second.give_back(),
            _ => {
                let panicking = tokio::spawn(async move {
                    let _part = second;
                    panic!("as a task of a delivery might");
                });
                assert!(panicking.await.unwrap_err().is_panic());
            }
        }
        // Not while others are under way: they would be attempted twice at once.
        assert_eq!(relay.ready(Queue::Work).await, 0);
        for part in [first, third] {
            let [endpoint] = endpoints();
            let delivered = part.settle(
                &relay.session,
                &endpoint,
                &message,
                &message.history,
                Settlement::Delivered,
                None,
            );
            delivered.await.unwrap();
        }
    }
    consumer.next().await.unwrap().ack();
    consumer.stop().await;
    assert_eq!(relay.ready(Queue::Work).await, 0);
}
