//! The log: events and attempts are taken from the broker, written into the store in batches, and
//! forgotten when they are old enough.

mod aside;
mod batch;
mod config;
mod forget;
mod keeper;
mod lag;
mod metrics;
mod news;
mod parts;
mod record;
mod routes;
mod take;
mod write;

use relay_broker::{Broker, Status};
use relay_service::Context;
use relay_store::Store;

pub use config::Config;

use crate::{keeper::Keeper, lag::Lag, metrics::Metrics, record::Recorder, routes::Routes};

/// Its name among the parts of a process, which says when it has begun.
pub const PART: &str = "recorder";

/// Records until `context` shuts down, then finishes the batch under way.
///
/// # Errors
/// It cannot start: its metrics are registered twice.
pub async fn run(config: &Config, context: &Context, broker: &Broker, store: &Store) -> anyhow::Result<()> {
    let metrics = Metrics::register(&context.registry)?;
    let lag = Lag::default();
    let recorder = Recorder {
        config: config.clone(),
        keeper: Keeper::new(store.clone(), context.health.component("store"), metrics.clone()),
        routes: Routes::new(store.clone()),
        metrics: metrics.clone(),
        lag: lag.clone(),
    };
    let broker_health = context.health.component("broker");
    context.health.begun(PART);
    tokio::select! {
        () = recorder.run(broker, &context.shutdown) => {}
        () = forget::forget_for_ever(store, broker, config, &metrics) => {}
        () = lag.tell(&metrics.lag) => {}
        () = broker_health.follow(broker.status(), Status::trouble) => {}
    }
    Ok(())
}
