//! Installing `rabbitmq-server` where it is missing.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::places::{installed, on_path};
use crate::run::{Failure, step};

const INSTALL: &str = include_str!("install-rabbitmq.sh");

const BY_HAND: &str = "\
rabbitmq-server is missing, and only apt-get is known here to install it. Install it with one of
  Homebrew        brew install rabbitmq
  Fedora, RHEL    dnf install rabbitmq-server
  Arch            pacman -S rabbitmq
  Alpine          apk add rabbitmq-server
then run this again; or name a server in RELAY_RABBITMQ_SERVER, or a running broker in RELAY_AMQP_URL";

const AS_ROOT: &str = "\
rabbitmq-server is missing, and it takes root or sudo to install it. As root, run
  apt-get install --no-install-recommends rabbitmq-server
then run this again";

/// Sees to it that there is a server to run, from the system's packages.
pub(crate) fn ensure_server() -> Result<(), Failure> {
    if env::var_os("RELAY_RABBITMQ_SERVER").is_some() || installed().is_some() {
        return Ok(());
    }
    if !has("apt-get") {
        return Err(Failure::new(BY_HAND));
    }
    step("install rabbitmq-server", &mut install()?)?;
    match installed() {
        Some(_) => Ok(()),
        None => Err(Failure::new("installed rabbitmq-server, but cannot find it")),
    }
}

fn install() -> Result<Command, Failure> {
    let mut command = if is_root() {
        Command::new("sh")
    } else if has("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg("sh");
        sudo
    } else {
        return Err(Failure::new(AS_ROOT));
    };
    command.args(["-c", INSTALL]);
    Ok(command)
}

fn has(program: &str) -> bool {
    on_path(Path::new(program)).next().is_some()
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
