//! Everything, running, from a fresh checkout.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::run::{Failure, cargo, step, target};
use crate::servers::{self, RABBITMQ};

/// Becomes `relay up` with these arguments; comes back only if that fails.
pub(crate) fn up(arguments: &[String]) -> Result<(), Failure> {
    if env::var_os("RELAY_AMQP_URL").is_none() {
        servers::ensure(&RABBITMQ)?;
    }
    let build = ["build", "--release", "--package", "relay", "--bin", "relay"];
    step("build", &mut cargo(&build))?;
    let relay = target().join("release/relay");
    println!("==> {} up", relay.display());
    // In its place, so that signals go straight to it.
    let error = Command::new(&relay).arg("up").args(arguments).exec();
    Err(Failure::new(format!("cannot run {}: {error}", relay.display())))
}
