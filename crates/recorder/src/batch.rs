//! What is written in one transaction: all that is there by then, up to a limit.

use relay_broker::{Queue, Received, Refused, Taken};
use relay_event::{DeadReason, Event, Invalid, Timestamp};
use relay_store::Record;
use tokio::sync::{OwnedSemaphorePermit, mpsc::Receiver};

use crate::{lag::Waiting, routes::Routes};

/// Kinds of messages that take turns: a flood of one delays no other. Events, records of attempts and deaths, records
/// of held deliveries.
pub(crate) const KINDS: usize = 3;

/// The kind of a queue's messages.
pub(crate) fn kind(queue: Queue) -> usize {
    match queue {
        Queue::Records => 1,
        Queue::Holds | Queue::BlindMatches => 2,
        _ => 0,
    }
}

/// A message that was taken, and what was read in it. Nothing in it at all is only to be acked.
pub(crate) struct Item {
    pub(crate) taken: Taken,
    pub(crate) queue: Queue,
    pub(crate) records: Vec<Record>,
    /// Every part of it that is not to be recorded, with its bytes; or the message, once.
    pub(crate) refused: Vec<Refused>,
    /// An event to be published once more, and the time at which it was published before, if that is known.
    pub(crate) again: Option<(Event, Option<Timestamp>)>,
    /// A delivery that was returned too often although it was sent alone: it is dead.
    pub(crate) exhausted: Option<Received>,
    /// Held as long as its event is not recorded.
    pub(crate) waiting: Option<Waiting>,
    /// Its part of what may be in memory at once.
    pub(crate) room: OwnedSemaphorePermit,
}

impl Item {
    /// Why it goes to the dead-letter queue, if it does.
    pub(crate) fn reason(&self) -> DeadReason {
        match self.queue {
            Queue::Records | Queue::Holds | Queue::BlindMatches => DeadReason::InvalidRecord,
            _ => DeadReason::InvalidEvent,
        }
    }
}

/// How large a batch may become. The last message may go beyond it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// The messages of one transaction, and the records in them.
pub(crate) struct Batch {
    pub(crate) items: Vec<Item>,
    pub(crate) records: Vec<Record>,
    /// For each record the item it came in.
    owners: Vec<usize>,
}

impl Batch {
    /// Waits for a message, and takes all others that are there too; `None` once there will be none.
    pub(crate) async fn collect(waiting: &mut Incoming<Item>, limits: Limits) -> Option<Self> {
        let size = |item: &Item| (item.records.len(), item.room.num_permits());
        let mut items = collect(waiting, limits, size).await?;
        let (mut records, mut owners) = (Vec::new(), Vec::new());
        for (position, item) in items.iter_mut().enumerate() {
            records.append(&mut item.records);
            owners.resize(records.len(), position);
        }
        Some(Self {
            items,
            records,
            owners,
        })
    }

    /// Says where its events went.
    pub(crate) fn route(&mut self, routes: &Routes) {
        for record in &mut self.records {
            if let Record::Event(new) = record {
                new.routed_to = routes.routed_to(new.event.attributes(), new.published_at);
            }
        }
    }

    /// The store does not take this record. A held delivery is to be set aside by itself, for its message may have been
    /// read so that its body is no longer there; anything else with the message that it came in.
    pub(crate) fn refuse(&mut self, record: usize, why: Invalid) {
        let item = &mut self.items[self.owners[record]];
        drop(item.waiting.take()); // It is not to be recorded any more.
        let refused = match &self.records[record] {
            Record::Hold(hold) => Refused::hold(hold, why),
            _ if !item.refused.is_empty() => return, // All of it is to be set aside.
            Record::Event(new) => Refused::event(&new.event, why),
            Record::Attempt(_) | Record::Death(_) => item.taken.refuse(why),
        };
        item.refused.push(refused);
    }

    /// Puts all messages back where they were.
    pub(crate) async fn give_back(self) {
        for item in self.items {
            item.taken.give_back().await;
        }
    }
}

