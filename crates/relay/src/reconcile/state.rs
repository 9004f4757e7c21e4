use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use relay_event::Timestamp;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    api::{ApiError, Place},
    data,
    text_files::without_mark,
    usage::Usage,
};

/// How far the feed was gone through, and the file that remembers it if there is one.
pub(super) struct State {
    path: Option<PathBuf>,
    kept: Kept,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    /// Everything up to it was dealt with; none yet.
    cursor: Option<String>,
    /// So was everything that was recorded before then.
    until: Timestamp,
    /// Of which events.
    filter: String,
}

impl State {
    /// As the file says, or from `since` on where there is none yet.
    pub(super) fn open(
        path: Option<PathBuf>,
        since: Option<Timestamp>,
        filter: String,
    ) -> anyhow::Result<Self> {
        let kept = match path.as_deref().map(read).transpose()?.flatten() {
            Some(kept) if kept.filter == filter => kept,
            Some(_) => {
                let problem =
                    "is of other events: --type, --source or --subject have changed; name another file";
                return Err(Usage::new("--state", problem).into());
            }
            None => Kept {
                cursor: None,
                until: since.ok_or_else(|| missing_since(path.as_deref()))?,
                filter,
            },
        };
        Ok(Self { path, kept })
    }

    /// Where the feed goes on.
    pub(super) fn place(&self) -> Place {
        match &self.kept.cursor {
            Some(cursor) => Place::After(cursor.clone()),
            None => Place::Since(self.kept.until),
        }
    }

    /// A moment before which everything recorded was dealt with.
    pub(super) fn until(&self) -> Timestamp {
        self.kept.until
    }

    /// Everything recorded before this moment was dealt with.
    pub(super) fn is_through(&mut self, until: Timestamp) {
        self.kept.until = until;
    }

    /// Remembers that everything up to this cursor was dealt with.
    pub(super) fn save(&mut self, cursor: Option<&str>) -> anyhow::Result<()> {
        self.kept.cursor = cursor.map(str::to_owned);
        let Some(path) = &self.path else {
            return Ok(());
        };
        let json = serde_json::to_string(&self.kept).context("cannot write JSON")?;
        data::replace(path, &json)
    }

    /// The advice on how the next run goes on where this one was stopped.
    pub(super) fn go_on(&self) -> String {
        match &self.path {
            Some(path) => format!(
                "go on with --state {}, which says how far this came",
                path.display()
            ),
            None => format!(
                "go on with --since {}; with a --state file it would go on where it was stopped",
                self.kept.until
            ),
        }
    }

    /// What the feed answered instead of events: it may be the file's fault.
    pub(super) fn refused(&self, error: anyhow::Error) -> anyhow::Error {
        let refused = error
            .downcast_ref()
            .is_some_and(|error: &ApiError| error.is(StatusCode::BAD_REQUEST));
        match (&self.path, &self.kept.cursor) {
            (Some(path), Some(_)) if refused => error.context(format!(
                "the relay does not take the cursor of {}; remove the file to begin anew with --since",
                path.display()
            )),
            _ => error,
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Kept>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(anyhow!(error).context(format!("cannot read {}", path.display()))),
    };
    serde_json::from_str(without_mark(&text))
        .map(Some)
        .with_context(|| {
            format!(
                "{} is not as `relay reconcile` writes it; remove it to begin anew with --since",
                path.display()
            )
        })
}

fn missing_since(path: Option<&Path>) -> Usage {
    Usage::new(
        "--since",
        match path {
            Some(path) => format!(
                "is missing, and {} is not there yet: say where to begin",
                path.display()
            ),
            None => "is missing: say where to begin, or name a --state file that does".to_owned(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, since: Option<&str>, filter: &str) -> anyhow::Result<State> {
        let since = since.map(|since| since.parse().unwrap());
        State::open(Some(path.to_owned()), since, filter.to_owned())
    }

    #[test]
    fn the_file_is_believed_before_since() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let refused = open(&path, None, "").err().unwrap();
        assert!(refused.is::<Usage>() && refused.to_string().starts_with("--since"));
        let mut state = open(&path, Some("2026-01-31T09:30:00Z"), "types=a").unwrap();
        assert!(matches!(state.place(), Place::Since(_)));
        assert!(!path.exists(), "nothing is dealt with yet");

        // A beginning stays where it was, however late it is tried again.
        state.save(None).unwrap();
        let mut state = open(&path, Some("2026-02-01T09:30:00Z"), "types=a").unwrap();
        assert_eq!(state.until().to_string(), "2026-01-31T09:30:00.000Z");
        state.save(Some("c1")).unwrap();
        let state = open(&path, None, "types=a").unwrap();
        assert!(matches!(state.place(), Place::After(cursor) if cursor == "c1"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_other_events_or_of_another_make_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let since = Some("2026-01-31T09:30:00Z");
        open(&path, since, "types=a").unwrap().save(Some("c1")).unwrap();
        let refused = open(&path, since, "").err().unwrap();
        assert!(refused.is::<Usage>() && refused.to_string().starts_with("--state"));
        for text in ["", "{}", "c1"] {
            fs::write(&path, text).unwrap();
            let refused = open(&path, since, "types=a").err().unwrap().to_string();
            assert!(refused.contains("remove it"), "{refused}");
        }
    }
}
