//! A running program of PostgreSQL with its children.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

use crate::lock;
use crate::process::signal;

/// Waits for a word before it becomes the program, or ends without one when its owner is gone.
const GATE: &str = r#"read -r _ && exec "$@" </dev/null"#;

/// The program, or what has become of it.
#[derive(Debug)]
pub(super) struct Running {
    pid: u32,
    child: Mutex<Child>,
    /// Ends with the standard output, which all its children hold as long as they live.
    listener: JoinHandle<()>,
}

impl Running {
    /// Starts the program through `shell`, but not before `known` has heard its process id.
    pub(super) fn start(
        mut shell: Command,
        program: &Path,
        arguments: &[&str],
        log: &Path,
        known: impl FnOnce(u32),
    ) -> io::Result<Self> {
        let mut log = File::options().create(true).append(true).open(log)?;
        let mut child = shell
            .args(["-c", GATE, "gate"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .process_group(0) // Ctrl-C is for the test alone
            .spawn()?;
        let (gate, output) = (child.stdin.take(), child.stdout.take());
        let listener = thread::spawn(move || {
            let _ = output.map(|mut output| io::copy(&mut output, &mut log));
        });
        let running = Self {
            pid: child.id(),
            child: Mutex::new(child),
            listener,
        };
        known(running.pid);
        gate.map_or(Ok(()), |mut gate| gate.write_all(b"go\n"))?;
        Ok(running)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended; children of it may not have.
    pub(super) fn has_ended(&self) -> bool {
        self.status().is_some()
    }

    pub(super) fn has_succeeded(&self) -> bool {
        self.status().is_some_and(|status| status.success())
    }

    /// Whether it and all its children have ended.
    pub(super) fn is_gone(&self) -> bool {
        self.has_ended() && self.listener.is_finished()
    }

    /// Asks it to end (SIGINT), at once for those connected to it.
    pub(super) fn interrupt(&self) {
        if !self.has_ended() {
            signal("INT", &[self.pid]);
        }
    }

    /// Kills it and its children, all at one moment.
    pub(super) fn kill(&self) {
        if self.has_ended() {
            return; // and its number may be another's
        }
        signal("STOP", &[self.pid]); // so that it starts no more
        let mut all = children(self.pid);
        all.push(self.pid);
        signal("KILL", &all);
    }

    pub(super) fn wait(&self) {
        let _ = lock(&self.child).wait();
    }

    fn status(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }
}

/// The children of a process; none on systems without `/proc`, where they see by themselves that it is gone.
fn children(pid: u32) -> Vec<u32> {
    let parent = |process: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?; // the name before may contain anything
        fields.split_whitespace().nth(1)?.parse().ok()
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let processes = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes
        .filter(|process| parent(*process) == Some(pid))
        .collect()
}
