//! Running other programs.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Why a task stopped.
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) code: u8,
}

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { reason, code: 1 }
    }

    /// When the arguments make no sense.
    pub(crate) fn usage(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { reason, code: 2 }
    }

    fn of(name: &str, status: ExitStatus) -> Self {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Self {
            reason: format!("{name}: {status}"),
            code: code.unwrap_or(1),
        }
    }
}

/// Says what comes, runs it, and is content only with success.
pub(crate) fn step(name: &str, command: &mut Command) -> Result<(), Failure> {
    println!("==> {name}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::of(name, status)),
        Err(error) => Err(Failure::new(format!(
            "{name}: cannot run {}: {error}",
            command.get_program().display()
        ))),
    }
}

/// Whether a command can be run and succeeds, without a word from it.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The cargo that runs us, in the root of the repository.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    // What the cargo outside says of this package is no news to others: build scripts that look at
    // it would run, and all that stands on them be built, once with it and once without.
    let of_this_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_this_package)) {
        command.env_remove(name);
    }
    command
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target)
}
