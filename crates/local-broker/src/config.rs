use std::fmt;
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
    /// Its place in a cluster; `None` is a broker of its own. The same for every start in the folder.
    pub member: Option<Member>,
}

/// What makes a broker one of several nodes. Which nodes those are is said in [`Config::settings`], by
/// `cluster_formation`.
#[derive(Clone)]
pub struct Member {
    /// Its name, such as `one@localhost`.
    pub node: String,
    /// Where the `epmd` listens that all of them share. It must outlive them.
    pub epmd_port: u16,
    /// What they know each other by, and the password of their user: letters and digits.
    pub secret: String,
}

impl fmt::Debug for Member {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("node", &self.node)
            .field("epmd_port", &self.epmd_port)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// The usual broker, in this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            server: None,
            start_limit: Duration::from_secs(60),
            settings: String::new(),
            member: None,
        }
    }
}
