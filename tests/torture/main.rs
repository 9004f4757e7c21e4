//! A proof that nothing is lost: producers publish while everything that can fail does, and in the end
//! every event is accounted for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod balance;
mod cast;
mod changes;
mod crowd;
mod evidence;
mod faults;
mod ledger;
mod load;
mod nodes;
mod plan;
mod report;
mod run;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Parser;

use crate::{plan::Plan, run::run};

/// Publishes while processes, servers and wires fail by a schedule, and accounts for every event.
#[derive(Parser)]
#[command(name = "relay-torture")]
pub(crate) struct Args {
    /// What decides the schedule and the events; odd seeds use PostgreSQL, even ones SQLite [default: by
    /// the clock]
    #[arg(long)]
    seed: Option<u64>,

    /// For how long things fail
    #[arg(long, default_value_t = 1.0, value_parser = minutes)]
    minutes: f64,

    /// A broker of three nodes
    #[arg(long)]
    cluster: bool,

    /// Events a second of all producers together
    #[arg(long, default_value_t = 100.0)]
    rate: f64,

    /// Print the schedule and end
    #[arg(long)]
    plan: bool,

    /// Write the report to this file, in JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// What the relay's processes write into their logs, as RELAY_LOG
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,

    /// Keep the processes' logs also if all is well
    #[arg(long)]
    keep: bool,
}

fn minutes(text: &str) -> Result<f64, &'static str> {
    let minutes = text
        .parse()
        .ok()
        .filter(|minutes| (0.1..=10_000.0).contains(minutes));
    minutes.ok_or("must be a number of minutes from 0.1")
}

fn main() -> ExitCode {
    let args = Args::parse();
    let by_the_clock = || {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.as_secs())
    };
    let seed = args.seed.unwrap_or_else(by_the_clock);
    let plan = Plan::new(seed, Duration::from_secs_f64(args.minutes * 60.0), args.cluster);
    if args.plan {
        for strike in &plan.strikes {
            println!("{:>8.1} s  {strike}", strike.at.as_secs_f64());
        }
        return ExitCode::SUCCESS;
    }
    relay_service::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let report = runtime.block_on(run(&plan, &args));
    println!("{report}");
    if let Some(file) = &args.json {
        let json = serde_json::to_vec_pretty(&report).unwrap();
        std::fs::write(file, json).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    if report.passed {
        println!("\nnothing is lost");
        return ExitCode::SUCCESS;
    }
    let cluster = if args.cluster { " --cluster" } else { "" };
    println!(
        "\nagain: cargo xtask torture --seed {seed} --minutes {}{cluster}",
        args.minutes
    );
    ExitCode::FAILURE
}
