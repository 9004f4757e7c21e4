//! Endpoints, through the relay's HTTP API.

mod add;
mod change;
mod fields;
mod recover;
mod retry;
mod rotate;
mod show;
mod stats;

use clap::{Args, Subcommand};
use relay_event::EndpointId;

use crate::{
    api::{ApiError, long_after},
    data::DataArgs,
    usage::stopped,
};

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// Add an endpoint, and print its id and its secret
    Add(add::AddArgs),
    /// List the endpoints
    List(show::ListArgs),
    /// Show an endpoint
    Show(show::ShowArgs),
    /// Change an endpoint: what is not named stays
    Update(change::UpdateArgs),
    /// Send nothing to an endpoint until it is resumed; its events wait
    #[command(after_help = "Example: relay endpoint pause ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70")]
    Pause(One),
    /// Send to a paused or disabled endpoint again
    #[command(after_help = "Example: relay endpoint resume ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70")]
    Resume(One),
    /// Remove an endpoint; what waits for it goes to the dead-letter queue
    #[command(after_help = "Example: relay endpoint remove ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70")]
    Remove(One),
    /// Sign with a new secret from now on, and with the old one for a while
    RotateSecret(rotate::RotateArgs),
    /// Show what came of an endpoint's attempts lately, and what waits for it
    Stats(stats::StatsArgs),
    /// Send an endpoint the events it missed: those that are dead for it, or never were on their way
    Recover(recover::RecoverArgs),
    /// Try an endpoint's retries now, and what is held for it
    Retry(retry::RetryArgs),
}

/// One endpoint.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The endpoint's id
    #[arg(value_name = "ID", value_parser = endpoint_id)]
    id: EndpointId,
    #[command(flatten)]
    data: DataArgs,
}

pub(crate) async fn run(command: EndpointCommand) -> anyhow::Result<()> {
    match command {
        EndpointCommand::Add(args) => add::run(args).await,
        EndpointCommand::List(args) => show::list(args).await,
        EndpointCommand::Show(args) => show::show(args).await,
        EndpointCommand::Update(args) => change::update(args).await,
        EndpointCommand::Pause(one) => change::pause(one).await,
        EndpointCommand::Resume(one) => change::resume(one).await,
        EndpointCommand::Remove(one) => change::remove(one).await,
        EndpointCommand::RotateSecret(args) => rotate::run(args).await,
        EndpointCommand::Stats(args) => stats::run(args).await,
        EndpointCommand::Recover(args) => recover::run(args).await,
        EndpointCommand::Retry(args) => retry::run(args).await,
    }
}

const LIST_HINT: &str = "`relay endpoint list` shows the endpoints";

pub(crate) fn endpoint_id(text: &str) -> Result<EndpointId, String> {
    text.parse()
        .map_err(|refused: relay_event::Invalid| format!("{}; {LIST_HINT}", refused.problem))
}

/// Waits for the answer to a change, or says at a signal that the change may have been made; `so` says what
/// that means.
async fn changed<T>(answer: impl Future<Output = anyhow::Result<T>>, so: &str) -> anyhow::Result<T> {
    let stop = relay_service::shutdown_on_signals();
    tokio::select! {
        biased;
        answer = answer => answer,
        () = long_after(&stop) => Err(stopped(format!("stopped; {so}"))),
    }
}

/// A failed request about one endpoint, saying how to find it if it is not there.
fn about_one(error: ApiError) -> anyhow::Error {
    error.or_missing(LIST_HINT)
}
