//! The folder of a server, which goes away after its server.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::lock;

/// Hears which process uses the folder, and removes it when the owner and that process are gone. With a
/// signal it ends the process itself, as soon as the owner is gone.
///
/// The owner may be a `static`, which is never dropped, so only another process can do this. Some
/// containers bury no orphans, so a dead process may stay: it no longer counts.
const JANITOR: &str = r#"
pid= signal= keep=
while read -r word value more; do
    case $word in
        user) pid=$value signal=$more ;;
        keep) keep=yes ;;
    esac
done
lives() {
    [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && ! grep -q '^[^)]*) Z' "/proc/$pid/stat" 2>/dev/null
}
if [ -n "$signal" ] && lives; then kill -s "$signal" "$pid"; fi
while lives; do sleep 0.1; done
[ -n "$keep" ] || rm -rf -- "$1"
"#;

/// A new folder; removed when this value, or its process, and the server in it are gone.
#[derive(Debug)]
pub(crate) struct Folder {
    of: &'static str,
    path: PathBuf,
    janitor: Mutex<ChildStdin>,
}

impl Folder {
    /// A folder for this kind of server.
    pub(crate) fn new(of: &'static str) -> Self {
        let new = tempfile::Builder::new().prefix(&format!("relay-{of}-")).tempdir();
        let path = new.unwrap().keep();
        let mut janitor = janitor(&path);
        let ear = janitor.stdin.take().unwrap();
        thread::spawn(move || janitor.wait());
        Self {
            of,
            path,
            janitor: Mutex::new(ear),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Not to be removed before this process has ended.
    pub(crate) fn used_by(&self, pid: u32) {
        self.tell(&format!("user {pid}"));
    }

    /// The same, and this process is to get the signal then.
    pub(crate) fn used_until(&self, signal: &str, pid: u32) {
        self.tell(&format!("user {pid} {signal}"));
    }

    /// The process that used it is gone, and its number may become another's.
    pub(crate) fn unused(&self) {
        self.tell("user");
    }

    /// Not to be removed at all; says where it is.
    pub(crate) fn keep(&self) {
        self.tell("keep");
        eprintln!("the {}'s folder is kept: {}", self.of, self.path.display());
    }

    fn tell(&self, words: &str) {
        let _ = writeln!(lock(&self.janitor), "{words}"); // nobody hears it if somebody killed the janitor
    }
}

fn janitor(path: &Path) -> Child {
    Command::new("sh")
        .args(["-c", JANITOR, "janitor"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0) // Ctrl-C is for the test alone
        .spawn()
        .unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;
    use crate::wait::wait_until;

    fn sleeper() -> Process {
        Process::spawn_path(Path::new("/bin/sleep"), &[], &["600"])
    }

    #[tokio::test]
    async fn the_folder_goes_after_its_process() {
        let folder = Folder::new("test");
        let path = folder.path().to_owned();
        std::fs::write(path.join("data"), "x").unwrap();
        let user = sleeper();
        folder.used_by(user.pid());
        drop(folder);
        assert!(path.exists());
        user.kill_9();
        wait_until("the folder to go", || async { !path.exists() }).await;
    }

    #[tokio::test]
    async fn a_process_with_a_signal_goes_with_the_owner() {
        let folder = Folder::new("test");
        let path = folder.path().to_owned();
        let (bystander, user) = (sleeper(), sleeper());
        folder.used_until("KILL", bystander.pid());
        folder.unused();
        folder.used_until("KILL", user.pid());
        drop(folder);
        // The janitor sees to it although nobody asks yet how the process ended.
        wait_until("the folder to go", || async { !path.exists() }).await;
        user.wait_exit().await;
        assert_eq!(bystander.exit_status(), None);
    }

    #[test]
    fn a_kept_folder_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut janitor = janitor(folder.path());
        janitor.stdin.take().unwrap().write_all(b"keep\n").unwrap();
        assert!(janitor.wait().unwrap().success());
        assert!(folder.path().exists());
    }
}
