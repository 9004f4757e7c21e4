//! The relay's data folder: how a running relay is found on this machine.

use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::text_files::without_mark;

/// Only the owner's user looks into the folder: it holds a token and a password.
const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

const RUNNING: &str = "relay.json";
const TOKEN: &str = "token";

/// Where the data folder is, to be flattened into a command's own settings.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DataArgs {
    /// The relay's data folder [default: $XDG_DATA_HOME/event-relay, else
    /// ~/.local/share/event-relay]
    #[arg(
        long = "data",
        visible_alias = "data-dir",
        env = "RELAY_DATA",
        value_name = "FOLDER",
        hide_env_values = true
    )]
    pub(crate) data_dir: Option<PathBuf>,
}

impl DataArgs {
    /// The folder, whether or not it is there.
    pub(crate) fn folder(&self) -> anyhow::Result<DataFolder> {
        let outside = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(given) = &self.data_dir {
            return Ok(DataFolder(given.clone()));
        }
        let base = match (outside("XDG_DATA_HOME"), outside("HOME")) {
            (Some(data), _) => PathBuf::from(data),
            (None, Some(home)) => PathBuf::from(home).join(".local/share"),
            (None, None) => bail!("no place for the relay's data: name one by RELAY_DATA"),
        };
        Ok(DataFolder(base.join("event-relay")))
    }
}

/// What a running relay leaves in its folder for the other commands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Its HTTP API.
    pub(crate) url: String,
    /// Its health and metrics.
    pub(crate) metrics_url: String,
    /// Its broker, with the password.
    pub(crate) amqp_url: String,
    /// The first word of its queues' names.
    pub(crate) namespace: String,
    /// Its process.
    pub(crate) pid: u32,
}

/// The API token. It prints only where it is asked for.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    /// 32 random bytes, in hexadecimal.
    pub(crate) fn generate() -> Self {
        let bytes: [u8; 32] = rand::random();
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// A token as its owner wrote it: visible ASCII, because it travels in a header.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            bail!("must be visible ASCII characters without spaces");
        }
        Ok(Self(text.to_owned()))
    }

    /// The token, for its owner and the `authorization` header.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The data folder.
#[derive(Debug, Clone)]
pub(crate) struct DataFolder(PathBuf);

impl DataFolder {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, for its owner alone, if it is not there.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_FOLDER)
            .create(&self.0)
            .with_context(|| format!("cannot make the data folder {}", self.0.display()))
    }

    /// Where the running relay is, if one is, or ended without saying so.
    pub(crate) fn running(&self) -> anyhow::Result<Option<Running>> {
        let Some(text) = self.read(RUNNING)? else {
            return Ok(None);
        };
        let read = serde_json::from_str(&text).with_context(|| {
            let path = self.0.join(RUNNING);
            format!(
                "{} is not as a relay writes it; remove it and start the relay again",
                path.display()
            )
        });
        read.map(Some)
    }

    /// Says where the relay runs.
    pub(crate) fn write_running(&self, running: &Running) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(running).context("cannot write JSON")?;
        self.write(RUNNING, &json)
    }

    /// Says that it no longer runs.
    pub(crate) fn remove_running(&self) -> anyhow::Result<()> {
        let path = self.0.join(RUNNING);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The API token, if there is one.
    pub(crate) fn token(&self) -> anyhow::Result<Option<Token>> {
        let Some(text) = self.read(TOKEN)? else {
            return Ok(None);
        };
        let path = self.0.join(TOKEN);
        Token::parse(&text)
            .with_context(|| format!("{} holds no token", path.display()))
            .map(Some)
    }

    /// The API token, made if there is none. For the one process that runs the relay.
    pub(crate) fn token_or_new(&self) -> anyhow::Result<Token> {
        if let Some(token) = self.token()? {
            return Ok(token);
        }
        let token = Token::generate();
        self.write(TOKEN, token.as_str())?;
        Ok(token)
    }

    /// Keeps a token that its owner chose, instead of the one that was there.
    pub(crate) fn keep_token(&self, given: &str) -> anyhow::Result<Token> {
        let token = Token::parse(given)?;
        self.write(TOKEN, token.as_str())?;
        Ok(token)
    }

    fn read(&self, name: &str) -> anyhow::Result<Option<String>> {
        let path = self.0.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(without_mark(&text).to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(anyhow!(error).context(format!("cannot read {}", path.display()))),
        }
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        replace(&self.0.join(name), text)
    }
}

/// Writes a file for its owner alone; a reader sees the old one or the new one, whole.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    write_private(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    // What an earlier process of this id left would keep its own permissions.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE)
        .open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> (tempfile::TempDir, DataFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder(dir.path().join("below/event-relay"));
        folder.create().unwrap();
        (dir, folder)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_read_and_private() {
        let (_dir, folder) = folder();
        assert!(folder.running().unwrap().is_none());
        let running = Running {
            url: "http://127.0.0.1:7400".to_owned(),
            metrics_url: "http://127.0.0.1:7401".to_owned(),
            amqp_url: "amqp://relay:hunter2@127.0.0.1:5673/%2f".to_owned(),
            namespace: "relay".to_owned(),
            pid: 123,
        };
        folder.write_running(&running).unwrap();
        folder.write_running(&running).unwrap();
        assert!(folder.running().unwrap().unwrap() == running);
        assert_eq!(mode(&folder.path().join(RUNNING)), 0o600);
        assert_eq!(mode(folder.path()), 0o700);
        folder.remove_running().unwrap();
        folder.remove_running().unwrap();
        assert!(folder.running().unwrap().is_none());
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            0,
            "nothing temporary stays"
        );
    }

    #[test]
    fn a_token_is_made_once_and_does_not_print() {
        let (_dir, folder) = folder();
        assert_eq!(folder.token().unwrap(), None);
        let token = folder.token_or_new().unwrap();
        assert_eq!(token.as_str().len(), 64);
        assert_eq!(folder.token_or_new().unwrap(), token);
        assert_eq!(mode(&folder.path().join(TOKEN)), 0o600);
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn files_of_another_make_are_named() {
        let (_dir, folder) = folder();
        fs::write(folder.path().join(RUNNING), "{}").unwrap();
        fs::write(folder.path().join(TOKEN), "two words\n").unwrap();
        assert!(format!("{:#}", folder.running().err().unwrap()).contains("relay.json"));
        assert!(format!("{:#}", folder.token().unwrap_err()).contains("token"));
    }
}
