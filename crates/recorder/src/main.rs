//! `relay-recorder`: takes events and attempts from the broker and writes them into the store.

use std::process::ExitCode;

use clap::Parser;
use relay_broker::Broker;
use relay_recorder::Config;
use relay_service::{Context, ServiceArgs};
use relay_store::Store;

/// Writes events and attempts into the store, and forgets the old ones.
#[derive(Parser)]
#[command(version, mut_arg("metrics_listen", |arg| arg.default_value(METRICS_LISTEN)))]
struct Args {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    service: ServiceArgs,
}

/// So that a gateway, a deliverer and a recorder can share a host as they are.
const METRICS_LISTEN: &str = "127.0.0.1:7403";

fn main() -> ExitCode {
    let Args { config, service } = Args::parse();
    let parts = [relay_recorder::PART];
    relay_service::run("relay-recorder", &parts, &service, |context| {
        record(config, context)
    })
}

async fn record(config: Config, context: Context) -> anyhow::Result<()> {
    let Some(store) = context
        .open("store", |on_wait| Store::open_when_there(&config.store, on_wait))
        .await?
    else {
        return Ok(()); // Told to stop before there was a store.
    };
    let metrics = relay_broker::Metrics::register(&context.registry)?;
    let broker = Broker::start(config.broker("relay-recorder"), Some(metrics));
    let running = relay_recorder::run(&config, &context, &broker, &store);
    broker.serve(running).await?;
    broker.close().await;
    Ok(())
}
