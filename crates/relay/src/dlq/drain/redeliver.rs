use std::collections::HashMap;

use futures_util::{StreamExt, stream::FuturesUnordered};
use relay_broker::{DeadLetters, DeadMessage, PublishError, Session};
use relay_event::{DeadReason, EndpointId};

use super::tally::{Stay, Tally};

/// Knows which endpoints still have a queue.
#[derive(Default)]
pub(super) struct Redeliver {
    known: HashMap<EndpointId, bool>,
}

impl Redeliver {
    pub(super) async fn stays(
        &mut self,
        session: &Session,
        message: &DeadMessage,
    ) -> anyhow::Result<Option<Stay>> {
        if let Some(bytes) = message.cut_from {
            return Ok(Some(Stay::TooLarge(bytes)));
        }
        let Some(endpoint) = &message.letter.endpoint else {
            return Ok(Some(Stay::NoEndpoint));
        };
        if message.event.is_err() {
            return Ok(Some(Stay::NoEvent));
        }
        if message.letter.reason == DeadReason::EndpointRemoved {
            // Its queue may still be there, but no way leads into it.
            return Ok(Some(Stay::EndpointRemoved));
        }
        let there = match self.known.get(endpoint) {
            Some(there) => *there,
            None => {
                let queue = session.topology().endpoint(endpoint);
                let there = session.depth(&queue).await?.is_some();
                self.known.insert(endpoint.clone(), there);
                there
            }
        };
        Ok((!there).then_some(Stay::EndpointRemoved))
    }
}

/// Redelivers all at once, and removes each once its copy is confirmed.
pub(super) async fn all(
    letters: &DeadLetters,
    batch: Vec<DeadMessage>,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let mut sending: FuturesUnordered<_> = batch.into_iter().map(|message| one(letters, message)).collect();
    let mut failed = None;
    while let Some(sent) = sending.next().await {
        match sent {
            Ok(()) => tally.done += 1,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

async fn one(letters: &DeadLetters, message: DeadMessage) -> Result<(), PublishError> {
    // Those that stay were sorted out before.
    let (Some(endpoint), Ok(event)) = (&message.letter.endpoint, &message.event) else {
        return Ok(());
    };
    letters.redeliver(endpoint, event, message.run).await?;
    message.remove().await
}
