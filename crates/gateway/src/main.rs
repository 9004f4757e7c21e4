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
    let parts = [relay_gateway::PART];
    relay_service::run("relay-gateway", &parts, &service, |context| {
        serve(config, context)
    })
}

async fn serve(config: Config, context: Context) -> anyhow::Result<()> {
    config.guard(config.listen)?;
    let Some(store) = context
        .open("store", |on_wait| Store::open_when_there(&config.store, on_wait))
        .await?
    else {
        return Ok(()); // Told to stop before there was a store.
    };
    let listener = config.bind().await?; // Only now, for a connection that is not served would hang.
    let metrics = relay_broker::Metrics::register(&context.registry)?;
    let broker = Broker::start(config.broker("relay-gateway"), Some(metrics));
    let running = relay_gateway::run(&config, &context, &broker, &store, listener);
    broker.serve(running).await?;
    broker.close().await;
    Ok(())
}
