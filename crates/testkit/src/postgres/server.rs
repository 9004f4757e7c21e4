//! One server: its folder, and the processes in it, one after the other.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::account::Account;
use super::places;
use super::running::Running;
use crate::folder::Folder;
use crate::lock;
use crate::port::Port;

const MISSING: &str = "PostgreSQL is missing: `cargo xtask test` installs it, or `apt-get install \
    postgresql`; or name the folder of `postgres`, `initdb` and `psql` in RELAY_POSTGRES_BIN";

/// A machine full of tests and compilers starts a server slowly.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// `fsync=off` because what a killed server has written is in the system's hands: only a power cut would
/// lose it. `mmap` because that memory is in the folder, and goes with it.
const SETTINGS: [&str; 7] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    "fsync=off",
    "dynamic_shared_memory_type=mmap",
    "logging_collector=off",
    "log_line_prefix=%m [%p] %q%d ",
];

/// The superuser, the only user of it.
const USER: &str = "relay";

/// A server, which need not be running; it ends with this value or with its process.
#[derive(Debug)]
pub(super) struct Server {
    programs: PathBuf,
    account: Option<Account>,
    port: Port,
    password: String,
    running: Mutex<Option<Running>>,
    folder: Folder,
}

impl Server {
    /// A new server, not yet started.
    pub(super) fn new() -> Result<Self, String> {
        let programs = programs()?;
        let folder = Folder::new("database");
        let server = Self {
            programs,
            account: Account::beside(folder.path())?,
            port: Port::choose()?,
            password: format!("{:016x}", RandomState::new().hash_one("password")),
            running: Mutex::default(),
            folder,
        };
        server.init()?;
        Ok(server)
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The process that runs it, if it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        let running = lock(&self.running);
        let alive = running.as_ref().filter(|running| !running.has_ended());
        alive.map(Running::pid)
    }

    /// Where to reach a database in it.
    pub(super) fn url(&self, database: &str) -> String {
        let (password, port) = (&self.password, self.port.number);
        format!("postgres://{USER}:{password}@127.0.0.1:{port}/{database}")
    }

    /// Starts it, unless it runs.
    pub(super) fn start(&self) -> Result<(), String> {
        if self.pid().is_some() {
            return Ok(());
        }
        let mut place = lock(&self.running);
        if let Some(ended) = place.take() {
            self.gone(&ended, STOP_LIMIT)?;
        }
        let port = self.port.number.to_string();
        let mut arguments = vec!["-D", "data", "-p", &port];
        arguments.extend(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        let running = self.run("postgres", &arguments)?;
        let ready = until(START_LIMIT, "be ready", || {
            let ended = running.has_ended();
            let ready = self.is_ready(running.pid());
            if ended { Err("it ended".into()) } else { Ok(ready) }
        });
        *place = Some(running);
        ready.map_err(|reason| self.with_log(&format!("postgres: {reason}")))
    }

    /// Ends it in good order, and returns when nothing of it is left.
    pub(super) fn stop(&self) -> Result<(), String> {
        let Some(running) = lock(&self.running).take() else {
            return Ok(());
        };
        running.interrupt();
        self.gone(&running, STOP_LIMIT)
    }

    /// Kills it and its children, and returns when nothing of them is left.
    pub(super) fn kill(&self) -> Result<(), String> {
        let Some(running) = lock(&self.running).take() else {
            return Ok(());
        };
        running.kill();
        self.gone(&running, STOP_LIMIT)
    }

    /// Runs a statement in a database of it, and returns what it shows.
    pub(super) fn sql(&self, database: &str, statement: &str) -> Result<String, String> {
        psql(&self.programs, &self.url(database), statement)
    }

    fn init(&self) -> Result<(), String> {
        let password = self.folder.path().join("password");
        fs::write(&password, &self.password).map_err(|e| format!("{}: {e}", password.display()))?;
        if let Some(account) = &self.account {
            account.owns(&password)?;
            account.owns(self.folder.path())?;
        }
        let user = format!("--username={USER}");
        let initdb = self.run(
            "initdb",
            &[
                "--pgdata=data",
                &user,
                "--pwfile=password",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
        )?;
        self.gone(&initdb, START_LIMIT)?;
        if initdb.has_succeeded() {
            return Ok(());
        }
        Err(self.with_log("initdb failed"))
    }

    /// Starts a program in the folder, which is ended with us from its first moment on.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<Running, String> {
        let mut command = command("sh");
        let folder = self.folder.path();
        let log = folder.join("log");
        if let Some(account) = &self.account {
            account.runs(&mut command);
        }
        command.current_dir(folder);
        let program = self.programs.join(program);
        Running::start(command, &program, arguments, &log, |pid| {
            self.folder.used_until("QUIT", pid);
        })
        .map_err(|error| {
            let user = self.account.as_ref().map_or("its owner", Account::name);
            let (program, folder) = (program.display(), folder.display());
            format!("run {program} in {folder}, which {user} must be able to reach (see TMPDIR): {error}")
        })
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.path().join("data/postmaster.pid")
    }

    /// Its first line is the process, the eighth what it is doing.
    fn is_ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.pid_file()).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
    }

    /// Returns when nothing of it is left, also outside its folder.
    fn gone(&self, running: &Running, limit: Duration) -> Result<(), String> {
        until(limit, "end", || Ok(running.is_gone()))?;
        self.folder.unused();
        // Only after a kill the file is still there. It names the one piece of memory that a server
        // has from the system, which would stay for ever.
        let file = self.pid_file();
        if let Ok(text) = fs::read_to_string(&file) {
            let memory = text
                .lines()
                .nth(6)
                .and_then(|line| line.split_whitespace().nth(1));
            if let Some(memory) = memory {
                let _ = Command::new("ipcrm").args(["-m", memory]).output(); // else the next start does it
            }
            fs::remove_file(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        Ok(())
    }

    /// The reason with the end of the log, and the folder kept, so that it can be looked into.
    fn with_log(&self, reason: &str) -> String {
        self.folder.keep();
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(20)..];
        format!("{reason}; the last lines of its log:\n{}", last.join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The janitor of the folder ends it; here it is only asked how it ended.
        if let Some(running) = lock(&self.running).take() {
            thread::spawn(move || running.wait());
        }
    }
}

/// The folder of the programs.
pub(super) fn programs() -> Result<PathBuf, String> {
    let Some(named) = std::env::var_os("RELAY_POSTGRES_BIN") else {
        return places::installed().ok_or_else(|| MISSING.into());
    };
    let folder = std::path::absolute(&named).unwrap_or(named.into());
    if places::is_complete(&folder) {
        return Ok(folder);
    }
    let folder = folder.display();
    Err(format!(
        "RELAY_POSTGRES_BIN is {folder}, but `postgres`, `initdb` and `psql` are not all there"
    ))
}

/// Runs a statement at a URL, and returns what it shows.
pub(super) fn psql(programs: &Path, url: &str, statement: &str) -> Result<String, String> {
    let output = command(programs.join("psql"))
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, url])
        .output()
        .map_err(|e| format!("run psql: {e}"))?;
    let shown = if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(output.stderr)
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    shown.map(text).map_err(text)
}

/// A program to run, which hears nothing of what is set outside for PostgreSQL.
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let of_postgres = |name: &OsString| name.as_encoded_bytes().starts_with(b"PG");
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_postgres(name)) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C");
    command
}

fn until(limit: Duration, what: &str, mut look: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    while !look()? {
        if Instant::now() > deadline {
            return Err(format!("it did not {what} within {limit:?}"));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
