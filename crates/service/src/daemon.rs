use std::{error::Error, io::Write as _, net::SocketAddr, process::ExitCode};

use anyhow::Context as _;
use prometheus::Registry;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    Component, Health, ServiceArgs, bind, install_crypto, logging, metrics, serve, shutdown_on_signals,
};

/// The exit code of a wrong filter of the log, the same as of other wrong settings.
const WRONG_USAGE: u8 = 2;

/// What a daemon's library is given to work with.
#[derive(Debug, Clone)]
pub struct Context {
    /// For its metrics.
    pub registry: Registry,
    /// For what it needs to be ready.
    pub health: Health,
    /// Cancelled when it is to finish what is under way and return.
    pub shutdown: CancellationToken,
    /// Where `/live`, `/ready` and `/metrics` are served.
    pub metrics_address: SocketAddr,
}

impl Context {
    /// Opens what the process cannot begin without, and is not ready until then; `None` if told to stop
    /// first. `open` tries until it is there, and says once why it is not.
    ///
    /// # Errors
    /// It will never be there.
    pub async fn open<T, E, F>(
        &self,
        what: &'static str,
        open: impl FnOnce(Box<dyn Fn(&E) + Send + Sync>) -> F,
    ) -> anyhow::Result<Option<T>>
    where
        E: Error + Send + Sync + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let health = self.health.component(what);
        let on_wait = {
            let health = health.clone();
            move |error: &E| {
                health.not_ready(error.to_string());
                let error = error as &dyn Error;
                warn!(error, "the {what} cannot be opened; waiting until it can");
            }
        };
        tokio::select! {
            () = self.shutdown.cancelled() => Ok(None),
            opened = open(Box::new(on_wait)) => {
                let opened = opened?;
                health.ready();
                Ok(Some(opened))
            }
        }
    }
}

/// A daemon's whole `main`: a runtime, the log, and [`supervise`], to which `parts` are passed on. An error is
/// said once, with all its causes. Exits with 2 if the filter of the log does not parse, with 1 if anything else
/// fails.
pub fn run<F, P>(name: &str, parts: &[&'static str], args: &ServiceArgs, program: F) -> ExitCode
where
    F: FnOnce(Context) -> P,
    P: Future<Output = anyhow::Result<()>>,
{
    let wrong_usage = logging::filter(&args.log.log_filter).is_err();
    if let Err(error) = logging::init(&args.log) {
        let _ = writeln!(std::io::stderr(), "{name}: {error:#}");
        return match wrong_usage {
            true => ExitCode::from(WRONG_USAGE),
            false => ExitCode::FAILURE,
        };
    }
    let ended = Runtime::new()
        .context("could not start the runtime")
        .and_then(|runtime| {
            let ended = runtime.block_on(supervise(name, parts, args, program));
            // What mattered was waited for; a thread that still looks up a name does not.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{name} failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `program` until it returns, with signals that shut it down, and its health and metrics
/// served from before it starts until after it has drained. It is not ready before each of `parts` says
/// that it has begun ([`Health::begun`]), nor while it drains.
///
/// # Errors
/// The metrics' address cannot be listened on, or the program failed.
pub async fn supervise<F, P>(
    name: &str,
    parts: &[&'static str],
    args: &ServiceArgs,
    program: F,
) -> anyhow::Result<()>
where
    F: FnOnce(Context) -> P,
    P: Future<Output = anyhow::Result<()>>,
{
    install_crypto();
    let shutdown = shutdown_on_signals();
    let listener = bind(args.metrics_listen, "--metrics-listen").await?;
    let address = listener
        .local_addr()
        .context("could not read the metrics' address")?;
    if !address.ip().is_loopback() {
        warn!(%address, "metrics and health are readable without a token by all who reach this address");
    }
    let context = Context {
        registry: metrics::registry(),
        health: Health::default(),
        shutdown,
        metrics_address: address,
    };
    for part in parts {
        context.health.expect(part);
    }
    let served = CancellationToken::new();
    let server = tokio::spawn(serve(
        listener,
        context.registry.clone(),
        context.health.clone(),
        served.clone(),
    ));
    let process = context.health.component("process");
    process.ready();
    tokio::spawn(say_draining(process, context.shutdown.clone()));
    info!(version = env!("CARGO_PKG_VERSION"), metrics = %address, "{name} starts");
    program(context).await?;
    served.cancel();
    server.await.context("the metrics' server panicked")??;
    info!("{name} ended");
    Ok(())
}

async fn say_draining(process: Component, shutdown: CancellationToken) {
    shutdown.cancelled().await;
    process.not_ready("draining");
}
