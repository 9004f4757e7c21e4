//! Which `rabbitmq-server` to run.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::places::{installed, is_runnable, on_path};

/// The command that was asked for, or else the installed server.
pub(crate) fn find(asked: Option<&Path>) -> Result<PathBuf, Error> {
    match asked {
        Some(server) => check(server),
        None => installed().ok_or(Error::NoServer),
    }
}

fn check(server: &Path) -> Result<PathBuf, Error> {
    let bad = |problem| Error::BadServer {
        server: server.to_owned(),
        problem,
    };
    if server.components().count() == 1 {
        return on_path(server).next().ok_or_else(|| bad("not on the PATH"));
    }
    if !server.exists() {
        return Err(bad("not there"));
    }
    if !is_runnable(server) {
        return Err(bad("not an executable file"));
    }
    // The server runs in another working directory, and finds its libraries by its name.
    std::path::absolute(server).map_err(Error::file("find", server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_not_there_is_named_in_the_error() {
        let error = find(Some(Path::new("/nowhere/rabbitmq-server"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/rabbitmq-server"));
        assert!(error.to_string().contains("RELAY_RABBITMQ_SERVER"));
    }

    #[test]
    fn a_folder_is_no_server() {
        let error = find(Some(Path::new("/usr/lib"))).unwrap_err();
        assert!(error.to_string().contains("not an executable file"));
    }

    #[test]
    fn a_bare_name_is_looked_up_on_the_path() {
        let found = find(Some(Path::new("sh"))).unwrap();
        assert!(found.is_absolute() && found.ends_with("sh"));
    }
}
