//! Working through the dead-letter queue.

use relay_broker::{DeadLetters, Queue};
use relay_event::{DeadReason, Invalid};

use crate::relay::{Relay, event};

/// Letters that are kept stay with channels of consumers that are over.
#[tokio::test]
async fn letters_that_are_kept_do_not_come_again() {
    const LETTERS: u32 = 30;
    // So large that only eight letters are on their way at once.
    let relay = Relay::with_largest(64 * 1024 * 1024).await;
    let refused = relay_broker::Refused::event(&event(), Invalid::new("event", "is of no use"));
    for _ in 0..LETTERS {
        let aside = relay.session.set_aside(&refused, DeadReason::InvalidEvent);
        aside.await.unwrap();
    }
    relay.wait_for(Queue::Dead, LETTERS).await;
    let mut letters = DeadLetters::open(&relay.session).await.unwrap();
    assert!(letters.batch() < LETTERS as usize / 4);
    let mut kept = 0;
    while let Some(letter) = letters.next().await.unwrap() {
        letters.keep(letter).await.unwrap();
        kept += 1;
    }
    assert_eq!(kept, LETTERS);
    assert_eq!(relay.ready(Queue::Dead).await, 0);
}
