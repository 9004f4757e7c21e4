use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why the private broker could not be started, watched or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No server is installed where one is looked for.
    #[error(
        "no rabbitmq-server found: install it (`apt-get install rabbitmq-server`), name its command in \
         RELAY_RABBITMQ_SERVER, or set RELAY_AMQP_URL to use a broker that runs already"
    )]
    NoServer,

    /// The command that was asked for cannot be run.
    #[error(
        "RELAY_RABBITMQ_SERVER names {}, which is {problem}: name a rabbitmq-server command, or leave \
         it unset to use the installed one", server.display()
    )]
    BadServer {
        /// The command, as given.
        server: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// A file or folder of the broker cannot be used.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },

    /// Another process runs a broker in this folder.
    #[error(
        "the broker folder {} is in use by another process: stop that one, or use another folder",
        dir.display()
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
    },

    /// A broker that lost its owner has not ended yet.
    #[error(
        "an earlier broker{} still runs in {} after {limit:?}: stop it, then start again",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), dir.display()
    )]
    StillRunning {
        /// The folder.
        dir: PathBuf,
        /// The process, where known.
        pid: Option<u32>,
        /// How long was waited.
        limit: Duration,
    },

    /// The file with the ports and the password makes no sense.
    #[error(
        "the broker's ports and password in {} cannot be used: {problem}; restore the file, or move \
         the whole folder away to start afresh with an empty broker", path.display()
    )]
    BadIdentity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// There is data, but the file with the ports and the password is gone.
    #[error(
        "{} is missing, but the broker has data beside it, which only the password in that file opens: \
         restore the file, or move the whole folder away to start afresh with an empty broker",
        path.display()
    )]
    LostIdentity {
        /// The file.
        path: PathBuf,
    },

    /// Somebody else listens where the broker should.
    #[error(
        "port {port} on 127.0.0.1 is taken by another process: free it, or change `{name}` in {}",
        path.display()
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// Its field in the file.
        name: &'static str,
        /// The file that remembers it.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },

    /// No free port was found.
    #[error("found no free port on 127.0.0.1 between {from} and {to} for the broker")]
    NoFreePort {
        /// The first port tried.
        from: u16,
        /// The last port tried.
        to: u16,
    },

    /// A process could not be started, signalled or waited for.
    #[error("cannot {operation}")]
    Process {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },

    /// The server ended instead of starting.
    #[error("rabbitmq-server ended while starting ({status}); see {}; it said last:\n{said}", log.display())]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The folder of its logs.
        log: PathBuf,
        /// The last lines of its output.
        said: String,
    },

    /// The server runs, but does not answer.
    #[error(
        "rabbitmq-server did not answer on port {port} within {limit:?}; see {}; it said last:\n{said}",
        log.display()
    )]
    Silent {
        /// Its AMQP port.
        port: u16,
        /// How long was waited.
        limit: Duration,
        /// The folder of its logs.
        log: PathBuf,
        /// The last lines of its output.
        said: String,
    },

    /// The broker has no pid file.
    #[error("the broker has no process id in {}: it is not running, or is stopping", path.display())]
    NoPid {
        /// The pid file.
        path: PathBuf,
    },
}

impl Error {
    /// Names what was done to which path when an operation failed.
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }

    /// Names what was done to a process when it failed.
    pub(crate) fn process(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Process { operation, source }
    }
}
