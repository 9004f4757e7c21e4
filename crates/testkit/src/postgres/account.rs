//! The user that the server runs as: PostgreSQL refuses to run as root.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Its own user if a package made one, else the one that has nothing.
const INSTEAD_OF_ROOT: [&str; 2] = ["postgres", "nobody"];

/// A user that is not root.
#[derive(Debug)]
pub(super) struct Account {
    name: &'static str,
    user: u32,
    group: u32,
}

impl Account {
    /// The user for the server of a folder that is ours; none if it is to be the user we are.
    pub(super) fn beside(folder: &Path) -> Result<Option<Self>, String> {
        let meta = folder
            .metadata()
            .map_err(|e| format!("{}: {e}", folder.display()))?;
        if meta.uid() != 0 {
            return Ok(None);
        }
        let account = INSTEAD_OF_ROOT.into_iter().find_map(Self::named);
        account.map(Some).ok_or_else(|| {
            "PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`".into()
        })
    }

    fn named(name: &'static str) -> Option<Self> {
        let (user, group) = (id("-u", name)?, id("-g", name)?);
        (user != 0).then_some(Self { name, user, group })
    }

    /// Makes this file or folder its own.
    pub(super) fn owns(&self, path: &Path) -> Result<(), String> {
        chown(path, Some(self.user), Some(self.group))
            .map_err(|e| format!("give {} to {}: {e}", path.display(), self.name))
    }

    /// Runs the command as this user, without our other groups: the standard library drops them.
    pub(super) fn runs(&self, command: &mut Command) {
        command.uid(self.user).gid(self.group);
    }

    pub(super) fn name(&self) -> &str {
        self.name
    }
}

fn id(what: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([what, name]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
