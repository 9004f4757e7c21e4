//! Attempt records, many to one message: while one batch awaits its confirm, the next collects.

use bytes::Bytes;
use relay_event::Attempt;
use tokio::sync::{mpsc, oneshot};

use crate::{
    publisher::{Outgoing, PublishError, Publisher},
    session::publish_safely,
    wire,
};

/// What a batch of attempts is: one JSON object a line.
pub const ATTEMPTS_CONTENT_TYPE: &str = "application/x-ndjson";

/// Records in one message. With an answer's first KiB each, about 400 KiB, and 1.7 MiB at the very most.
const MAX_BATCH: usize = 256;

type Waiting = (Box<Attempt>, oneshot::Sender<Result<(), PublishError>>);

/// Hands records to the batching task.
#[derive(Clone)]
pub(crate) struct AttemptLog(mpsc::Sender<Waiting>);

impl AttemptLog {
    pub(crate) fn start(publisher: Publisher, exchange: String) -> Self {
        let (records, queue) = mpsc::channel(4 * MAX_BATCH);
        tokio::spawn(publish_batches(queue, publisher, exchange));
        Self(records)
    }

    /// Returns once the record is confirmed.
    pub(crate) async fn record(&self, attempt: Box<Attempt>) -> Result<(), PublishError> {
        let (done, confirmed) = oneshot::channel();
        self.0
            .send((attempt, done))
            .await
            .map_err(|_| PublishError::Lost)?;
        confirmed.await.unwrap_or(Err(PublishError::Lost))
    }
}

async fn publish_batches(mut queue: mpsc::Receiver<Waiting>, publisher: Publisher, exchange: String) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let body = lines(&batch);
        let outgoing = || Outgoing {
            exchange: exchange.clone(),
            routing_key: String::new(),
            properties: wire::own_properties(ATTEMPTS_CONTENT_TYPE),
            body: body.clone(),
            mandatory: true,
        };
        let result = publish_safely(&publisher, outgoing).await;
        let lost = result.is_err();
        for (_, done) in batch.drain(..) {
            let _ = done.send(result.clone());
        }
        if lost {
            return; // The session is over; those still queued hear it from their dropped senders.
        }
    }
}

fn lines(batch: &[Waiting]) -> Bytes {
    let mut lines = Vec::with_capacity(batch.len() * 512);
    for (attempt, _) in batch {
        serde_json::to_writer(&mut lines, attempt).expect("an attempt is plain data");
        lines.push(b'\n');
    }
    lines.into()
}