/// The messages that wait to be written, by their kind.
pub(crate) struct Incoming<T>(pub(crate) [Receiver<T>; KINDS]);

impl<T> Incoming<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(Receiver::is_empty)
    }

    /// The next of any kind; `None` once there will be none.
    async fn next(&mut self) -> Option<(usize, T)> {
        let [events, records, holds] = &mut self.0;
        tokio::select! {
            Some(item) = events.recv() => Some((0, item)),
            Some(item) = records.recv() => Some((1, item)),
            Some(item) = holds.recv() => Some((2, item)),
            else => None,
        }
    }
}

/// Each kind has a share of the limits first; then all that is left is for any. Nothing is lost if this is dropped:
/// only the first item is waited for.
async fn collect<T>(
    waiting: &mut Incoming<T>,
    limits: Limits,
    size: impl Fn(&T) -> (usize, usize),
) -> Option<Vec<T>> {
    let (first, item) = waiting.next().await?;
    let mut taken = [(0, 0); KINDS];
    taken[first] = size(&item);
    let mut items = vec![item];
    for share in [KINDS, 1] {
        for kind in 0..KINDS {
            loop {
                let (records, bytes) = taken[kind];
                let (all_records, all_bytes) = sum(&taken);
                let is_full =
                    records >= limits.records.div_ceil(share) || bytes >= limits.bytes.div_ceil(share);
                if is_full || all_records >= limits.records || all_bytes >= limits.bytes {
                    break;
                }
                let Ok(item) = waiting.0[kind].try_recv() else {
                    break;
                };
                let (more_records, more_bytes) = size(&item);
                taken[kind] = (records + more_records, bytes + more_bytes);
                items.push(item);
            }
        }
    }
    Some(items)
}

fn sum(sizes: &[(usize, usize)]) -> (usize, usize) {
    let add = |(all, bytes), (more, more_bytes): &(usize, usize)| (all + more, bytes + more_bytes);
    sizes.iter().fold((0, 0), add)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const LIMITS: Limits = Limits {
        records: 10,
        bytes: 1_000,
    };

    type Senders = [mpsc::Sender<(usize, usize)>; KINDS];

    fn channels() -> (Senders, Incoming<(usize, usize)>) {
        let [events, records, holds] = [(); KINDS].map(|()| mpsc::channel(100));
        (
            [events.0, records.0, holds.0],
            Incoming([events.1, records.1, holds.1]),
        )
    }

    /// How many of these items, each so many records and bytes, are taken each time.
    async fn taken(items: &[(usize, usize)]) -> Vec<usize> {
        let (senders, mut waiting) = channels();
        for item in items {
            senders[1].send(*item).await.unwrap();
        }
        drop(senders);
        let mut taken = Vec::new();
        while let Some(items) = collect(&mut waiting, LIMITS, |item| *item).await {
            taken.push(items.len());
        }
        taken
    }

    #[tokio::test]
    async fn takes_all_that_is_there_up_to_either_limit() {
        assert_eq!(taken(&[]).await, [0; 0]);
        assert_eq!(taken(&[(1, 10); 3]).await, [3]);
        assert_eq!(taken(&[(1, 10); 25]).await, [10, 10, 5]);
        assert_eq!(taken(&[(1, 400); 4]).await, [3, 1]);
        assert_eq!(
            taken(&[(9, 10), (256, 10), (1, 10)]).await,
            [2, 1],
            "whole messages"
        );
        assert_eq!(taken(&[(0, 0); 50]).await, [50], "what is only to be acked");
    }

    #[tokio::test]
    async fn a_flood_of_one_kind_leaves_the_others_their_share() {
        let (senders, mut waiting) = channels();
        for _ in 0..50 {
            senders[2].send((1, 10)).await.unwrap();
        }
        for _ in 0..3 {
            senders[0].send((1, 11)).await.unwrap();
        }
        let items = collect(&mut waiting, LIMITS, |item| *item).await.unwrap();
        let events = items.iter().filter(|(_, bytes)| *bytes == 11).count();
        assert_eq!((items.len(), events), (10, 3));
    }
}
