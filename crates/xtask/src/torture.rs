//! Proof that nothing is lost under faults.

use std::process::Command;

use crate::run::{Failure, cargo, step, target};
use crate::servers::{self, POSTGRESQL, RABBITMQ};

/// Short runs that everybody's tests can bear: on one node and PostgreSQL, and on three and SQLite.
const SHORT: [&[&str]; 2] = [
    &["--seed", "1", "--minutes", "1"],
    &["--seed", "12", "--minutes", "1", "--cluster"],
];

/// Builds everything and tortures it; `arguments` are its own.
pub(crate) fn torture(arguments: &[String]) -> Result<(), Failure> {
    servers::ensure(&RABBITMQ)?;
    servers::ensure(&POSTGRESQL)?;
    step("build", &mut cargo(&["build", "--workspace", "--bins"]))?;
    step("torture", program().args(arguments))
}

/// With what is built already.
pub(crate) fn short() -> Result<(), Failure> {
    SHORT
        .iter()
        .try_for_each(|arguments| step("torture", program().args(*arguments)))
}

fn program() -> Command {
    Command::new(target().join("debug/relay-torture"))
}
