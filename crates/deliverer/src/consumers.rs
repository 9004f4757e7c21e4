//! The number of messages taken from a queue: attempts hold messages for up to their timeout, and RabbitMQ fixes how many
//! a consumer may hold when it begins. So consumers of a few messages each come as attempts hold messages, and
//! go when they do not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use relay_broker::{Error, Queue, Session, Subscription, Taken};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// The messages of one consumer.
const EACH: u16 = 32;

/// The consumers that are always there: so many messages are fetched ahead.
const FEWEST: usize = 4;

/// The time between two looks for consumers that are not needed any more. One goes at each look.
const QUIET: Duration = Duration::from_secs(2);

/// The bytes of held messages beyond which no consumer is added.
const BYTES: usize = 64 * 1024 * 1024;

/// The deliveries under way together, before no consumer is added for more: an event may be for many endpoints.
const DELIVERIES: usize = 8_192;

/// The messages of one queue that are taken and not settled. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Count>);

#[derive(Default)]
struct Count {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    deliveries: AtomicUsize,
    more: Notify,
}

/// A message that is held, until it is dropped.
pub(crate) struct Holding {
    held: Held,
    bytes: usize,
    deliveries: usize,
}

impl Holding {
    /// Takes note of how many deliveries the message is for, and of the bytes that it has unpacked.
    pub(crate) fn is_for(&mut self, deliveries: usize, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        self.held.0.bytes.fetch_add(more, Ordering::Relaxed);
        self.held.0.deliveries.fetch_add(deliveries, Ordering::Relaxed);
        self.bytes += more;
        self.deliveries += deliveries;
    }
}

impl Held {
    fn hold(&self, bytes: usize) -> Holding {
        self.0.messages.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.0.more.notify_one();
        Holding {
            held: self.clone(),
            bytes,
            deliveries: 0,
        }
    }

    fn messages(&self) -> usize {
        self.0.messages.load(Ordering::Relaxed)
    }

    /// Returns true if what is held takes up too much for more to be fetched.
    fn is_too_much(&self) -> bool {
        self.0.bytes.load(Ordering::Relaxed) > BYTES || self.0.deliveries.load(Ordering::Relaxed) > DELIVERIES
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.held.0.messages.fetch_sub(1, Ordering::Relaxed);
        self.held.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.held
            .0
            .deliveries
            .fetch_sub(self.deliveries, Ordering::Relaxed);
    }
}

/// The number of consumers that is right for so many messages held: half of the messages fetched ahead are always
/// free, as far as slots allow; the fewest if what is held is too much.
fn wanted(held: usize, is_too_much: bool, slots: usize) -> usize {
    if is_too_much {
        return FEWEST;
    }
    let most = slots.div_ceil(EACH.into()).max(FEWEST);
    (held.div_ceil(EACH.into()) + FEWEST).clamp(FEWEST, most + FEWEST)
}

/// Takes from a queue until told to stop, or the broker ends a consumer; each message is given to `handle`, which
/// is to return at once.
///
/// # Errors
/// The queue cannot be consumed from.
pub(crate) async fn take_all(
    session: &Session,
    queue: Queue,
    slots: usize,
    stop: &CancellationToken,
    handle: impl Fn(Taken, Holding) + Clone + Send + 'static,
) -> Result<(), Error> {
    let held = Held::default();
    let mut consumers: Vec<CancellationToken> = Vec::new();
    let mut running = JoinSet::new();
    let mut quiet = interval(QUIET);
    quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let taken = loop {
        let wanted = wanted(held.messages(), held.is_too_much(), slots);
        if consumers.len() < wanted {
            let subscription = match session.consume(queue, EACH).await {
                Ok(subscription) => subscription,
                Err(error) => break Err(error),
            };
            let own_stop = stop.child_token();
            running.spawn(consume(
                session.clone(),
                subscription,
                held.clone(),
                own_stop.clone(),
                handle.clone(),
            ));
            consumers.push(own_stop);
            continue;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break Ok(()),
            () = session.lost() => break Ok(()),
            Some(ended) = running.join_next() => {
                if !matches!(ended, Ok(Ended::Stopped)) {
                    break Ok(()); // The broker ended it; all begin again.
                }
            }
            _ = quiet.tick() => {
                // It fetches no more before its last acks, and what it holds goes on.
                if consumers.len() > wanted + 1
                    && let Some(one) = consumers.pop()
                {
                    one.cancel();
                }
            }
            () = held.0.more.notified() => {}
        }
    };
    for consumer in consumers {
        consumer.cancel();
    }
    while running.join_next().await.is_some() {}
    taken
}

/// Takes from a queue of which one consumer at a time gets messages.
///
/// # Errors
/// The queue cannot be consumed from.
pub(crate) async fn take_by_one(
    session: &Session,
    queue: Queue,
    stop: &CancellationToken,
    handle: impl Fn(Taken, Holding),
) -> Result<(), Error> {
    let subscription = session.consume(queue, EACH).await?;
    consume(
        session.clone(),
        subscription,
        Held::default(),
        stop.clone(),
        handle,
    )
    .await;
    Ok(())
}

/// The end of a consumer.
enum Ended {
    Stopped,
    Lost,
}

/// While the broker takes no publishes, nothing is handled: its outcome could not be made safe.
async fn consume(
    session: Session,
    mut subscription: Subscription,
    held: Held,
    stop: CancellationToken,
    handle: impl Fn(Taken, Holding),
) -> Ended {
    let mut blocked = session.blocked();
    let ended = loop {
        let taking = async {
            let taken = subscription.next().await?;
            blocked.wait_for(|blocked| !blocked).await.ok()?;
            Some(taken)
        };
        let taken = tokio::select! {
            biased;
            () = stop.cancelled() => break Ended::Stopped,
            taken = taking => taken,
        };
        let Some(taken) = taken else {
            break Ended::Lost;
        };
        let holding = held.hold(taken.size());
        handle(taken, holding);
    };
    subscription.stop().await;
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_come_as_messages_are_held_up_to_the_slots() {
        assert_eq!(wanted(0, false, 2_048), FEWEST);
        assert_eq!(wanted(1, false, 2_048), 5);
        assert_eq!(wanted(128, false, 2_048), 8);
        assert_eq!(wanted(10_000, false, 2_048), 68);
        assert_eq!(wanted(1_000, true, 2_048), FEWEST);
        assert_eq!(wanted(1_000, false, 1), 8, "few slots");
    }

    #[test]
    fn what_is_held_is_too_much_by_its_unpacked_bytes_or_its_deliveries() {
        let held = Held::default();
        let mut packed = held.hold(1_000);
        packed.is_for(1, BYTES);
        assert!(!held.is_too_much());
        let mut wide = held.hold(1);
        assert!(held.is_too_much(), "by its bytes");
        drop(packed);
        wide.is_for(DELIVERIES + 1, 1);
        assert!(held.is_too_much(), "by its deliveries");
        drop(wide);
        assert!(!held.is_too_much());
    }
}
