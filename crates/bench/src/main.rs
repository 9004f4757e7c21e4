//! Figures of the whole relay: real processes, a real broker, and what a figure is compared with
//! measured in the same run.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on panics")]

mod cpu;
mod floor;
mod load;
mod recorder;
mod throughput;

use clap::{Parser, Subcommand};

/// Measures the relay. Build it, and the relay, in release mode.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Deliveries a second against the floor, by every door, and to ten endpoints
    Throughput(throughput::Args),
    /// Deliveries a second to one endpoint, with a recorder and without
    Recorder(recorder::Args),
}

#[tokio::main]
async fn main() {
    relay_service::install_crypto();
    match Args::parse().scenario {
        Scenario::Throughput(args) => throughput::run(&args).await,
        Scenario::Recorder(args) => recorder::run(&args).await,
    }
}
