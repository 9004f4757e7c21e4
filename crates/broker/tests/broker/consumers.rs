//! Consumers that come and go while others take.

use relay_broker::{Queue, Taken};
use relay_testkit::{shared_broker, wait_until};

use crate::relay::{MAX_BYTES, Relay, event};

async fn consumers(relay: &Relay) -> u32 {
    let depth = relay.session.depth(Queue::Work).await.unwrap();
    depth.unwrap().consumers
}

#[tokio::test]
async fn a_consumer_that_is_removed_loses_nothing_and_what_it_handed_out_is_acked_later() {
    const EVENTS: u32 = 40;
    let mut relay = Relay::start().await;
    for _ in 0..EVENTS {
        relay.publish(&event()).await;
    }
    let mut first = relay.session.consume(Queue::Work, 32).await.unwrap();
    let mut second = relay.session.consume(Queue::Work, 32).await.unwrap();
    let mut held: Vec<Taken> = Vec::new();
    for _ in 0..10 {
        held.push(first.next().await.unwrap());
    }
    // The messages that it fetched and did not hand out go to the other one.
    first.stop().await;
    for _ in 0..EVENTS - 10 {
        second.next().await.unwrap().ack();
    }
    // The channel of the first outlives its consumer.
    for taken in held {
        taken.ack();
    }
    wait_until("one consumer", || async { consumers(&relay).await == 1 }).await;
    // The messages that a canceled consumer has fetched are handed out to the end.
    relay.publish(&event()).await;
    let last = second.next().await.unwrap();
    second.cancel().await;
    assert!(second.next().await.is_none());
    last.ack();
    drop(second);
    relay.again().await;
    assert_eq!(relay.ready(Queue::Work).await, 0);
}

#[tokio::test]
async fn a_channel_ends_with_its_consumer_and_the_last_of_its_messages() {
    const CHANNELS: usize = 8;
    let url = format!("{}?channel_max={CHANNELS}", shared_broker().await);
    let relay = Relay::connected(&url, MAX_BYTES).await;
    relay.publish(&event()).await;
    for _ in 0..2 * CHANNELS {
        let (taken, consumer) = relay.take(Queue::Work).await;
        consumer.stop().await;
        taken.give_back().await;
    }
    relay.received(Queue::Work).await;
    wait_until("no consumer", || async { consumers(&relay).await == 0 }).await;
}
