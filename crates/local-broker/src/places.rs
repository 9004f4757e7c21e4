//! Where `rabbitmq-server` is, if it is installed.
//!
//! The standard library alone: `xtask` compiles this file too, so that it installs the
//! server exactly when the server would not be found.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where packages put the script itself.
const USUAL: [&str; 5] = [
    "/usr/lib/rabbitmq/bin/rabbitmq-server", // Debian, Fedora, and RabbitMQ's own packages
    "/opt/rabbitmq/sbin/rabbitmq-server",    // the container image
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
    "/home/linuxbrew/.linuxbrew/opt/rabbitmq/sbin/rabbitmq-server",
];

/// Where packages put a wrapper that switches to the system's own user and folders.
const WRAPPED: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The server that runs when none is named.
pub(crate) fn installed() -> Option<PathBuf> {
    USUAL
        .iter()
        .map(PathBuf::from)
        .find(|place| is_runnable(place))
        .or_else(|| on_path("rabbitmq-server".as_ref()).find(|place| !is_wrapper(place)))
}

/// The programs of this name on the PATH, the one that the shell would run first.
pub(crate) fn on_path(name: &Path) -> impl Iterator<Item = PathBuf> {
    let folders: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    folders
        .into_iter()
        .map(move |folder| folder.join(name))
        .filter(|place| is_runnable(place))
}

/// Whether this is a file that can be executed.
pub(crate) fn is_runnable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn is_wrapper(path: &Path) -> bool {
    WRAPPED
        .iter()
        .any(|folder| path.parent() == Some(Path::new(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_wrappers_are_passed_over() {
        assert!(is_wrapper(Path::new("/usr/sbin/rabbitmq-server")));
        assert!(!is_wrapper(Path::new("/usr/local/sbin/rabbitmq-server")));
    }
}
