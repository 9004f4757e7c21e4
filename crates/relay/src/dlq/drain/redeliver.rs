use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use futures_util::{StreamExt, stream::FuturesUnordered};
use relay_broker::{Config, DeadLetters, DeadMessage, PublishError};
use relay_event::{DeadReason, EndpointId};
use reqwest::StatusCode;
use tokio::time::timeout;

use super::tally::{Stay, Tally};
use crate::{api::Api, data::DataArgs, output};

/// The time for which an endpoint is believed to be there: it may be removed while a drain lasts.
const BELIEVED: Duration = Duration::from_secs(1);

/// The time that the relay may take to say whether an endpoint is there.
const PATIENCE: Duration = Duration::from_secs(5);

const UNKNOWN: &str = "no relay of this broker is known here; RELAY_URL and RELAY_TOKEN name it";

/// Knows which endpoints are there, by the relay that has them.
pub(super) struct Redeliver {
    relay: Option<Api>,
    known: HashMap<EndpointId, (Instant, bool)>,
}

impl Redeliver {
    /// Asks the relay of this broker, if one is known here; otherwise says that none is asked.
    pub(super) fn new(data: &DataArgs, broker: &Config) -> Self {
        let relay = match data.http_of(broker) {
            Ok(Some(found)) => Api::new(found).map(Some),
            Ok(None) => Err(anyhow!(UNKNOWN)),
            Err(error) => Err(error),
        };
        let relay = relay.unwrap_or_else(|error| {
            not_asked(&format!("{error:#}"));
            None
        });
        Self {
            relay,
            known: HashMap::new(),
        }
    }

    /// Returns the reason why a letter cannot be redelivered, if there is one.
    pub(super) async fn stays(&mut self, message: &DeadMessage) -> Option<Stay> {
        if let Some(bytes) = message.cut_from.or(message.too_large) {
            return Some(Stay::TooLarge(bytes));
        }
        if message.event.is_err() {
            return Some(Stay::NoEvent);
        }
        // One without an endpoint goes to all that want its event.
        let endpoint = message.letter.endpoint.as_ref()?;
        if message.letter.reason == DeadReason::EndpointRemoved {
            return Some(Stay::EndpointRemoved);
        }
        let there = match self.known.get(endpoint) {
            Some((asked, there)) if asked.elapsed() < BELIEVED => *there,
            _ => {
                let asked = Instant::now();
                let there = self.is_not_removed(endpoint).await;
                self.known.insert(endpoint.clone(), (asked, there));
                there
            }
        };
        (!there).then_some(Stay::EndpointRemoved)
    }

    /// Returns false if the relay says that it does not have it any more.
    async fn is_not_removed(&mut self, endpoint: &EndpointId) -> bool {
        let Some(relay) = &self.relay else { return true };
        let path = ["v1", "endpoints", endpoint.as_str()];
        let why = match timeout(PATIENCE, relay.get(&path)).await {
            Ok(Ok(_)) => return true,
            Ok(Err(error)) if error.is(StatusCode::NOT_FOUND) => return false,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it did not answer within {} s", PATIENCE.as_secs()),
        };
        not_asked(&why);
        self.relay = None;
        true
    }
}

fn not_asked(why: &str) {
    output::note(&format!(
        "the relay cannot say which endpoints were removed ({why}); the letters of one that was removed come \
         back, as endpoint_removed"
    ));
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
    let Ok(event) = &message.event else {
        return Ok(());
    };
    let endpoint = message.letter.endpoint.as_ref();
    letters
        .redeliver(endpoint, event, message.run, &message.letter)
        .await?;
    message.remove().await
}
