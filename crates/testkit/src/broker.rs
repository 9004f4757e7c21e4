//! A real RabbitMQ for tests: one that the whole test process shares, or one of a test's own.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use relay_local_broker::{Config, LocalBroker, Member};
use tokio::sync::{OnceCell, oneshot};

use crate::folder::Folder;
use crate::process;

/// A machine full of tests and compilers starts a broker slowly.
const START_LIMIT: Duration = Duration::from_secs(120);

/// The AMQP URL of the test process's own broker, started by whoever asks first.
///
/// It outlives the runtime of every test, and dies with the process. Its folder goes with it, unless a
/// test failed: then it stays, and the failing test names it. `RELAY_RABBITMQ_SERVER` chooses the server.
///
/// # Panics
/// When it does not start.
pub async fn shared_broker() -> &'static str {
    static URL: OnceCell<Result<String, String>> = OnceCell::const_new();
    match URL.get_or_init(start_shared).await {
        Ok(url) => url,
        Err(reason) => panic!("no broker for the tests: {reason}"),
    }
}

async fn start_shared() -> Result<String, String> {
    static FOLDER: OnceLock<Folder> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| Folder::new("broker"));
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        earlier(panic);
        folder.keep();
    }));
    let (started, url) = oneshot::channel();
    thread::spawn(move || run_shared(folder, started));
    url.await.unwrap()
}

/// Owns the shared broker, on a thread and a runtime that no test ends.
fn run_shared(folder: &Folder, started: oneshot::Sender<Result<String, String>>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut broker = match start(folder, "", None).await {
            Ok(broker) => broker,
            Err(reason) => return drop(started.send(Err(reason))),
        };
        let _ = started.send(Ok(broker.amqp_url().to_owned()));
        let end = broker.exited().await;
        panic!("the shared broker ended by itself: {end:?}");
    });
}

async fn start(folder: &Folder, settings: &str, member: Option<&Member>) -> Result<LocalBroker, String> {
    let config = Config {
        server: std::env::var_os("RELAY_RABBITMQ_SERVER").map(Into::into),
        start_limit: START_LIMIT,
        settings: settings.to_owned(),
        member: member.cloned(),
        ..Config::new(folder.path())
    };
    let broker = LocalBroker::start(config).await.map_err(|e| reasons(&e))?;
    folder.used_by(broker.pid().map_err(|e| reasons(&e))?);
    Ok(broker)
}

/// An error with all its sources, on one line.
fn reasons(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// A broker of one test, to be stopped, killed and started again; it stops when dropped.
///
/// Its folder goes with it, unless the test is failing: then it stays, and is named.
#[derive(Debug)]
pub struct PrivateBroker {
    amqp_url: String,
    settings: String,
    member: Option<Member>,
    running: Option<LocalBroker>,
    folder: Folder,
}

/// Starts a broker for one test.
///
/// # Panics
/// When it does not start.
pub async fn private_broker() -> PrivateBroker {
    private_broker_with("").await
}

/// Starts a broker for one test, with more lines for its `rabbitmq.conf`.
///
/// # Panics
/// When it does not start.
pub async fn private_broker_with(settings: &str) -> PrivateBroker {
    start_private(settings, None).await
}

pub(crate) async fn start_private(settings: &str, member: Option<Member>) -> PrivateBroker {
    let mut broker = PrivateBroker {
        amqp_url: String::new(),
        settings: settings.to_owned(),
        member,
        running: None,
        folder: Folder::new("broker"),
    };
    broker.start().await;
    broker
}

impl PrivateBroker {
    /// Where to reach it, also while it is down and after it was started again.
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process id of its Erlang VM.
    ///
    /// # Panics
    /// When it is not running.
    pub fn pid(&self) -> u32 {
        let running = self.running.as_ref().expect("the broker is running");
        running
            .pid()
            .unwrap_or_else(|error| panic!("{}", reasons(&error)))
    }

    /// Runs `rabbitmqctl` on it, and answers with what that says.
    ///
    /// # Panics
    /// When it is not running, or the tool fails.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let running = self.running.as_ref().expect("the broker is running");
        let said = running.ctl(arguments).await;
        said.unwrap_or_else(|error| panic!("rabbitmqctl {arguments:?}: {}", reasons(&error)))
    }

    /// Stops the time for it (SIGSTOP), or lets it go on.
    ///
    /// # Panics
    /// When it is not running.
    pub fn freeze(&self, freeze: bool) {
        let signal = if freeze { "STOP" } else { "CONT" };
        assert!(
            process::signal(signal, &[self.pid()]),
            "send {signal} to the broker"
        );
    }

    /// Kills it as a power cut would (SIGKILL), and returns when it is gone.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            let end = running.kill().await;
            end.unwrap_or_else(|error| panic!("kill the broker: {}", reasons(&error)));
        }
    }

    /// Stops it in good order, and returns when it is gone.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            let end = running.stop().await;
            end.unwrap_or_else(|error| panic!("stop the broker: {}", reasons(&error)));
        }
    }

    /// Starts it again with its data, at the same URL; nothing happens if it runs.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&mut self) {
        if self.running.is_none() {
            let broker = start(&self.folder, &self.settings, self.member.as_ref()).await;
            let broker = broker.unwrap_or_else(|reason| panic!("no broker for the test: {reason}"));
            self.amqp_url = broker.amqp_url().to_owned();
            self.running = Some(broker);
        }
    }
}

impl Drop for PrivateBroker {
    fn drop(&mut self) {
        if thread::panicking() {
            self.folder.keep();
        }
    }
}

/// A name that no other test uses, for the objects of one test on a shared broker.
pub fn namespace() -> String {
    let random = RandomState::new().hash_one(std::process::id());
    format!("t{:012x}", random >> 16)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn namespaces_are_short_and_differ() {
        let names: HashSet<_> = (0..1000).map(|_| namespace()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() == 13 && name.starts_with('t')));
    }
}
