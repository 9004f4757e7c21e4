//! How much is taken from a queue: attempts hold messages for up to their timeout, and RabbitMQ fixes how many
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

/// What the messages held may take up together, in bytes, before no consumer is added for more.
const BYTES: usize = 64 * 1024 * 1024;

/// What is taken and not settled of one queue. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Count>);

#[derive(Default)]
struct Count {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    more: Notify,
}

/// A message that is held, until it is dropped.
pub(crate) struct Holding {
    held: Held,
    bytes: usize,
}

impl Held {
    fn hold(&self, bytes: usize) -> Holding {
        self.0.messages.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.0.more.notify_one();
        Holding {
            held: self.clone(),
            bytes,
        }
    }

    fn messages(&self) -> usize {
        self.0.messages.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.held.0.messages.fetch_sub(1, Ordering::Relaxed);
        self.held.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// How many consumers are right for what is held: half of the messages fetched ahead are always free, as far as
/// slots and bytes allow.
fn wanted(held: usize, bytes: usize, slots: usize, now: usize) -> usize {
    let most = slots.div_ceil(EACH.into()).max(FEWEST);
    if bytes > BYTES {
        return now;
    }
    (held.div_ceil(EACH.into()) + FEWEST).clamp(FEWEST, most.max(FEWEST) + FEWEST)
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
        let wanted = wanted(held.messages(), held.bytes(), slots, consumers.len());
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
            () = held.0.more.notified() => {}
            _ = quiet.tick() => {
                // It fetches no more before its last acks, and what it holds goes on.
                if consumers.len() > wanted + 1
                    && let Some(one) = consumers.pop()
                {
                    one.cancel();
                }
            }
        }
    };
    for consumer in consumers {
        consumer.cancel();
    }
    while running.join_next().await.is_some() {}
    taken
}

/// Takes from a queue, one message at a time: the next when the one before is settled.
///
/// # Errors
/// The queue cannot be consumed from.
pub(crate) async fn take_one_by_one(
    session: &Session,
    queue: Queue,
    stop: &CancellationToken,
    handle: impl Fn(Taken, Holding),
) -> Result<(), Error> {
    let subscription = session.consume(queue, 1).await?;
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
    fn consumers_come_as_messages_are_held_up_to_the_slots_and_the_bytes() {
        assert_eq!(wanted(0, 0, 2_048, 0), FEWEST);
        assert_eq!(wanted(1, 0, 2_048, 4), 5);
        assert_eq!(wanted(128, 0, 2_048, 5), 8);
        assert_eq!(wanted(10_000, 0, 2_048, 60), 68);
        assert_eq!(wanted(1_000, BYTES + 1, 2_048, 9), 9, "no more for the largest");
        assert_eq!(wanted(1_000, 0, 1, 4), 8, "few slots");
    }
}
