//! `relay-gateway`: takes events and endpoints over HTTP.

use std::process::ExitCode;

use clap::Parser;
use relay_broker::Broker;
use relay_gateway::Config;
use relay_service::{Context, ServiceArgs};
use relay_store::Store;

/// Takes events over HTTP and publishes them, and manages the endpoints they are delivered to.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let Args { config, service } = Args::parse();
    relay_service::run("relay-gateway", &service, |context| serve(config, context))
}

async fn serve(config: Config, context: Context) -> anyhow::Result<()> {
    let listener = config.bind().await?;
    let store = Store::open(&config.store).await?;
    let metrics = relay_broker::Metrics::register(&context.registry)?;
    let broker = Broker::start(config.broker("relay-gateway"), Some(metrics));
    relay_gateway::run(&config, &context, &broker, &store, listener).await?;
    broker.close().await;
    Ok(())
}
