//! The broker's folder: what is where in it, and whose it is.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Error;
use crate::console::last_words;

/// Only the owner's user looks into the folder: it holds a password.
const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

const POLL: Duration = Duration::from_millis(20);

/// Covers the instant in which a process that is being started still holds a copy of the lock.
const OWNER_LIMIT: Duration = Duration::from_secs(1);

/// The folder of a broker, by its absolute path.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_FOLDER)
            .create(path)
            .map_err(Error::file("make the broker folder", path))?;
        fs::set_permissions(path, Permissions::from_mode(PRIVATE_FOLDER))
            .map_err(Error::file("make private the broker folder", path))?;
        let absolute = path
            .canonicalize()
            .map_err(Error::file("find the broker folder", path))?;
        Ok(Self(absolute))
    }

    /// Makes this process the only one that starts brokers in the folder.
    pub(crate) async fn own(self) -> Result<Owned, Error> {
        let path = self.0.join("owner.lock");
        let lock = open_to_lock(&path)?;
        if locked_within(&lock, &path, OWNER_LIMIT).await? {
            Ok(Owned { folder: self, lock })
        } else {
            Err(Error::InUse { dir: self.0 })
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.0.join("broker.json")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.0.join("broker.pid")
    }

    fn console(&self) -> PathBuf {
        self.logs().join("console.log")
    }

    /// The process id of the VM that runs here, or ran here last and was killed.
    pub(crate) fn pid(&self) -> Result<u32, Error> {
        let path = self.pid_file();
        let none = || Error::NoPid { path: path.clone() };
        let text = fs::read_to_string(&path).map_err(|_| none())?;
        text.trim().parse().map_err(|_| none())
    }

    /// What the server said of its end.
    pub(crate) fn last_words(&self) -> String {
        let output = fs::read(self.console()).unwrap_or_default();
        last_words(&String::from_utf8_lossy(&output))
    }
}

/// A folder in which nobody else starts a broker as long as this value lives.
#[derive(Debug)]
pub(crate) struct Owned {
    folder: Folder,
    #[expect(dead_code, reason = "locked until it is dropped")]
    lock: File,
}

impl Deref for Owned {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.folder
    }
}

impl Owned {
    /// The file that takes the broker's output, locked once no broker runs here any more.
    ///
    /// The lock goes with the file to every process of the broker, so it is free only when
    /// the last of them has ended, whoever started them.
    pub(crate) async fn vacant(&self, limit: Duration) -> Result<File, Error> {
        let logs = self.logs();
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_FOLDER)
            .create(&logs)
            .map_err(Error::file("make the log folder", &logs))?;
        let path = self.console();
        let console = open_to_lock(&path)?;
        if locked_within(&console, &path, limit).await? {
            Ok(console)
        } else {
            Err(Error::StillRunning {
                dir: self.0.clone(),
                pid: self.pid().ok(),
                limit,
            })
        }
    }

    /// Writes a private file in one step: afterwards the old or the new contents are there.
    pub(crate) fn write(&self, path: &Path, contents: &[u8]) -> Result<(), Error> {
        let draft = path.with_added_extension("new");
        write_private(&draft, contents).map_err(Error::file("write", &draft))?;
        fs::rename(&draft, path).map_err(Error::file("replace", path))
    }

    /// Forgets the process that was killed here, so that its id is never taken for a new one's.
    pub(crate) fn forget_pid(&self) -> Result<(), Error> {
        let path = self.pid_file();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
            _ => Ok(()),
        }
    }
}

fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(PRIVATE_FILE)
        .open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

fn open_to_lock(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(PRIVATE_FILE)
        .open(path)
        .map_err(Error::file("open", path))
}

async fn locked_within(file: &File, path: &Path, limit: Duration) -> Result<bool, Error> {
    let deadline = Instant::now() + limit;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(Error::file("lock", path)(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => sleep(POLL).await,
        }
    }
}
