//! A folder for a broker, and what can be seen of the broker from outside.

use std::env;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use relay_local_broker::Config;

const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// A temporary folder, with a name that a careless script would stumble over.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(test: &str) -> Self {
        let name = format!("relay local broker {test} {}", std::process::id());
        Self(env::temp_dir().join(name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn config(&self) -> Config {
        config(&self.0)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A server that runs these lines of shell first.
    pub(crate) fn wrapper(&self, lines: &str) -> PathBuf {
        let server = self.config().server;
        let server = server.unwrap_or_else(|| "/usr/lib/rabbitmq/bin/rabbitmq-server".into());
        let path = self.file("wrapper.sh");
        let script = format!("#!/bin/sh\n{lines}\nexec '{}' \"$@\"\n", server.display());
        fs::create_dir_all(&self.0).unwrap();
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// The remembered port of this name.
    pub(crate) fn port(&self, name: &str) -> u16 {
        let text = fs::read(self.file("broker.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        json[name].as_u64().unwrap().try_into().unwrap()
    }

    /// Every process of the broker, found by its environment, which all of them share.
    pub(crate) fn processes(&self) -> Vec<String> {
        let mark = format!("RABBITMQ_LOG_BASE={}/", self.0.display());
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| process(&entry.unwrap().path(), mark.as_bytes()))
            .collect()
    }

    pub(crate) async fn until_nothing_runs(&self) {
        until("no process of the broker runs", || {
            let left = self.processes();
            if left.is_empty() {
                Ok(())
            } else {
                Err(left.join("\n"))
            }
        })
        .await;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the broker left is in {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// For the server that the environment asks for, if it does.
pub(crate) fn config(dir: &Path) -> Config {
    Config {
        server: env::var_os("RELAY_RABBITMQ_SERVER").map(PathBuf::from),
        ..Config::new(dir)
    }
}

fn process(proc: &Path, mark: &[u8]) -> Option<String> {
    let environment = fs::read(proc.join("environ")).ok()?;
    let ours = environment
        .split(|byte| *byte == 0)
        .any(|var| var.starts_with(mark));
    let command = fs::read(proc.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    ours.then(|| format!("{} {command}", proc.display()))
}

/// Waits until a condition holds, and reports how it stood last if it does not come true.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + LIMIT;
    while let Err(state) = holds() {
        assert!(
            Instant::now() < deadline,
            "waited {LIMIT:?} until {what}, but:\n{state}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// What the broker says first.
pub(crate) fn greeting(port: u16) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    let mut frame = [0; 11];
    stream.read_exact(&mut frame).unwrap();
    frame.to_vec()
}

pub(crate) fn port_of(amqp_url: &str) -> u16 {
    let (_, place) = amqp_url.rsplit_once(':').unwrap();
    place.trim_end_matches("/%2f").parse().unwrap()
}
