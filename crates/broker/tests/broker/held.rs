//! Held deliveries, and those that are sent on.

use relay_broker::{Arrival, Dispatched, Queue, Settlement};
use relay_event::{History, Hold, HoldReason, Timestamp};

use crate::relay::{MAX_BYTES, Relay, endpoints, event, event_of};

fn dispatched(hop: u32, bytes: usize) -> Dispatched {
    Dispatched {
        event: event_of(bytes),
        published_at: Timestamp::from_millis(1_000),
        hop,
        history: History {
            attempts: 2,
            run: Timestamp::from_millis(2_000),
            ..History::default()
        },
        alone: false,
    }
}

async fn holds(relay: &Relay) -> Vec<Hold> {
    let (mut taken, consumer) = relay.take(Queue::Holds).await;
    let read = taken.holds(&relay.session);
    assert!(read.refused.is_empty(), "{:?}", read.refused);
    taken.ack();
    consumer.stop().await;
    read.holds
}

#[tokio::test]
async fn what_is_sent_on_comes_in_few_messages_and_is_held_again_with_its_event() {
    let relay = Relay::start().await;
    let [endpoint] = endpoints();
    let mut deliveries: Vec<Dispatched> = (0..40).map(|hop| dispatched(hop, 10)).collect();
    // Each of these goes alone.
    deliveries.extend([dispatched(40, MAX_BYTES - 200), dispatched(41, MAX_BYTES - 200)]);
    let sent = relay.session.dispatch(&endpoint, &deliveries);
    sent.await.unwrap();

    let mut consumer = relay.consume(Queue::Dispatch).await;
    let mut hops = Vec::new();
    for events in [32, 8, 1, 1] {
        let mut taken = consumer.next().await.unwrap();
        let batch = taken.read_batch(&relay.session).unwrap();
        assert_eq!(batch.len(), events);
        for (received, part) in batch.into_iter().zip(taken.divide(events)) {
            assert_eq!(received.arrival, Arrival::Dispatch);
            assert_eq!(received.endpoint.as_ref(), Some(&endpoint));
            let sent = &deliveries[received.hop as usize];
            assert_eq!(received.event.as_ref().unwrap(), &sent.event);
            assert_eq!(received.history, sent.history);
            hops.push(received.hop);
            let settlement = Settlement::Held(HoldReason::Paused);
            let settled = part.settle(
                &relay.session,
                &endpoint,
                &received,
                &received.history,
                settlement,
                None,
            );
            settled.await.unwrap();
        }
    }
    assert_eq!(hops, Vec::from_iter(0..42));
    consumer.stop().await;
    assert_eq!(relay.ready(Queue::Dispatch).await, 0);

    let (mut held, mut consumer) = (Vec::new(), relay.consume(Queue::Holds).await);
    while held.len() < deliveries.len() {
        let mut taken = consumer.next().await.unwrap();
        held.extend(taken.holds(&relay.session).holds);
        taken.ack();
    }
    for (hold, sent) in held.iter().zip(&deliveries) {
        assert_eq!(hold.event().unwrap().as_ref(), Some(&sent.event));
        assert_eq!(
            (hold.hop, &hold.history, hold.published_at),
            (sent.hop, &sent.history, sent.published_at)
        );
    }
}

#[tokio::test]
async fn what_was_returned_too_often_is_held() {
    let relay = Relay::start().await;
    let [endpoint] = endpoints();
    let published = relay.put_off(&endpoint, &event(), MAX_BYTES).await;
    relay.return_too_often(Queue::Again, Queue::Holds).await;
    let [hold] = holds(&relay).await.try_into().unwrap();
    assert_eq!((&hold.endpoint, hold.reason), (&endpoint, HoldReason::Returned));
    assert_eq!(hold.published_at, published.published_at);
    assert_eq!(hold.event().unwrap(), Some(event()));

    let batch = [dispatched(3, 1), dispatched(4, 1)];
    relay.session.dispatch(&endpoint, &batch).await.unwrap();
    relay.return_too_often(Queue::Dispatch, Queue::Holds).await;
    let held = holds(&relay).await;
    assert_eq!(held.iter().map(|hold| hold.hop).collect::<Vec<_>>(), [3, 4]);
    assert!(held.iter().all(|hold| hold.reason == HoldReason::Returned));
}
