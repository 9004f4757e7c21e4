//! The workspace's own binaries as real child processes: spawned, watched, killed.

use std::ffi::{OsStr, OsString};
use std::future::{Future, ready};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lock;
use crate::wait::wait_until;

/// Output may still be on its way, or held open by a grandchild, this long after the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(2);
const LISTENING: Duration = Duration::from_millis(5);

/// Kills the process as soon as nobody holds the other end of this one's input.
const GUARD: &str = r#"read -r _; kill -s KILL "$1""#;

/// A running child process; killed when dropped, or when its owner's process dies in any way. Its output
/// is shown when the test is failing.
///
/// It needs no tokio runtime to live or to die, so it may be dropped after one.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Guarded>,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a binary of the workspace; no `RELAY_*` variable but those of `env` reaches it.
    ///
    /// # Panics
    /// When the binary is not built.
    pub fn spawn(name: &str, env: &[(&str, &str)], args: &[&str]) -> Self {
        Self::spawn_path(&binary(name), env, args)
    }

    /// Starts any program in the same way.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn_path(path: &Path, env: &[(&str, &str)], args: &[&str]) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = name.to_string_lossy().into_owned();
        let mut child = command(path, std::env::vars_os().map(|(key, _)| key), env, args)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", path.display()));
        let lines = Arc::default();
        let readers = vec![
            collect(child.stdout.take().unwrap(), &lines),
            collect(child.stderr.take().unwrap(), &lines),
        ];
        Self {
            name,
            pid: child.id(),
            child: Mutex::new(Guarded::new(child)),
            lines,
            readers,
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Every line of stdout and stderr so far, as they came.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    /// The lines as one text.
    pub fn output(&self) -> String {
        lock(&self.lines).join("\n")
    }

    /// Waits for a line that `wanted` accepts, and returns the first such line.
    ///
    /// # Panics
    /// When it does not come, or the process ends without it.
    #[track_caller]
    pub fn wait_for_line(&self, wanted: impl Fn(&str) -> bool) -> impl Future<Output = String> {
        self.wait_for("a certain line".into(), wanted)
    }

    /// Waits for a line that contains `text`, and returns the first such line.
    ///
    /// # Panics
    /// When it does not come, or the process ends without it.
    #[track_caller]
    pub fn wait_for_output(&self, text: &str) -> impl Future<Output = String> {
        self.wait_for(format!("the output {text:?}"), move |line| line.contains(text))
    }

    #[track_caller]
    fn wait_for(&self, what: String, wanted: impl Fn(&str) -> bool) -> impl Future<Output = String> {
        let found = wait_until(format!("{what} of {}", self.name), move || {
            let over = self.exit_status().filter(|_| self.silent());
            let lines = lock(&self.lines);
            ready(match (lines.iter().find(|line| wanted(line)), over) {
                (Some(line), _) => Ok(Ok(line.clone())),
                (None, Some(status)) => Ok(Err(status)),
                (None, None) => Err(format!("{} other lines", lines.len())),
            })
        });
        async move {
            let found = found.await;
            found.unwrap_or_else(|status| panic!("{} ended ({status}) without {what}", self.name))
        }
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait()
    }

    /// Waits until it has ended and its last output is here.
    ///
    /// # Panics
    /// When it goes on running.
    #[track_caller]
    pub fn wait_exit(&self) -> impl Future<Output = ExitStatus> {
        let ended = wait_until(format!("the end of {}", self.name), || {
            ready(self.exit_status().ok_or("still running"))
        });
        async move {
            let status = ended.await;
            let deadline = Instant::now() + LAST_WORDS;
            while !self.silent() && Instant::now() < deadline {
                tokio::time::sleep(LISTENING).await;
            }
            status
        }
    }

    /// Kills it at once (SIGKILL), and returns when it is gone.
    pub fn kill_9(&self) {
        lock(&self.child).kill();
    }

    /// Asks it to end (SIGTERM); nothing happens if it already has.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by name, such as `STOP` and `CONT`; nothing happens if it has ended.
    pub fn signal(&self, signal: &str) {
        let mut child = lock(&self.child); // held, so that the pid stays ours
        if child.try_wait().is_none() {
            let sent = Command::new("kill")
                .args([format!("-{signal}"), self.pid.to_string()])
                .status()
                .expect("the `kill` command runs");
            assert!(sent.success(), "kill -{signal} {}: {sent}", self.pid);
        }
    }

    /// Whether both outputs are at their end.
    fn silent(&self) -> bool {
        self.readers.iter().all(JoinHandle::is_finished)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.exit_status();
        self.kill_9();
        if thread::panicking() {
            let deadline = Instant::now() + LAST_WORDS;
            while !self.silent() && Instant::now() < deadline {
                thread::sleep(LISTENING);
            }
            let end = ended.map_or_else(|| "killed by the test's end".into(), |s| s.to_string());
            eprintln!("---- {} (pid {}, {end}) ----", self.name, self.pid);
            eprintln!("{}\n----", self.output());
        }
    }
}

/// A child, and the guard that kills it if this process dies without doing so.
#[derive(Debug)]
struct Guarded {
    child: Child,
    guard: Child,
}

impl Guarded {
    fn new(child: Child) -> Self {
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is for the test alone
            .spawn()
            .unwrap();
        Self { child, guard }
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait().unwrap();
        if ended.is_some() {
            self.dismiss();
        }
        ended
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.dismiss();
    }

    /// The child's number may become another's. The guard must not see the end of its input, which
    /// `wait` would close, before it is killed.
    fn dismiss(&mut self) {
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

/// Sends a signal by name, and tells whether all of them got it: some may have ended.
pub(crate) fn signal(name: &str, pids: &[u32]) -> bool {
    Command::new("sh")
        .args(["-c", r#"kill -s "$@""#, "kill", name])
        .args(pids.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The path of a binary of the workspace, beside the running test.
///
/// # Panics
/// When it is not built.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps") && !folder.ends_with("examples"))
        .unwrap();
    let path = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.is_file(),
        "{} is not there; run `cargo xtask test`, or `cargo build --workspace --bins` first",
        path.display()
    );
    path
}

fn command(
    path: &Path,
    outside: impl Iterator<Item = OsString>,
    env: &[(&str, &str)],
    args: &[&str],
) -> Command {
    let mut command = Command::new(path);
    for key in outside.filter(|key| is_relay_variable(key)) {
        command.env_remove(key);
    }
    command
        .envs(env.iter().copied())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn is_relay_variable(key: &OsStr) -> bool {
    key.as_encoded_bytes().starts_with(b"RELAY_")
}

fn collect(output: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            lock(&lines).push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    })
}

#[cfg(test)]
mod tests;
