use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use relay_event::Invalid;

/// Where the store is: `sqlite:` and the path of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl(PathBuf);

impl StoreUrl {
    /// An SQLite file.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for StoreUrl {
    type Err = Invalid;

    /// The refusal does not repeat what was given: a URL of another kind may hold a password.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let path = text.strip_prefix("sqlite:").unwrap_or_default();
        let path = path.strip_prefix("//").unwrap_or(path);
        // SQLite reads these as something else than a file of that name.
        let special = path == ":memory:" || path.starts_with("file:");
        if path.is_empty() || special || path.contains(['?', '\0']) {
            return Err(Invalid::new(
                "store",
                "must be `sqlite:` and the path of a file, without parameters, such as sqlite:relay.db or sqlite:/var/lib/relay/relay.db",
            ));
        }
        Ok(Self::sqlite(path))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_file() {
        for (text, path) in [
            ("sqlite:relay.db", "relay.db"),
            ("sqlite:/var/lib/relay.db", "/var/lib/relay.db"),
            ("sqlite:///var/lib/relay.db", "/var/lib/relay.db"),
            ("sqlite://relay.db", "relay.db"),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.path(), Path::new(path));
            assert_eq!(url.to_string().parse(), Ok(url));
        }
    }

    #[test]
    fn other_kinds_are_refused_without_repeating_a_password() {
        for text in [
            "",
            "relay.db",
            "sqlite:",
            "sqlite://",
            "sqlite::memory:",
            "sqlite:file:relay.db",
            "sqlite:relay.db?mode=ro",
            "postgres://relay:hunter2@localhost/relay",
        ] {
            let refused = text.parse::<StoreUrl>().unwrap_err();
            assert_eq!(refused.field, "store");
            assert!(!refused.problem.contains("hunter2"));
        }
    }
}
