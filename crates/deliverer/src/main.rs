//! `relay-deliverer`: takes events from the broker and posts them, signed.

use std::process::ExitCode;

use clap::Parser;
use relay_broker::Broker;
use relay_deliverer::Config;
use relay_service::{Context, ServiceArgs};
use relay_store::Store;

/// Posts events to their endpoints as signed webhooks, and retries through the broker.
#[derive(Parser)]
#[command(version, mut_arg("metrics_listen", |arg| arg.default_value(METRICS_LISTEN)))]
struct Args {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    service: ServiceArgs,
}

/// So that a gateway and a deliverer can share a host as they are.
const METRICS_LISTEN: &str = "127.0.0.1:7402";

fn main() -> ExitCode {
    let Args { config, service } = Args::parse();
    let parts = [relay_deliverer::PART];
    relay_service::run("relay-deliverer", &parts, &service, |context| {
        deliver(config, context)
    })
}

async fn deliver(config: Config, context: Context) -> anyhow::Result<()> {
    let Some(store) = context
        .open("store", |on_wait| Store::open_when_there(&config.store, on_wait))
        .await?
    else {
        return Ok(()); // Told to stop before there was a store.
    };
    let metrics = relay_broker::Metrics::register(&context.registry)?;
    let broker = Broker::start(config.broker("relay-deliverer"), Some(metrics));
    let running = relay_deliverer::run(&config, &context, &broker, &store);
    broker.serve(running).await?;
    broker.close().await;
    Ok(())
}
