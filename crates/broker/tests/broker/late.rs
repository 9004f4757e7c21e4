//! Messages that a producer or a crash changed on their way to deliverers and to the log.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable},
};
use relay_broker::{Arrival, DeadLetters, Queue};
use relay_event::{DeadReason, History, Hold, HoldReason, Timestamp};

use crate::relay::{MAX_BYTES, Relay, event, event_of};

fn structured() -> BasicProperties {
    BasicProperties::default().with_content_type("application/cloudevents+json".into())
}

fn hold() -> Hold {
    let event = event();
    Hold {
        endpoint: relay_event::EndpointId::generate(),
        event_id: event.id().clone(),
        event_source: event.source().to_owned(),
        event_type: event.event_type().clone(),
        published_at: None,
        hop: 0,
        history: History::default(),
        reason: HoldReason::Paused,
        at: Timestamp::now(),
        event: None,
    }
}

#[tokio::test]
async fn a_poison_event_goes_to_the_twin_and_then_to_the_dead_letter_queue_which_sends_it_to_all() {
    let relay = Relay::start().await;
    relay.publish(&event()).await;
    relay.return_too_often(Queue::Work, Queue::WorkLate).await;
    let (mut taken, consumer) = relay.take(Queue::WorkLate).await;
    let received = taken.read(&relay.session, MAX_BYTES);
    assert_eq!(received.arrival, Arrival::Returned);
    assert_eq!(received.event.unwrap(), event());
    taken.give_back().await;
    consumer.stop().await;
    relay.return_too_often(Queue::WorkLate, Queue::Dead).await;
    assert_eq!(relay.received(Queue::Archive).await.event.unwrap(), event());

    let mut letters = DeadLetters::open(&relay.session).await.unwrap();
    let message = letters.next().await.unwrap().unwrap();
    assert_eq!(message.letter.reason, DeadReason::DeliveryLimit);
    assert_eq!(message.letter.endpoint, None);
    let sent = letters.redeliver(
        None,
        message.event.as_ref().unwrap(),
        message.run,
        &message.letter,
    );
    sent.await.unwrap();
    message.remove().await.unwrap();
    for queue in [Queue::Work, Queue::Archive] {
        let received = relay.received(queue).await;
        assert_eq!(received.arrival, Arrival::Published);
        assert_eq!(received.event.unwrap(), event());
    }
}

#[tokio::test]
async fn an_event_that_expires_is_in_both_twins() {
    let relay = Relay::start().await;
    let expiring = structured().with_expiration("1".into());
    relay.publish_raw(expiring, event().body()).await;
    for queue in [Queue::WorkLate, Queue::ArchiveLate] {
        let received = relay.received(queue).await;
        assert_eq!(received.arrival, Arrival::Expired);
        assert_eq!(received.event.unwrap(), event());
    }
    assert_eq!(relay.ready(Queue::Work).await, 0);
    assert_eq!(relay.ready(Queue::Archive).await, 0);
}

#[tokio::test]
async fn what_expired_is_taken_at_once_and_what_was_returned_alone() {
    let relay = Relay::start().await;
    let expire = async |count: u32, ready: u32| {
        for _ in 0..count {
            let expiring = structured().with_expiration("0".into());
            relay.publish_raw(expiring, event().body()).await;
        }
        relay.wait_for(Queue::WorkLate, ready).await;
    };
    expire(3, 3).await;
    relay.publish(&event()).await;
    let mut consumer = relay.consume(Queue::Work).await;
    let returning = async {
        while let Some(taken) = consumer.next().await {
            drop(taken);
        }
    };
    tokio::select! {
        () = returning => panic!("the consumer ended"),
        () = relay.wait_for(Queue::WorkLate, 4) => {}
    }
    consumer.stop().await;
    expire(2, 6).await;

    let mut consumer = relay.consume(Queue::WorkLate).await;
    let mut arrivals = Vec::new();
    let mut unsettled = Vec::new();
    for _ in 0..3 {
        unsettled.push(consumer.next().await.unwrap());
    }
    unsettled.push(consumer.next().await.unwrap());
    relay.wait_for(Queue::WorkLate, 2).await;
    for mut taken in unsettled.drain(..) {
        arrivals.push(taken.read(&relay.session, MAX_BYTES).arrival);
        taken.ack();
    }
    for _ in 0..2 {
        unsettled.push(consumer.next().await.unwrap());
    }
    for mut taken in unsettled {
        arrivals.push(taken.read(&relay.session, MAX_BYTES).arrival);
        taken.ack();
    }
    use Arrival::{Expired, Returned};
    assert_eq!(arrivals, [Expired, Expired, Expired, Returned, Expired, Expired]);
    consumer.stop().await;
    assert_eq!(relay.ready(Queue::WorkLate).await, 0);
}

