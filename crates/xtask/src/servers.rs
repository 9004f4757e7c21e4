//! Installing the servers that are run here, and what else the tests run, where they are missing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::places::on_path;
use crate::run::{Failure, step, succeeds};
use crate::{places, postgres_places};

const INSTALL: &str = include_str!("install.sh");

/// A server, and how to come by it.
pub(crate) struct Server {
    /// Debian's and Ubuntu's package, as the script knows it.
    package: &'static str,
    /// Names another one than the installed.
    variable: &'static str,
    installed: fn() -> Option<PathBuf>,
    /// What people do where the script is of no use.
    by_hand: &'static str,
}

/// What everything stands on.
pub(crate) const RABBITMQ: Server = Server {
    package: "rabbitmq-server",
    variable: "RELAY_RABBITMQ_SERVER",
    installed: places::installed,
    by_hand: "\
  Homebrew        brew install rabbitmq
  Fedora, RHEL    dnf install rabbitmq-server
  Arch            pacman -S rabbitmq
  Alpine          apk add rabbitmq-server
then run this again; or name a server in RELAY_RABBITMQ_SERVER, or a running broker in RELAY_AMQP_URL",
};

/// What only the tests need.
pub(crate) const POSTGRESQL: Server = Server {
    package: "postgresql",
    variable: "RELAY_POSTGRES_BIN",
    installed: postgres_places::installed,
    by_hand: "\
  Homebrew        brew install postgresql
  Fedora, RHEL    dnf install postgresql-server
  Arch            pacman -S postgresql
  Alpine          apk add postgresql
then run this again; or name the folder of `postgres`, `initdb` and `psql` in RELAY_POSTGRES_BIN",
};

/// The browser that the journeys open a page in. Its driver brings it.
pub(crate) const CHROMIUM: Server = Server {
    package: "chromium-driver",
    variable: "RELAY_CHROMEDRIVER",
    installed: chromedriver,
    by_hand: "\
  Homebrew        brew install --cask google-chrome chromedriver
  Fedora, RHEL    dnf install chromium chromedriver
  Arch            pacman -S chromium
  Alpine          apk add chromium chromium-chromedriver
then run this again; or name a chromedriver in RELAY_CHROMEDRIVER, as on Ubuntu, which has no such package",
};

/// The program that runs others' receivers, and clients in TypeScript.
pub(crate) const NODE: Server = Server {
    package: "nodejs",
    variable: "RELAY_NODE",
    installed: node,
    by_hand: "\
  Homebrew        brew install node
  Fedora, RHEL    dnf install nodejs
  Arch            pacman -S nodejs
  Alpine          apk add nodejs
then run this again; or name another `node` in RELAY_NODE",
};

fn node() -> Option<PathBuf> {
    on_path(Path::new("node")).next()
}

/// The program that installs the generator of a client in TypeScript.
pub(crate) const NPM: Server = Server {
    package: "npm",
    variable: "RELAY_NPM",
    installed: npm,
    by_hand: "\
  Homebrew        brew install node
  Fedora, RHEL    dnf install nodejs-npm
  Arch            pacman -S npm
  Alpine          apk add npm
then run this again; or name another `npm` in RELAY_NPM",
};

/// Python with venv, which makes a client of the API's description.
pub(crate) const PYTHON: Server = Server {
    package: "python3-venv",
    variable: "RELAY_PYTHON",
    installed: python,
    by_hand: "\
  Homebrew        brew install python
  Fedora, RHEL    dnf install python3
  Arch            pacman -S python
  Alpine          apk add python3
then run this again; or name another `python3` with venv in RELAY_PYTHON",
};

fn npm() -> Option<PathBuf> {
    on_path(Path::new("node")).next()?;
    on_path(Path::new("npm")).next()
}

/// Debian's comes without what environments of one's own need.
fn python() -> Option<PathBuf> {
    let python = on_path(Path::new("python3")).next()?;
    let mut import = Command::new(&python);
    succeeds(import.args(["-c", "import ensurepip, venv"])).then_some(python)
}

fn chromedriver() -> Option<PathBuf> {
    on_path(Path::new("chromedriver")).next()
}

/// Sees to it that there is a server to run, from the system's packages.
pub(crate) fn ensure(server: &Server) -> Result<(), Failure> {
    let Server { package, by_hand, .. } = server;
    if env::var_os(server.variable).is_some() || (server.installed)().is_some() {
        return Ok(());
    }
    if !has("apt-get") {
        return Err(Failure::new(format!(
            "{package} is missing, and only apt-get is known here to install it. \
             Install it with one of\n{by_hand}"
        )));
    }
    step(&format!("install {package}"), &mut install(package)?).map_err(|failure| {
        let reason = format!("{}. By hand, it is one of\n{by_hand}", failure.reason);
        Failure { reason, ..failure }
    })?;
    match (server.installed)() {
        Some(_) => Ok(()),
        None => Err(Failure::new(format!("installed {package}, but cannot find it"))),
    }
}

fn install(package: &str) -> Result<Command, Failure> {
    let mut command = if is_root() {
        Command::new("sh")
    } else if has("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg("sh");
        sudo
    } else {
        return Err(Failure::new(format!(
            "{package} is missing, and it takes root or sudo to install it. As root, run\n  \
             apt-get install --no-install-recommends {package}\n\
             then run this again"
        )));
    };
    command.args(["-c", INSTALL, "install.sh", package]);
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
