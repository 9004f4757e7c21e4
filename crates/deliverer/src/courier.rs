//! Deliveries beside the relay's queues: one attempt each, made as every attempt is.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use relay_event::{Endpoint, EndpointUrl, Event, Outcome, Secret, Timestamp};

use crate::{client::Client, post::post, resolver::Resolver};

/// Posts events to a URL that need not be an endpoint of any relay.
pub struct Courier {
    client: Client,
    endpoint: Endpoint,
}

/// What came of an attempt.
#[derive(Debug)]
pub struct Posted {
    /// How it ended.
    pub outcome: Outcome,
    /// An error in words.
    pub detail: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Courier {
    /// Posts to `url`, signed with `secret`, within the timeout that endpoints have by default.
    ///
    /// # Errors
    /// The system's root certificates cannot be loaded.
    pub fn new(url: EndpointUrl, secret: Secret) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::new(Resolver::new(None)).context("could not set up the HTTP client")?,
            endpoint: Endpoint::new(url, Vec::new(), secret, Timestamp::now()),
        })
    }

    /// Makes one attempt.
    ///
    /// # Errors
    /// This machine has no connection to spare, and nothing was sent.
    pub async fn post(&self, event: &Event) -> anyhow::Result<Posted> {
        let began = Instant::now();
        let exchanged = post(&self.client, &self.endpoint, event, Timestamp::now()).await?;
        Ok(Posted {
            outcome: exchanged.outcome,
            detail: exchanged.detail,
            took: began.elapsed(),
        })
    }
}
