//! Pushing: events are taken from the endpoints' queues, posted as signed webhooks, and settled.

mod backlog;
mod breaker;
mod config;
mod consume;
mod delivery;
mod fetch;
mod fleet;
mod metrics;
mod notes;
mod pace;
mod post;
mod probe;
mod take;
mod window;

use std::sync::Arc;

use anyhow::Context as _;
use relay_broker::{Broker, Status};
use relay_service::Context;
use relay_store::Store;

pub use config::{Config, DisableAfter};

use crate::{delivery::Workshop, fleet::Fleet, metrics::Metrics};

/// Delivers until `context` shuts down, then finishes the attempts under way.
///
/// # Errors
/// It cannot start: no root certificates, or its metrics are registered twice.
pub async fn run(config: &Config, context: &Context, broker: &Broker, store: &Store) -> anyhow::Result<()> {
    let workshop = Arc::new(Workshop {
        client: post::client().context("could not set up the HTTP client")?,
        metrics: Metrics::register(&context.registry)?,
        max_event_bytes: config.max_event_bytes,
        deliverer: config.signature(),
        room: fetch::room(),
    });
    let fleet = Fleet::new(
        Arc::clone(&workshop),
        store.clone(),
        context.health.component("store"),
    );
    tokio::select! {
        () = fleet.run(broker, config, &context.shutdown) => {}
        () = backlog::watch(broker, store, &workshop.metrics, config) => {}
        () = context.health.component("broker").follow(broker.status(), Status::trouble) => {}
    }
    Ok(())
}
