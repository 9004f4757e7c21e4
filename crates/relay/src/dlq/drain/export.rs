use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use relay_broker::DeadMessage;

use crate::dlq::record::Record;

/// Events may hold what is not for everybody.
const PRIVATE_FILE: u32 = 0o600;

/// A new file of dead letters, made when there is something to write.
pub(super) struct Export {
    path: PathBuf,
    file: Option<File>,
}

impl Export {
    /// Refuses a file that is there already.
    pub(super) fn new(path: PathBuf) -> anyhow::Result<Self> {
        if path.symlink_metadata().is_ok() {
            bail!("{} is there already; name a new file", path.display());
        }
        Ok(Self { path, file: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line for each; they are on the disk when this returns.
    pub(super) fn write(&mut self, batch: &[DeadMessage]) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for message in batch {
            serde_json::to_writer(&mut lines, &Record::of(message)).context("cannot write JSON")?;
            lines.push(b'\n');
        }
        self.write_safely(&lines).with_context(|| {
            format!(
                "cannot write {}; what it does not hold is still in the queue",
                self.path.display()
            )
        })
    }

    fn write_safely(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(lines)?;
            return file.sync_all();
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(PRIVATE_FILE)
            .open(&self.path)?;
        file.write_all(lines)?;
        file.sync_all()?;
        self.file = Some(file);
        // The file's name is safe once its folder is.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}
