//! Figures of the whole relay: real processes, a real broker, and what a figure is compared with
//! measured in the same run. What each scenario does: `crates/bench/README.md`.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on panics")]

mod event;
mod flood;
mod floor;
mod follower;
mod http;
mod machine;
mod numbers;
mod publish;
mod receiver;
mod relay;
mod report;
mod scenario;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum as _};
use report::Report;
use scenario::{Scale, Scenario};

/// Measures the relay. Build it, and the relay, in release mode.
#[derive(Parser)]
struct Args {
    /// What to measure [default: all, one after the other]
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,

    /// Write the figures to this file too, in JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    #[command(flatten)]
    scale: Scale,

    /// Be a stranger that floods the gateway at this address, with the access token in FLOOD_TOKEN
    #[arg(long, value_name = "ADDRESS", hide = true, conflicts_with = "scenarios")]
    flood: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(address) = &args.flood {
        flood::run(address, &std::env::var("FLOOD_TOKEN").unwrap()).await;
        return ExitCode::SUCCESS;
    }
    relay_service::install_crypto();
    let scenarios = match args.scenarios.as_slice() {
        [] => Scenario::value_variants(),
        chosen => chosen,
    };
    let machine = machine::describe(&relay_testkit::private_broker().await);
    let mut report = Report::new(machine);
    for scenario in scenarios {
        let name = scenario.to_possible_value().unwrap().get_name().to_owned();
        println!("==> {name}");
        let began = Instant::now();
        // In a task of its own: one that cannot be measured does not end those after it.
        let outcome = tokio::spawn(scenario.run(args.scale)).await;
        println!("    {name} took {:.0} s", began.elapsed().as_secs_f64());
        report.add(name, outcome.map_err(|error| error.to_string()));
        if let Some(file) = &args.json {
            write(file, &report);
        }
    }
    println!("\n{report}");
    if report.is_whole() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn write(file: &Path, report: &Report) {
    let text = format!("{:#}\n", report.to_json());
    std::fs::write(file, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}
