//! The log: events, attempts and held deliveries are taken from the broker, written into the store in batches, and
//! forgotten when they are old enough. What is held is sent on when its endpoint has room.

mod aside;
mod batch;
mod config;
mod dispatcher;
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

pub use config::{Config, DispatchTimes};

use crate::{
    dispatcher::Dispatcher, keeper::Keeper, lag::Lag, metrics::Metrics, record::Recorder, routes::Routes,
};

/// Its name among the parts of a process, which says when it has begun.
pub const PART: &str = "recorder";

/// Records until `context` shuts down, then finishes the batch under way.
///
/// # Errors
/// It cannot start: its metrics are registered twice.
pub async fn run(config: &Config, context: &Context, broker: &Broker, store: &Store) -> anyhow::Result<()> {
    let metrics = Metrics::register(&context.registry)?;
    let lag = Lag::default();
    let keeper = Keeper::new(store.clone(), context.health.component("store"), metrics.clone());
    let dispatcher = Dispatcher {
        store: store.clone(),
        metrics: metrics.clone(),
        wake: keeper.held_changed(),
        recheck: config.recheck,
        times: config.dispatch,
    };
    let recorder = Recorder {
        config: config.clone(),
        keeper,
        routes: Routes::new(store.clone()),
        metrics: metrics.clone(),
        lag: lag.clone(),
    };
    let broker_health = context.health.component("broker");
    context.health.begun(PART);
    tokio::select! {
        _ = async { tokio::join!(recorder.run(broker, &context.shutdown), dispatcher.run(broker, &context.shutdown)) } => {}
        () = forget::forget_for_ever(store, broker, config, &metrics) => {}
        () = lag.tell(&metrics.lag) => {}
        () = broker_health.follow(broker.status(), Status::trouble) => {}
    }
    Ok(())
}
