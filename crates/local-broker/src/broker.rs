use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;

use crate::folder::{Folder, Owned};
use crate::identity::Identity;
use crate::launch::Launch;
use crate::ports::Ports;
use crate::supervisor::{self, Supervisor};
use crate::{Config, Error, Member, server, settings};

/// A running private broker. Dropping it stops the broker too, but does not wait for that.
pub struct LocalBroker {
    amqp_url: String,
    server: PathBuf,
    ports: Ports,
    member: Option<Member>,
    supervisor: Supervisor,
    folder: Owned,
}

impl LocalBroker {
    /// Starts the broker, and returns once it answers an AMQP handshake.
    ///
    /// The first start in a folder chooses the ports and the password; every later one
    /// uses them again. A broker of an earlier owner that is still stopping in this
    /// folder is waited for. Cancelling this stops what was started.
    ///
    /// # Errors
    ///
    /// When there is no server to run, the folder is in use or damaged, a remembered
    /// port is taken, or the server ends or stays silent. Nothing keeps running then.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let server = server::find(config.server.as_deref())?;
        let folder = Folder::open(&config.dir)?.own().await?;
        let launch = Launch {
            config: &config,
            server: &server,
            folder: &folder,
        };
        let (identity, supervisor) = match Identity::load(&folder)? {
            Some(identity) => launch.again(identity).await?,
            None => launch.first().await?,
        };
        Ok(Self {
            amqp_url: identity.amqp_url(),
            server,
            ports: identity.ports,
            member: config.member,
            supervisor,
            folder,
        })
    }

    /// Where to reach the broker, and as whom: `amqp://relay:<password>@127.0.0.1:<port>/%2f`.
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// The process id of the broker's Erlang VM.
    ///
    /// # Errors
    ///
    /// When there is no pid file: the broker removes it as it stops.
    pub fn pid(&self) -> Result<u32, Error> {
        self.folder.pid()
    }

    /// Runs the broker's own tool on it, `rabbitmqctl`, and answers with what that says.
    ///
    /// # Errors
    ///
    /// When the tool is not beside the server, or fails.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String, Error> {
        let output = Command::new(self.server.with_file_name("rabbitmqctl"))
            .args(arguments)
            .env_clear()
            .envs(settings::environment(
                &self.folder,
                &self.ports,
                self.member.as_ref(),
            ))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(Error::process("run rabbitmqctl"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::process("have rabbitmqctl do its work")(io::Error::other(
            said,
        )))
    }

    /// Resolves when the broker has ended by itself. Cancelling this loses nothing.
    ///
    /// # Errors
    ///
    /// When the operating system cannot say how it ended.
    pub async fn exited(&mut self) -> Result<ExitStatus, Error> {
        self.supervisor.ended().await
    }

    /// Kills the broker as a power cut would (SIGKILL), and returns once nothing of it uses the folder. A shell that
    /// measured the disk for it may take a moment longer to see that it is gone.
    ///
    /// # Errors
    ///
    /// When it cannot be killed, or something of it is still running.
    pub async fn kill(&mut self) -> Result<ExitStatus, Error> {
        if !self.supervisor.has_ended() {
            supervisor::send_kill(&self.pid()?.to_string()).await?;
        }
        self.supervisor.gone(&self.folder).await
    }

    /// Stops the broker, by force if it takes too long, and returns once nothing of it is left.
    ///
    /// # Errors
    ///
    /// When something of it is still running.
    pub async fn stop(mut self) -> Result<ExitStatus, Error> {
        self.supervisor.let_go();
        self.supervisor.gone(&self.folder).await
    }
}

impl fmt::Debug for LocalBroker {
    /// Without the URL, which holds the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBroker")
            .field("dir", &self.folder.path())
            .finish_non_exhaustive()
    }
}
