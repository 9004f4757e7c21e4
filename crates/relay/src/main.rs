//! `relay`, the person's tool of the event relay: runs everything in one process, publishes events,
//! looks into their log and follows it, finds what a receiver missed, manages endpoints, works through
//! dead letters, and receives webhooks to try things out.

mod api;
mod cli;
mod data;
mod deliveries;
mod dlq;
mod endpoint;
mod events;
mod feed;
mod filter;
mod forward;
mod found;
mod listen;
mod listing;
mod output;
mod progress;
mod publish;
mod receive;
mod reconcile;
mod text_files;
mod up;
mod usage;
mod words;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use tokio::runtime::Runtime;

use cli::{Cli, Command};

fn main() -> ExitCode {
    relay_service::install_crypto();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::refuse(&error),
    };
    match cli.command {
        Command::Up(args) => up::run(args),
        other => run(other),
    }
}

fn run(command: Command) -> ExitCode {
    let ended = Runtime::new()
        .context("could not start the runtime")
        .and_then(|runtime| {
            let ended = runtime.block_on(command.run());
            // What mattered was waited for; a thread that still looks up a name does not.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("relay: {}", output::causes(&error)));
            usage::exit_code(&error)
        }
    }
}
