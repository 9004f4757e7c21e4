//! The process that runs the server, and ends it with its owner.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::Error;
use crate::folder::Owned;
use crate::launch::Launch;
use crate::ports::Ports;
use crate::settings;

const SCRIPT: &str = include_str!("supervisor.sh");

/// How long the server may take to stop before it is killed. It loses nothing by that.
const GRACE: Duration = Duration::from_secs(20);

/// After this, a broker whose owner is gone is gone too.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(25);

/// How long the broker's processes may take to disappear once they are killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The running supervisor. It stops the broker when this value is dropped.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    /// The end of the pipe that keeps the broker alive.
    lifeline: Option<OwnedFd>,
    group: u32,
}

impl Supervisor {
    pub(crate) fn start(launch: &Launch<'_>, ports: &Ports, console: File) -> Result<Self, Error> {
        let Launch {
            server,
            folder,
            config,
        } = launch;
        let script = script(folder)?;
        tracing::info!(
            server = %server.display(),
            dir = %folder.path().display(),
            amqp_port = ports.amqp,
            "starting the private broker"
        );
        let start = Error::process("start the broker's supervisor (sh)");
        let lifeline_of = Error::process("keep the broker's lifeline");
        let output = console
            .try_clone()
            .map_err(Error::process("share the broker's console"))?;
        let mut child = Command::new("sh")
            .arg(script)
            .arg(server)
            .arg(folder.pid_file())
            .arg(GRACE.as_secs().to_string())
            .env_clear()
            .envs(settings::environment(folder, ports, config.member.as_ref()))
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(console)
            .process_group(0)
            .spawn()
            .map_err(start)?;
        let group = child.id().ok_or_else(|| {
            Error::process("find the broker's supervisor")(io::Error::other("it has ended"))
        })?;
        let lifeline = child
            .stdin
            .take()
            .map(|stdin| stdin.into_owned_fd())
            .transpose()
            .map_err(lifeline_of)?;
        Ok(Self {
            child,
            lifeline,
            group,
        })
    }

    /// Resolves when the broker has ended.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus, Error> {
        self.child
            .wait()
            .await
            .map_err(Error::process("wait for the broker"))
    }

    /// Whether it has ended by now.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Lets the broker stop, which takes a while.
    pub(crate) fn let_go(&mut self) {
        self.lifeline = None;
    }

    /// Returns once nothing of the broker is left, and sees to it that this happens.
    pub(crate) async fn gone(&mut self, folder: &Owned) -> Result<ExitStatus, Error> {
        if let Ok(ended) = timeout(STOP_LIMIT, self.ended()).await
            && folder.vacant(KILL_LIMIT).await.is_ok()
        {
            folder.forget_pid()?;
            return ended;
        }
        tracing::warn!(dir = %folder.path().display(), "the private broker does not stop: killing it");
        send_kill(&format!("-{}", self.group)).await?;
        folder.vacant(KILL_LIMIT).await?;
        folder.forget_pid()?;
        self.ended().await
    }
}

fn script(folder: &Owned) -> Result<PathBuf, Error> {
    let path = folder.path().join("supervisor.sh");
    folder.write(&path, SCRIPT.as_bytes())?;
    Ok(path)
}

/// SIGKILL for a process, or for a group if it begins with a minus.
///
/// The shell's own `kill`, because small systems have no command of that name.
pub(crate) async fn send_kill(target: &str) -> Result<(), Error> {
    let output = Command::new("sh")
        .args(["-c", r#"kill -KILL "$1""#, "kill", target])
        .output()
        .await
        .map_err(Error::process("run the shell's kill"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::process("kill the broker")(io::Error::other(said)))
}
