//! What is done with this repository, by name: `cargo xtask <task>`.

mod bench;
mod check;
mod fuzz;
mod run;
mod servers;
mod test;
mod torture;
mod up;

#[path = "../../local-broker/src/places.rs"]
mod places;

#[path = "../../testkit/src/postgres/places.rs"]
mod postgres_places;

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use run::Failure;

const HELP: &str = "\
cargo xtask <task>

  up [arguments]   install RabbitMQ if it is missing, build, and run everything;
                   the arguments are those of `relay up`
  check [steps]    format, lints, documentation and the tests of each crate;
                   or only the named steps: fmt, clippy, doc, unit;
                   for unit, install RabbitMQ and PostgreSQL if they are missing
  test             everything in check, then the journeys through the real processes
                   and two short runs of torture; installs Chromium, Node, npm and
                   Python's venv (Debian: chromium-driver, nodejs, npm, python3-venv)
                   if they are missing
  torture [options]
                   publish while processes, servers and wires fail, and account for
                   every event: --seed S, --minutes M, --cluster; --help lists more
  fuzz [targets] [--minutes M]
                   give what parses strangers' bytes random ones, one minute each unless
                   told otherwise; installs cargo-fuzz into the target folder
  bench [scenario] build in release mode and measure; --help lists the scenarios

environment:
  RELAY_AMQP_URL          up: use this broker, so RabbitMQ need not be installed
  RELAY_RABBITMQ_SERVER   run this rabbitmq-server instead of the installed one
  RELAY_POSTGRES_BIN      check, test, torture, bench: use the PostgreSQL in this folder
  RELAY_CHROMEDRIVER      test: use the Chromium of this chromedriver
  RELAY_NODE              test: use this node
  RELAY_NPM               test: use this npm
  RELAY_PYTHON            test: use this python3
  CARGO_TARGET_DIR        as cargo understands it";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.is_empty() {
        println!("{HELP}");
        return ExitCode::FAILURE;
    }
    let task = arguments.remove(0);
    let started = Instant::now();
    let outcome = match task.as_str() {
        "up" => up::up(&arguments),
        "bench" => bench::bench(&arguments),
        "check" => check::check(&arguments),
        "torture" => torture::torture(&arguments),
        "fuzz" => fuzz::fuzz(&arguments),
        "test" if arguments.is_empty() => test::test(),
        "help" | "-h" | "--help" => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}\n");
            let given = env::args().skip(1).collect::<Vec<_>>().join(" ");
            Err(Failure::usage(format!("there is no `{given}`")))
        }
    };
    finish(&task, started, outcome)
}

fn finish(task: &str, started: Instant, outcome: Result<(), Failure>) -> ExitCode {
    let seconds = started.elapsed().as_secs();
    match outcome {
        Ok(()) => {
            println!("==> {task} passed in {seconds} s");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("==> {task} failed after {seconds} s: {}", failure.reason);
            ExitCode::from(failure.code)
        }
    }
}
