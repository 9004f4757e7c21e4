//! What is checked before every commit.

use std::process::Command;

use crate::run::{Failure, cargo, step, succeeds};
use crate::servers::{self, POSTGRESQL, RABBITMQ};

/// Cheapest first.
const STEPS: [(&str, Step); 4] = [("fmt", fmt), ("clippy", clippy), ("doc", doc), ("unit", unit)];

type Step = fn() -> Result<(), Failure>;

/// The named steps, or all of them.
pub(crate) fn check(names: &[String]) -> Result<(), Failure> {
    if let Some(unknown) = names.iter().find(|name| !is_step(name)) {
        return Err(Failure::usage(format!(
            "check has no step `{unknown}`: it has fmt, clippy, doc and unit"
        )));
    }
    STEPS
        .iter()
        .filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name))
        .try_for_each(|(_, run)| run())
}

fn is_step(name: &str) -> bool {
    STEPS.iter().any(|(step, _)| *step == name)
}

fn fmt() -> Result<(), Failure> {
    component("rustfmt", "fmt")?;
    step("fmt", &mut cargo(&["fmt", "--all", "--check"]))
}

fn clippy() -> Result<(), Failure> {
    component("clippy", "clippy")?;
    let lint = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step("clippy", &mut cargo(&lint))
}

fn doc() -> Result<(), Failure> {
    let mut document = cargo(&["doc", "--workspace", "--no-deps"]);
    step("doc", document.env("RUSTDOCFLAGS", "-D warnings"))
}

/// The tests of each crate. Some of them run the real servers.
fn unit() -> Result<(), Failure> {
    servers::ensure(&RABBITMQ)?;
    servers::ensure(&POSTGRESQL)?;
    step(
        "unit",
        &mut cargo(&["test", "--workspace", "--exclude", "relay-tests"]),
    )
}

/// The smallest Rust toolchain comes without the formatter and the lints.
fn component(name: &str, subcommand: &str) -> Result<(), Failure> {
    if succeeds(&mut cargo(&[subcommand, "--version"])) {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    step(
        &format!("{name} is missing: rustup component add {name}"),
        rustup.args(["component", "add", name]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_step_runs_nothing_and_is_named() {
        let failure = check(&["fmt".to_owned(), "nonsense".to_owned()]).err().unwrap();
        assert!(failure.reason.contains("nonsense"));
        assert_eq!(failure.code, 2);
    }
}