/// The broker has all of it, and this process only the beginning.
#[tokio::test]
async fn an_event_that_is_too_large_is_whole_in_the_dead_letter_queue() {
    let relay = Relay::with_largest(10_000).await;
    let large = event_of(12_000);
    relay.publish_raw(structured(), large.body()).await;
    for (queue, twin) in [
        (Queue::Work, Queue::WorkLate),
        (Queue::Archive, Queue::ArchiveLate),
    ] {
        for queue in [queue, twin] {
            let (mut taken, consumer) = relay.take(queue).await;
            let received = taken.read(&relay.session, 10_000);
            let refused = received.event.unwrap_err();
            let aside = taken.set_aside(&relay.session, &refused, DeadReason::InvalidEvent);
            aside.await.unwrap();
            consumer.stop().await;
        }
    }
    relay.wait_for(Queue::Dead, 2).await;
    let mut letters = DeadLetters::open(&relay.session).await.unwrap();
    for _ in 0..2 {
        let message = letters.next().await.unwrap().unwrap();
        assert_eq!(message.letter.reason, DeadReason::InvalidEvent);
        assert_eq!(message.body(), large.body());
    }
}

#[tokio::test]
async fn an_event_that_is_too_large_for_a_later_limit_keeps_its_endpoint_on_its_way_by_the_holds() {
    const LARGEST: usize = 3 * 1024 * 1024;
    let relay = Relay::with_largest(LARGEST).await;
    let [endpoint] = crate::relay::endpoints();
    let large = event_of(LARGEST - 200);
    let published = relay.put_off(&endpoint, &large, LARGEST).await;
    let relay = relay.with_limit(10_000).await;
    let (mut taken, _consumer) = relay.take(Queue::Again).await;
    let received = taken.read(&relay.session, 10_000);
    let refused = received.event.unwrap_err();
    let aside = taken.set_aside(&relay.session, &refused, DeadReason::InvalidEvent);
    aside.await.unwrap();
    let (mut taken, _consumer) = relay.take(Queue::Holds).await;
    let [refused] = taken.holds(&relay.session).refused.try_into().unwrap();
    let aside = taken.set_aside(&relay.session, &refused, DeadReason::InvalidEvent);
    aside.await.unwrap();
    relay.wait_for(Queue::Dead, 1).await;
    let relay = relay.with_limit(LARGEST).await;
    let mut letters = DeadLetters::open(&relay.session).await.unwrap();
    let message = letters.next().await.unwrap().unwrap();
    assert_eq!(message.letter.endpoint, Some(endpoint));
    assert_eq!(message.run, published.history.run.or(published.published_at));
    assert_eq!(message.event.as_ref().unwrap(), &large);
}

#[tokio::test]
async fn a_record_of_a_hold_that_is_too_large_is_whole_in_the_dead_letter_queue() {
    let relay = Relay::start().await;
    let mut hold = hold();
    hold.history.last_error = Some("x".repeat(3 * 1024 * 1024));
    relay.session.hold(hold.clone()).await.unwrap();
    let (mut taken, _consumer) = relay.take(Queue::Holds).await;
    let [refused] = taken.holds(&relay.session).refused.try_into().unwrap();
    let aside = taken.set_aside(&relay.session, &refused, DeadReason::InvalidRecord);
    aside.await.unwrap();
    relay.wait_for(Queue::Dead, 1).await;
    let relay = relay.with_limit(4 * 1024 * 1024).await;
    let mut letters = DeadLetters::open(&relay.session).await.unwrap();
    let message = letters.next().await.unwrap().unwrap();
    assert_eq!(message.letter.reason, DeadReason::InvalidRecord);
    let record: Hold = serde_json::from_slice(message.body()).unwrap();
    assert_eq!(record, hold);
}

#[tokio::test]
async fn an_event_that_claims_to_have_been_moved_goes_to_nobody_else_until_it_is_published_again() {
    let relay = Relay::start().await;
    let mut headers = FieldTable::default();
    headers.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::default()));
    let forged = structured().with_headers(headers);
    relay.publish_raw(forged, event().body()).await;
    let (mut taken, _consumer) = relay.take(Queue::Suspects).await;
    let received = taken.read(&relay.session, MAX_BYTES);
    assert_eq!(received.arrival, Arrival::Suspect);
    assert_eq!(relay.ready(Queue::Work).await, 0);
    assert_eq!(relay.ready(Queue::Archive).await, 0);
    let event = received.event.unwrap();
    let again = relay.session.publish_again(&event, received.published_at);
    again.await.unwrap();
    taken.ack();
    for queue in [Queue::Work, Queue::Archive] {
        assert_eq!(relay.received(queue).await.arrival, Arrival::Published);
    }
}
