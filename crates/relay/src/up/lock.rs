use std::fs::{File, OpenOptions, TryLockError};

use anyhow::{Context as _, bail};

use crate::data::DataFolder;

/// Keeps the data folder to one relay; given back when the process ends, however it ends.
pub(super) fn lock(folder: &DataFolder) -> anyhow::Result<File> {
    let path = folder.path().join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another relay runs on {}; stop that one, or choose another folder by --data",
            folder.path().display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
