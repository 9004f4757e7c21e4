//! What is written in one transaction: all that is there by then, up to a limit.

use relay_broker::{Refused, Resend, Taken};
use relay_event::{DeadReason, Invalid};
use relay_store::Record;
use tokio::sync::{OwnedSemaphorePermit, mpsc::Receiver};

use crate::{lag::Waiting, routes::Router};

/// The log's two queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    Archive,
    Attempts,
}

/// A message that was taken, and what was read in it. Nothing in it at all is only to be acked.
pub(crate) struct Item {
    pub(crate) taken: Taken,
    pub(crate) queue: Queue,
    pub(crate) records: Vec<Record>,
    /// The message, if any part of it is not to be recorded.
    pub(crate) refused: Option<Refused>,
    /// An event to be sent once more, after the records of it, if there are any.
    pub(crate) resend: Option<Resend>,
    /// Held as long as its event is not recorded.
    pub(crate) waiting: Option<Waiting>,
    /// Its part of what may be in memory at once.
    pub(crate) room: OwnedSemaphorePermit,
}

impl Item {
    /// Why it goes to the dead-letter queue, if it does.
    pub(crate) fn reason(&self) -> DeadReason {
        match self.queue {
            Queue::Archive => DeadReason::InvalidEvent,
            Queue::Attempts => DeadReason::InvalidRecord,
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
    pub(crate) async fn collect(waiting: &mut Receiver<Item>, limits: Limits) -> Option<Self> {
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
    pub(crate) fn route(&mut self, router: &Router) {
        for record in &mut self.records {
            if let Record::Event(new) = record {
                new.routed_to = router.routed_to(new.event.event_type(), new.published_at);
            }
        }
    }

    /// The store does not take this record: the message it came in is to be set aside.
    pub(crate) fn refuse(&mut self, record: usize, why: Invalid) {
        let item = &mut self.items[self.owners[record]];
        drop(item.waiting.take()); // It is not to be recorded any more.
        if item.refused.is_none() {
            item.refused = Some(match &self.records[record] {
                Record::Event(new) => Refused::event(&new.event, why),
                Record::Attempt(_) | Record::Death(_) => item.taken.refuse(why),
            });
        }
    }

    /// Puts all messages back where they were.
    pub(crate) async fn give_back(self) {
        for item in self.items {
            item.taken.give_back().await;
        }
    }
}

/// Nothing is lost if this is dropped: only the first item is waited for.
async fn collect<T>(
    waiting: &mut Receiver<T>,
    limits: Limits,
    size: impl Fn(&T) -> (usize, usize),
) -> Option<Vec<T>> {
    let mut items = vec![waiting.recv().await?];
    let (mut records, mut bytes) = size(&items[0]);
    while records < limits.records && bytes < limits.bytes {
        let Ok(item) = waiting.try_recv() else { break };
        let (more_records, more_bytes) = size(&item);
        records += more_records;
        bytes += more_bytes;
        items.push(item);
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const LIMITS: Limits = Limits {
        records: 10,
        bytes: 1_000,
    };

    /// How many of these items, each so many records and bytes, are taken each time.
    async fn taken(items: &[(usize, usize)]) -> Vec<usize> {
        let (sender, mut waiting) = mpsc::channel(100);
        for item in items {
            sender.send(*item).await.unwrap();
        }
        drop(sender);
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
}
