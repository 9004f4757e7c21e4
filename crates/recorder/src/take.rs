//! Taking from one of the log's queues, and reading what comes.

use std::{sync::Arc, time::Duration};

use relay_broker::{Delays, Holds, Queue, Received, Records, Refused, Session, Subscription, Taken};
use relay_event::{Event, Timestamp};
use relay_store::{NewEvent, Record};
use tokio::{
    sync::{Semaphore, mpsc::Sender},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    batch::Item,
    lag::Lag,
    routes::{self, Routes},
};

/// The bytes of one kind of messages that may be read and not recorded yet: one batch is written while the next
/// collects.
pub(crate) const ROOM: usize = 8 * 1024 * 1024;

/// What the largest events may take up on their way here, in bytes. The broker counts messages only.
const ON_THE_WAY: usize = 128 * 1024 * 1024;

/// The largest message of records, in bytes.
const RECORDS: usize = 2 * 1024 * 1024;

/// Messages of records or holds on their way: each may have hundreds of records, or twice the bytes of the largest
/// event.
pub(crate) fn records_prefetch(max_event_bytes: usize) -> u16 {
    const FEWEST: usize = 8;
    let largest = max_event_bytes.saturating_mul(2).max(RECORDS);
    let fitting = (ON_THE_WAY / largest).max(FEWEST);
    u16::try_from(fitting).unwrap_or(u16::MAX)
}

/// Messages of the archive on their way.
pub(crate) fn archive_prefetch(max_event_bytes: usize) -> u16 {
    const FEWEST: usize = 16;
    const MOST: usize = 2_000;
    let fitting = (ON_THE_WAY / max_event_bytes.max(1)).clamp(FEWEST, MOST);
    u16::try_from(fitting).unwrap_or(u16::MAX)
}

/// The time for which a match that was made without the store waits for the endpoints to be read. A message that a consumer has
/// had for 30 minutes ends its channel; so all that are on their way here are given back before.
const LOOK: Duration = Duration::from_secs(10);

/// Takes from one queue.
pub(crate) struct Taker {
    pub(crate) session: Session,
    pub(crate) subscription: Subscription,
    pub(crate) queue: Queue,
    pub(crate) max_event_bytes: usize,
    pub(crate) items: Sender<Item>,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) lag: Lag,
    pub(crate) routes: Routes,
    pub(crate) stop: CancellationToken,
    /// Set while it is said that the endpoints cannot be read.
    pub(crate) is_blind: bool,
}

/// What a message says.
#[derive(Default)]
struct Said {
    records: Vec<Record>,
    refused: Vec<Refused>,
    again: Option<(Event, Option<Timestamp>)>,
    exhausted: Option<Received>,
    /// When its event was published.
    since: Option<Timestamp>,
}

impl Taker {
    /// Takes until told to stop, or the broker ends it; then the other queues are no longer taken from
    /// either. To end the subscription gives back all that is not settled, so that is the caller's.
    pub(crate) async fn take_all(mut self) -> Subscription {
        let _ends_the_other = self.stop.clone().drop_guard();
        while let Some(taken) = self.next().await {
            if !self.hand_over(taken).await {
                break;
            }
        }
        self.subscription
    }

    async fn next(&mut self) -> Option<Taken> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            taken = self.subscription.next() => taken,
        }
    }

    /// Reads a message and hands it to the writer once there is room; `false` if told to stop first.
    async fn hand_over(&mut self, mut taken: Taken) -> bool {
        let said = match self.queue {
            Queue::Records => records(taken.records(&self.session)),
            Queue::Holds => holds(taken.holds(&self.session)),
            Queue::BlindMatches => match self.missed(&taken).await {
                Some(said) => said,
                None => {
                    taken.give_back().await;
                    return !self.stop.is_cancelled();
                }
            },
            Queue::Suspects => suspect(taken.read(&self.session, self.max_event_bytes)),
            _ => event(taken.read(&self.session, self.max_event_bytes)),
        };
        let weight = u32::try_from(said.weight().min(ROOM)).unwrap_or(u32::MAX);
        let waiting = said.since.map(|since| self.lag.waiting(since));
        let room = tokio::select! {
            biased;
            room = Arc::clone(&self.room).acquire_many_owned(weight) => room.ok(),
            () = self.stop.cancelled() => None,
        };
        let Some(room) = room else {
            taken.give_back().await;
            return false;
        };
        let item = Item {
            taken,
            queue: self.queue,
            records: said.records,
            refused: said.refused,
            again: said.again,
            exhausted: said.exhausted,
            waiting,
            room,
        };
        match self.items.send(item).await {
            Ok(()) => true,
            Err(unsent) => {
                unsent.0.taken.give_back().await;
                false
            }
        }
    }
}

