//! Records on their way to the log, many to one message: while one batch awaits its confirm, the next collects.

use std::sync::Arc;

use bytes::Bytes;
use relay_event::{Attempt, BlindMatch, Hold};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{
    publisher::{Outgoing, PublishError, Publisher},
    session::{Session, publish_safely},
    wire,
};

/// The content type of a batch of records: one JSON object a line.
pub const RECORDS_CONTENT_TYPE: &str = "application/x-ndjson";

/// Records in one message.
const MAX_RECORDS: usize = 256;

/// Bytes in one message, unless it has one record only.
const MAX_BYTES: usize = 256 * 1024;

/// Bytes of the records that wait for their batch or for its confirm. The next ones wait unwritten.
const ROOM: usize = 4 * 1024 * 1024;

/// A record, written.
struct Waiting {
    line: Vec<u8>,
    done: oneshot::Sender<Result<(), PublishError>>,
    _room: OwnedSemaphorePermit,
}

/// Hands records of one kind to the task that publishes them.
#[derive(Clone)]
pub(crate) struct Batches {
    records: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
}

impl Batches {
    pub(crate) fn start(publisher: Publisher, exchange: String) -> Self {
        // Bounded by the room.
        let (records, queue) = mpsc::unbounded_channel();
        tokio::spawn(publish_batches(queue, publisher, exchange));
        let room = Arc::new(Semaphore::new(ROOM));
        Self { records, room }
    }

    /// Returns once the record, which has about so many bytes when written, is confirmed.
    async fn record(&self, bytes: usize, record: impl Serialize) -> Result<(), PublishError> {
        let bytes = u32::try_from(bytes.min(ROOM)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        let mut line = serde_json::to_vec(&record).expect("a record is plain data");
        line.push(b'\n');
        drop(record);
        let (done, confirmed) = oneshot::channel();
        let waiting = Waiting {
            line,
            done,
            _room: room.map_err(|_| PublishError::Lost)?,
        };
        self.records.send(waiting).map_err(|_| PublishError::Lost)?;
        confirmed.await.unwrap_or(Err(PublishError::Lost))
    }
}

impl Session {
    pub(crate) async fn record(&self, attempt: Box<Attempt>) -> Result<(), PublishError> {
        const BESIDE: usize = 1_024;
        let detail = attempt.detail.as_ref().map_or(0, String::len);
        let bytes = BESIDE + attempt.answer.len() + detail;
        self.attempts().record(bytes, attempt).await
    }

    /// Records that a delivery is held, and returns once that is confirmed.
    ///
    /// # Errors
    /// The session is over: it is not known to be recorded.
    pub async fn hold(&self, hold: Hold) -> Result<(), PublishError> {
        const BESIDE: usize = 1_024;
        let event = hold.event.as_ref().map_or(0, String::len);
        self.holds().record(BESIDE + event, hold).await
    }

    /// Records a match that was made without the store, and returns once that is confirmed.
    pub(crate) async fn match_blindly(&self, matched: &BlindMatch) -> Result<(), PublishError> {
        let body = Bytes::from(serde_json::to_vec(matched).expect("a record is plain data"));
        let outgoing = || wire::blind_match(self.topology(), &body);
        self.publish_safely(outgoing).await
    }
}

async fn publish_batches(
    mut queue: mpsc::UnboundedReceiver<Waiting>,
    publisher: Publisher,
    exchange: String,
) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let batch;
        (batch, next) = collect(first, || queue.try_recv().ok(), |waiting| waiting.line.len());
        let body = lines(&batch);
        let outgoing = || Outgoing {
            exchange: exchange.clone(),
            routing_key: String::new(),
            properties: wire::own_properties(RECORDS_CONTENT_TYPE),
            body: body.clone(),
            mandatory: true,
        };
        let result = publish_safely(&publisher, outgoing).await;
        let lost = result.is_err();
        for Waiting { done, .. } in batch {
            let _ = done.send(result.clone());
        }
        if lost {
            return; // The session is over; those still queued hear it from their dropped senders.
        }
    }
}

/// As many as one message may have, and the first that did not fit in any more.
fn collect<T>(
    first: T,
    mut more: impl FnMut() -> Option<T>,
    bytes: impl Fn(&T) -> usize,
) -> (Vec<T>, Option<T>) {
    let mut sum = bytes(&first);
    let mut batch = vec![first];
    while batch.len() < MAX_RECORDS {
        let Some(record) = more() else { break };
        sum += bytes(&record);
        if sum > MAX_BYTES {
            return (batch, Some(record));
        }
        batch.push(record);
    }
    (batch, None)
}

fn lines(batch: &[Waiting]) -> Bytes {
    let lines: Vec<&[u8]> = batch.iter().map(|waiting| &waiting.line[..]).collect();
    lines.concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(sizes: impl IntoIterator<Item = usize>) -> Vec<Vec<usize>> {
        let mut sizes = sizes.into_iter();
        let (mut batches, mut next) = (Vec::new(), sizes.next());
        while let Some(first) = next.take() {
            let batch;
            (batch, next) = collect(first, || sizes.next(), |size| *size);
            batches.push(batch);
            next = next.or_else(|| sizes.next());
        }
        batches
    }

    #[test]
    fn a_batch_has_at_most_so_many_records_and_bytes_and_at_least_one() {
        let many = batches(std::iter::repeat_n(1, MAX_RECORDS + 1));
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_RECORDS, 1]);
        let (half, huge) = (MAX_BYTES / 2, MAX_BYTES * 3);
        assert_eq!(
            batches([half, half, 1, huge, huge, half]),
            [vec![half, half], vec![1], vec![huge], vec![huge], vec![half]]
        );
    }
}
