use std::path::PathBuf;
use std::time::Duration;

/// Where the broker keeps its data, and how it is run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of the broker, made if missing: its data, its log, its ports and its password.
    pub dir: PathBuf,
    /// The `rabbitmq-server` command to run. `None` looks in the usual places.
    ///
    /// A wrapper will do (say, for a server in a chroot), as long as it passes the
    /// environment on, sees `dir` under the same path, and ends with `exec`. Erlang's `epmd`
    /// is run from our own PATH; without one there, the server starts one that stays.
    pub server: Option<PathBuf>,
    /// How long the broker may take until it answers. A large backlog takes a while to recover.
    pub start_limit: Duration,
    /// More lines for `rabbitmq.conf`. They come last, so they win.
    pub settings: String,
}

impl Config {
    /// The usual broker, in this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            server: None,
            start_limit: Duration::from_secs(60),
            settings: String::new(),
        }
    }
}
