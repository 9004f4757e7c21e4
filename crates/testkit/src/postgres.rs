//! A real PostgreSQL for tests: one that the whole test process shares, or one of a test's own.

mod account;
mod places;
mod running;
mod server;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;

use tokio::task::spawn_blocking;

use crate::broker::namespace;
use server::Server;

/// The URL of the test process's own server, started by whoever asks first; its database is the one that
/// every server has, so a test wants [`database`] instead.
///
/// It outlives the runtime of every test, and dies with the process. Its folder goes with it, unless a
/// test failed: then it stays, and the failing test names it. `RELAY_POSTGRES_BIN` chooses the folder of
/// `postgres`, `initdb` and `psql`.
///
/// # Panics
/// When it does not start.
pub async fn shared_postgres() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    let url = with_shared(|server| Ok(server.url("postgres"))).await;
    URL.get_or_init(|| url)
}

/// The URL of a new, empty database in the shared server, which no other test uses.
///
/// # Panics
/// When there is no server, or it makes no database.
pub async fn database() -> String {
    with_shared(create_database).await
}

async fn with_shared(work: fn(&Server) -> Result<String, String>) -> String {
    let done = spawn_blocking(move || shared().as_ref().map_err(Clone::clone).and_then(work)).await;
    done.unwrap()
        .unwrap_or_else(|reason| panic!("no PostgreSQL for the tests: {reason}"))
}

/// Starts it on the first call, which no test that ends meanwhile can interrupt.
fn shared() -> &'static Result<Server, String> {
    static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
    SHARED.get_or_init(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            earlier(panic);
            if let Some(Ok(server)) = SHARED.get() {
                server.folder().keep();
            }
        }));
        started()
    })
}

fn started() -> Result<Server, String> {
    let server = Server::new()?;
    server.start()?;
    Ok(server)
}

fn create_database(server: &Server) -> Result<String, String> {
    let name = namespace();
    // Of the two templates this one is nobody's to connect to, so nobody is in the way.
    server.sql("postgres", &format!("create database {name} template template0"))?;
    Ok(server.url(&name))
}

/// A server of one test, to be stopped, killed and started again; it stops when dropped.
///
/// Its folder goes with it, unless the test is failing: then it stays, and is named.
#[derive(Debug)]
pub struct PrivatePostgres {
    server: Arc<Server>,
    url: String,
}

/// Starts a server for one test, with an empty database in it.
///
/// # Panics
/// When it does not start.
pub async fn private_postgres() -> PrivatePostgres {
    let made = spawn_blocking(|| {
        let server = started()?;
        let url = create_database(&server)?;
        let server = Arc::new(server);
        Ok(PrivatePostgres { server, url })
    });
    made.await
        .unwrap()
        .unwrap_or_else(|reason: String| panic!("no PostgreSQL for the test: {reason}"))
}

impl PrivatePostgres {
    /// Where to reach its database, also while it is down and after it was started again.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its folder: the data, and the log in the file `log`.
    pub fn folder(&self) -> &Path {
        self.server.folder().path()
    }

    /// The process id of its postmaster.
    ///
    /// # Panics
    /// When it is not running.
    pub fn pid(&self) -> u32 {
        self.server.pid().expect("PostgreSQL is running")
    }

    /// Kills it with all its children as a power cut would (SIGKILL), and returns when they are gone.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        self.with("kill", Server::kill).await;
    }

    /// Stops it in good order, which ends its connections, and returns when it is gone.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&mut self) {
        self.with("stop", Server::stop).await;
    }

    /// Starts it again with its data, at the same URL; nothing happens if it runs.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&mut self) {
        self.with("start", Server::start).await;
    }

    async fn with(&self, what: &str, work: fn(&Server) -> Result<(), String>) {
        let server = Arc::clone(&self.server);
        let done = spawn_blocking(move || work(&server)).await.unwrap();
        done.unwrap_or_else(|reason| panic!("cannot {what} PostgreSQL: {reason}"));
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if thread::panicking() {
            self.server.folder().keep();
        }
    }
}

#[cfg(test)]
mod tests;
