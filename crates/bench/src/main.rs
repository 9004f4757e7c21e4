//! Figures of the whole relay: real processes, a real broker, and what a figure is compared with
//! measured in the same run.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on panics")]

mod cpu;
mod load;
mod recorder;

use clap::{Parser, Subcommand};

/// Measures the relay. Build it, and the relay, in release mode.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Deliveries a second to one endpoint, with a recorder and without
    Recorder(recorder::Args),
}

#[tokio::main]
async fn main() {
    match Args::parse().scenario {
        Scenario::Recorder(args) => recorder::run(&args).await,
    }
}
