//! Pushing: events are taken from the endpoints' queues, posted as signed webhooks, and settled.

mod backlog;
mod breaker;
mod client;
mod config;
mod consume;
mod courier;
mod delivery;
mod fetch;
mod fleet;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod metrics;
mod notes;
mod pace;
mod post;
mod probe;
mod resolver;
mod shortage;
mod slots;
mod take;
mod tls;
mod window;

use std::sync::Arc;

use anyhow::Context as _;
use relay_broker::{Broker, Status};
use relay_service::Context;
use relay_store::Store;

pub use config::{Config, DisableAfter};
pub use courier::{Courier, Posted};
pub use resolver::NameServers;

use crate::{
    delivery::Workshop, fleet::Fleet, metrics::Metrics, resolver::Resolver, shortage::Shortages, slots::Slots,
};

/// Its name among the parts of a process, which says when it has begun.
pub const PART: &str = "deliverer";

/// Delivers until `context` shuts down, then finishes the attempts under way.
///
/// # Errors
/// It cannot start: no root certificates, or its metrics are registered twice.
pub async fn run(config: &Config, context: &Context, broker: &Broker, store: &Store) -> anyhow::Result<()> {
    let (metrics, most) = (Metrics::register(&context.registry)?, max_attempts(config));
    metrics.limit.set(most.into());
    let workshop = Arc::new(Workshop {
        client: client::Client::new(Resolver::new(config.name_servers.as_ref()))
            .context("could not set up the HTTP client")?,
        metrics,
        max_event_bytes: config.max_event_bytes,
        deliverer: config.signature(),
        room: fetch::room(),
        slots: Slots::new(usize::try_from(most).unwrap_or(usize::MAX)),
        shortages: Shortages::default(),
    });
    let fleet = Fleet::new(
        Arc::clone(&workshop),
        store.clone(),
        context.health.component("store"),
    );
    let broker_health = context.health.component("broker");
    context.health.begun(PART);
    tokio::select! {
        () = fleet.run(broker, config, &context.shutdown) => {}
        () = backlog::watch(broker, store, &workshop.metrics, config) => {}
        () = broker_health.follow(broker.status(), Status::trouble) => {}
    }
    Ok(())
}

/// What is set, if so many sockets can be had: half of the files that may be open, for connections that
/// wait for their next attempt are as many, without those the process needs for itself.
fn max_attempts(config: &Config) -> u32 {
    const OTHER_FILES: u64 = 256;
    let wanted = config.max_attempts.get();
    let files = relay_service::raise_open_files();
    let allowed = files.map_or(u64::MAX, |files| (files.saturating_sub(OTHER_FILES) / 2).max(1));
    let most = u32::try_from(allowed).map_or(wanted, |allowed| wanted.min(allowed));
    if most < wanted {
        tracing::warn!(
            wanted,
            most,
            files,
            "fewer attempts may be under way at once than are set: the process may not open more files"
        );
    }
    most
}
