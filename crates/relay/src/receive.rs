//! A receiver of webhooks for trying things out: it checks every signature, shows every delivery,
//! and misbehaves on demand.

mod check;
mod delivery;
mod report;
mod secrets;
mod seen;
mod signed;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum::{Router, extract::DefaultBodyLimit};
use clap::Args;
use relay_event::Secret;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::{check::Checker, delivery::Receiver, report::Report, secrets::Relay};
use crate::{data::DataArgs, output, usage::Usage};

/// Far above what the relay sends unless it is told otherwise.
const MAX_BODY: usize = 64 << 20;

/// How long deliveries under way may hold up the end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay receive --port 9000
  relay receive --port 9000 --fail-first 2
  relay receive --port 9000 --status 500 --json | jq .body")]
pub(crate) struct ReceiveArgs {
    /// Where to listen on 127.0.0.1; 0 takes any free port
    #[arg(long, default_value_t = 9000)]
    port: u16,

    /// A secret that signatures are checked with, as whsec_…; may be repeated [default: those of the
    /// relay's endpoints whose URL points here]
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,

    /// The status every delivery is answered with
    #[arg(long, default_value_t = 200, value_parser = status)]
    status: u16,

    /// Wait before each answer, such as 2s
    #[arg(long, value_name = "DURATION", value_parser = relay_service::args::time_or_none)]
    delay: Option<Duration>,

    /// Answer the first N attempts of each delivery with 500
    #[arg(long, value_name = "N", default_value_t = 0)]
    fail_first: u32,

    /// Print a JSON object with the body for each delivery
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,
}

pub(crate) async fn run(args: ReceiveArgs) -> anyhow::Result<()> {
    let secrets = secrets(&args.secrets)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another --port"))?;
    let address = listener.local_addr().context("cannot read the own address")?;
    let stop = relay_service::shutdown_on_signals();
    output::note(&format!(
        "receiving on http://{address}/ and any path below; Ctrl-C ends"
    ));
    let checker = if secrets.is_empty() {
        Checker::asking(Relay::new(args.data, address.port())).await
    } else {
        Checker::with(secrets)
    };
    let receiver = Arc::new(Receiver::new(
        checker,
        delivery::Behaviour {
            status: args.status,
            delay: args.delay.unwrap_or_default(),
            fail_first: args.fail_first,
        },
        Report::new(args.json),
    ));
    serve(listener, Arc::clone(&receiver), stop).await?;
    receiver.summary();
    Ok(())
}

fn status(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(status @ 200..600) => Ok(status),
        _ => Err("must be a status from 200 to 599".to_owned()),
    }
}

fn secrets(given: &[String]) -> Result<Vec<Secret>, Usage> {
    given
        .iter()
        .map(|text| text.parse().map_err(Usage::of("--secret")))
        .collect()
}

async fn serve(
    listener: TcpListener,
    receiver: Arc<Receiver>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let routes = Router::new()
        .fallback(delivery::receive)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(receiver);
    let serving = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = serving.into_future() => served.context("the receiver failed"),
        () = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        } => Ok(()),
    }
}
