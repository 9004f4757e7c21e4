//! HTTP in: events are taken and published, and endpoints are managed. The log is read, followed, and what is in it
//! is sent again.

mod access;
mod auth;
mod body;
mod census;
mod changes;
mod config;
mod cors;
mod cursor;
mod endpoints;
mod events;
mod feed;
mod fields;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gateway;
mod headers;
mod health;
mod limits;
mod log;
mod memory;
mod metrics;
mod moment;
mod openapi;
mod problem;
mod query;
mod recover;
mod replay;
mod resend;
mod schedules;
mod secrets;
mod server;
mod stats;
mod streams;
mod validators;
mod view;
mod waiting;

use anyhow::Context as _;
use relay_broker::{Broker, Status};
use relay_service::{Context, connections::Server, raise_open_files};
use relay_store::Store;
use tokio::net::TcpListener;

pub use config::{Config, Token};
pub use cors::Origin;
pub use limits::Limits;

use crate::{gateway::Gateway, metrics::Metrics};

/// Its name among the parts of a process, which says when it has begun.
pub const PART: &str = "gateway";

/// Serves until `context` shuts down, then finishes the requests under way.
///
/// # Errors
/// It cannot start: it would listen beyond this machine without a token, or its metrics are
/// registered twice.
pub async fn run(
    config: &Config,
    context: &Context,
    broker: &Broker,
    store: &Store,
    listener: TcpListener,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("could not read the address")?;
    config.guard(address)?;
    raise_open_files();
    let metrics = Metrics::register(&context.registry)?;
    let server = Server::new("gateway", config.limits.connections(), &context.registry)?;
    server.limited().expect(&limits::Limit::ALL);
    let (notes, mut noter) = events::notes(store.clone(), metrics.unnoted.clone());
    let gateway = Gateway::new(
        config.clone(),
        broker.clone(),
        store.clone(),
        notes,
        metrics,
        server.limited().clone(),
        context.shutdown.clone(),
    );
    let broker_health = context.health.component("broker");
    let store_health = context.health.component("store");
    context.health.begun(PART);
    tracing::info!(%address, token = config.token.is_some(), "taking requests");
    tokio::select! {
        () = server::serve(&server, listener, &gateway, &context.shutdown) => {}
        () = census::count_endpoints(&gateway) => {}
        () = noter.run() => {}
        () = gateway.tail.run(broker) => {}
        () = feed::consumers::tell_lags(&gateway) => {}
        () = broker_health.follow(broker.status(), Status::trouble) => {}
        () = health::tell_store(store, store_health) => {}
    }
    gateway.finish().await;
    noter.finish().await;
    Ok(())
}
