//! Figures of the whole relay.

use std::process::Command;

use crate::run::{Failure, cargo, step, target};
use crate::servers::{self, POSTGRESQL, RABBITMQ};

/// Builds everything in release mode and runs the benchmark; `arguments` are its own.
pub(crate) fn bench(arguments: &[String]) -> Result<(), Failure> {
    servers::ensure(&RABBITMQ)?;
    servers::ensure(&POSTGRESQL)?;
    step(
        "build",
        &mut cargo(&["build", "--release", "--workspace", "--bins"]),
    )?;
    let program = target().join("release/relay-bench");
    step("bench", Command::new(program).args(arguments))
}
