//! The dead-letter queue, on the broker directly: it works while everything else is down.

mod age;
mod drain;
mod filter;
mod list;
mod record;
mod show;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, newest first; they stay in the queue
    List(list::ListArgs),
    /// Show all that is known of an event's dead letters; they stay in the queue
    Show(show::ShowArgs),
    /// Redeliver, export or discard dead letters
    Drain(drain::DrainArgs),
}

pub(crate) async fn run(command: DlqCommand) -> anyhow::Result<()> {
    match command {
        DlqCommand::List(args) => list::run(args).await,
        DlqCommand::Show(args) => show::run(args).await,
        DlqCommand::Drain(args) => drain::run(args).await,
    }
}

const CONNECTION: &str = "relay dlq";
