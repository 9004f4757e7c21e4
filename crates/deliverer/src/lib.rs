//! Pushing: events are taken from the endpoints' queues, posted as signed webhooks, and settled.

mod backlog;
mod config;
mod consume;
mod delivery;
mod fleet;
mod metrics;
mod post;

use anyhow::Context as _;
use relay_broker::{Broker, Status};
use relay_service::{Component, Context};
use relay_store::Store;

pub use config::Config;

use crate::{delivery::Workshop, fleet::Fleet, metrics::Metrics};

/// Delivers until `context` shuts down, then finishes the attempts under way.
///
/// # Errors
/// It cannot start: no root certificates, or its metrics are registered twice.
pub async fn run(config: &Config, context: &Context, broker: &Broker, store: &Store) -> anyhow::Result<()> {
    let workshop = Workshop {
        client: post::client().context("could not set up the HTTP client")?,
        metrics: Metrics::register(&context.registry)?,
        max_event_bytes: config.max_event_bytes,
        deliverer: config.signature(),
    };
    let fleet = Fleet::new(workshop, store.clone(), context.health.component("store"));
    let workshop = fleet.workshop();
    tokio::select! {
        () = fleet.run(broker, config, &context.shutdown) => {}
        () = backlog::watch(broker, store, &workshop.metrics, config) => {}
        () = tell_health(broker, context.health.component("broker")) => {}
    }
    Ok(())
}

/// Never returns while the fleet runs: what ends the process is the fleet.
async fn tell_health(broker: &Broker, component: Component) {
    let mut status = broker.status();
    loop {
        match &*status.borrow_and_update() {
            Status::Up => component.ready(),
            Status::Blocked => {
                component.not_ready("the broker takes no publishes because of a memory or disk alarm")
            }
            Status::Down(why) => component.not_ready(why.clone()),
        };
        if status.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