impl Taker {
    /// A hold for each endpoint that wants the event of a match and was not known to the deliverer that matched it;
    /// `None` if the endpoints cannot be read for so long that the message is to be given back. No other queue waits
    /// for that.
    async fn missed(&mut self, taken: &Taken) -> Option<Said> {
        let matched = match taken.blind_match() {
            Ok(matched) => matched,
            Err(refused) => {
                tracing::warn!(error = %refused.why, "a message is no match of endpoints; it goes to the dead-letter queue");
                return Some(Said {
                    refused: vec![*refused],
                    ..Said::default()
                });
            }
        };
        // They are known as they were at a moment after the match.
        let stop = self.stop.clone();
        let looked = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            looked = timeout(LOOK, self.look()) => looked,
        };
        looked.ok()?;
        let missed = self.routes.missed_by(&matched).into_iter();
        let holds = missed.map(|endpoint| Record::Hold(Box::new(matched.hold(endpoint))));
        Some(Said {
            records: holds.collect(),
            ..Said::default()
        })
    }

    /// Returns once the endpoints were read.
    async fn look(&mut self) {
        let mut delays = Delays::new();
        while let Err(error) = self.routes.look().await {
            if !error.is_unavailable() && !std::mem::replace(&mut self.is_blind, true) {
                routes::say_unreadable(&error);
            }
            delays.wait().await;
        }
        self.is_blind = false;
    }
}

impl Said {
    /// About how many bytes it keeps in memory.
    fn weight(&self) -> usize {
        const MESSAGE: usize = 512;
        let records: usize = self.records.iter().map(weight).sum();
        let again = self.again.as_ref().map_or(0, |(event, _)| event.body().len());
        let exhausted = self.exhausted.as_ref().map_or(0, weight_of_event);
        let refused: usize = self.refused.iter().map(Refused::size).sum();
        MESSAGE + records + again + exhausted + refused
    }
}

fn weight_of_event(received: &Received) -> usize {
    received.event.as_ref().map_or(0, |event| event.body().len())
}

fn weight(record: &Record) -> usize {
    const RECORD: usize = 512;
    RECORD
        + match record {
            Record::Event(new) => new.event.body().len(),
            Record::Attempt(attempt) => attempt.answer.len() + attempt.detail.as_ref().map_or(0, String::len),
            Record::Hold(hold) => hold.event.as_ref().map_or(0, String::len),
            Record::Death(_) => 0,
        }
}

fn event(received: Received) -> Said {
    // What somebody put into the archive alone went to no endpoint.
    let published_at = received.published_at.filter(|_| received.arrival.is_published());
    match received.event {
        Ok(event) => Said {
            records: vec![Record::Event(NewEvent {
                event,
                published_at,
                routed_to: Vec::new(), // Known best when it is written.
            })],
            since: Some(published_at.unwrap_or_else(Timestamp::now)),
            ..Said::default()
        },
        Err(refused) => unreadable(*refused),
    }
}

/// An event that went to nobody: it comes back with properties of the relay's own, and goes on to all that want it.
fn suspect(received: Received) -> Said {
    match received.event {
        Ok(event) => Said {
            again: Some((event, received.published_at)),
            ..Said::default()
        },
        Err(refused) => unreadable(*refused),
    }
}

fn unreadable(refused: Refused) -> Said {
    tracing::warn!(error = %refused.why, "a message of the archive is no valid event; it goes to the dead-letter queue");
    Said {
        refused: vec![refused],
        ..Said::default()
    }
}

fn records(records: Records) -> Said {
    if let Some(refused) = &records.refused {
        tracing::warn!(
            error = %refused.why, recorded = records.attempts.len(),
            "a message to the delivery log is not, or not only, attempts; it goes to the dead-letter queue"
        );
    }
    let attempts = records.attempts.into_iter().map(Record::Attempt);
    let deaths = records.death.into_iter().map(Record::Death);
    Said {
        records: attempts.chain(deaths).collect(),
        refused: records.refused.into_iter().collect(),
        ..Said::default()
    }
}

fn holds(holds: Holds) -> Said {
    for refused in &holds.refused {
        tracing::warn!(
            error = %refused.why, recorded = holds.holds.len(),
            "a message of held deliveries has something else in it; it goes to the dead-letter queue"
        );
    }
    if let Some(Received { endpoint, .. }) = &holds.exhausted {
        tracing::warn!(
            endpoint = endpoint.as_ref().map(tracing::field::display),
            "a delivery that was sent alone ended its deliverer again and again; it goes to the dead-letter queue"
        );
    }
    let records = holds.holds.into_iter().map(|hold| Record::Hold(Box::new(hold)));
    Said {
        records: records.collect(),
        exhausted: holds.exhausted,
        refused: holds.refused,
        ..Said::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_events_on_their_way_fit_into_memory() {
        assert_eq!(archive_prefetch(relay_event::DEFAULT_MAX_EVENT_BYTES), 512);
        assert_eq!(archive_prefetch(16 * 1024 * 1024), 16);
        assert_eq!(archive_prefetch(1_024), 2_000);
        assert_eq!(archive_prefetch(0), 2_000);
        assert_eq!(records_prefetch(relay_event::DEFAULT_MAX_EVENT_BYTES), 64);
        assert_eq!(records_prefetch(4 * 1024 * 1024), 16);
        assert_eq!(records_prefetch(usize::MAX), 8);
    }
}
