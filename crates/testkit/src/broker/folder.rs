//! A broker's folder, which goes away after its broker.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::lock;

/// Hears which process uses the folder, and removes it when the owner and that process are gone.
///
/// The owner may be a `static`, which is never dropped, so only another process can do this.
const JANITOR: &str = r#"
while read -r said; do
    case $said in
        keep) exit ;;
        *) pid=$said ;;
    esac
done
while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
rm -rf -- "$1"
"#;

/// A new folder; removed when this value, or its process, and the broker in it are gone.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    janitor: Mutex<ChildStdin>,
}

impl Folder {
    pub(super) fn new() -> Self {
        let new = tempfile::Builder::new().prefix("relay-broker-").tempdir();
        let path = new.unwrap().keep();
        let mut janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is for the test alone
            .spawn()
            .unwrap();
        let ear = janitor.stdin.take().unwrap();
        thread::spawn(move || janitor.wait());
        Self {
            path,
            janitor: Mutex::new(ear),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Not to be removed before this process has ended.
    pub(super) fn used_by(&self, pid: u32) {
        self.tell(&pid.to_string());
    }

    /// Not to be removed at all; says where it is.
    pub(super) fn keep(&self) {
        self.tell("keep");
        eprintln!("the broker's folder is kept: {}", self.path.display());
    }

    fn tell(&self, word: &str) {
        let _ = writeln!(lock(&self.janitor), "{word}"); // gone once it was told to keep the folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;
    use crate::wait::wait_until;

    #[tokio::test]
    async fn the_folder_goes_after_its_process() {
        let folder = Folder::new();
        let path = folder.path().to_owned();
        std::fs::write(path.join("data"), "x").unwrap();
        let user = Process::spawn_path(Path::new("/bin/sleep"), &[], &["600"]);
        folder.used_by(user.pid());
        drop(folder);
        assert!(path.exists());
        user.kill_9();
        wait_until("the folder to go", || async { !path.exists() }).await;
    }

    #[tokio::test]
    async fn a_kept_folder_stays() {
        let folder = Folder::new();
        folder.keep();
        wait_until("the janitor to leave", || async {
            writeln!(lock(&folder.janitor), "still there?").is_err()
        })
        .await;
        let path = folder.path().to_owned();
        drop(folder);
        assert!(path.exists());
        std::fs::remove_dir(path).unwrap();
    }
}
