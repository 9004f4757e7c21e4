use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use relay_event::Invalid;
use url::Url;

use crate::postgres;

/// Where the store is: `sqlite:` and the path of a file, or the `postgres://` URL of a database, whose
/// password may also stand in `PGPASSWORD` or `~/.pgpass`. What it prints never holds the password.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(pub(crate) Place);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Sqlite(PathBuf),
    Postgres(Url),
}

/// The parameters a PostgreSQL URL may have. Others would only be ignored.
const PARAMETERS: [&str; 12] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

impl StoreUrl {
    /// An SQLite file.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(Place::Sqlite(path.into()))
    }

    /// The file, if it is SQLite.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Sqlite(path) => Some(path),
            Place::Postgres(_) => None,
        }
    }
}

impl FromStr for StoreUrl {
    type Err = Invalid;

    /// The refusal does not repeat what was given: it may hold a password.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return postgres(text).map(|url| Self(Place::Postgres(url)));
        }
        let path = text.strip_prefix("sqlite:").unwrap_or_default();
        let path = path.strip_prefix("//").unwrap_or(path);
        // SQLite reads these as something else than a file of that name.
        let special = path == ":memory:" || path.starts_with("file:");
        if path.is_empty() || special || path.contains(['?', '\0']) {
            return Err(refused(
                "must be `sqlite:` and the path of a file, without parameters, such as sqlite:relay.db or sqlite:/var/lib/relay/relay.db, or postgres://user:password@host:port/database",
            ));
        }
        Ok(Self::sqlite(path))
    }
}

fn postgres(text: &str) -> Result<Url, Invalid> {
    let url: Url = text.parse().map_err(|error| {
        refused(format!(
            "must be postgres://user:password@host:port/database, with special characters of the password written as %40 (@), %2F (/) and so on: {error}"
        ))
    })?;
    for (name, _) in url.query_pairs() {
        if !PARAMETERS.contains(&name.as_ref()) {
            let known = PARAMETERS.join(", ");
            return Err(refused(format!("may have the parameters {known}, not {name:?}")));
        }
    }
    let options = postgres::options(&url).map_err(|error| refused(format!("cannot be used: {error}")))?;
    if options.get_database().is_none_or(str::is_empty) {
        return Err(refused(
            "must name a database: postgres://user:password@host:port/database",
        ));
    }
    Ok(url)
}

fn refused(problem: impl Into<String>) -> Invalid {
    Invalid::new("store", problem)
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Place::Postgres(url) => f.write_str(without_password(url).as_str()),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

fn without_password(url: &Url) -> Url {
    let mut shown = url.clone();
    // It fails only for a URL that cannot have one.
    let _ = shown.set_password(None);
    shown.set_query(None);
    for (name, value) in url.query_pairs().filter(|(name, _)| name != "password") {
        shown.query_pairs_mut().append_pair(&name, &value);
    }
    shown
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
            assert_eq!(url.path(), Some(Path::new(path)));
            assert_eq!(url.to_string().parse(), Ok(url));
        }
    }

    #[test]
    fn names_a_database_and_hides_its_password() {
        for (text, shown) in [
            ("postgres://localhost/relay", "postgres://localhost/relay"),
            (
                "postgresql://relay:hunter2@db:5433/relay?sslmode=require",
                "postgresql://relay@db:5433/relay?sslmode=require",
            ),
            (
                "postgres://relay@db/relay?password=hunter2&application_name=a",
                "postgres://relay@db/relay?application_name=a",
            ),
            (
                "postgres:///relay?host=/run/postgresql",
                "postgres:///relay?host=%2Frun%2Fpostgresql",
            ),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("StoreUrl({shown})"));
            assert_eq!(url.path(), None);
        }
    }

    #[test]
    fn what_is_no_store_is_refused_without_repeating_a_password() {
        for text in [
            "",
            "relay.db",
            "sqlite:",
            "sqlite://",
            "sqlite::memory:",
            "sqlite:file:relay.db",
            "sqlite:relay.db?mode=ro",
            "mysql://relay:hunter2@localhost/relay",
            "postgres:relay",
            "postgres://relay:hunter2@localhost",
            "postgres://relay:hunter2@localhost/",
            "postgres://relay:hunter2@localhost:port/relay",
            "postgres://relay:hunter2/9@localhost/relay",
            "postgres://relay@localhost/relay?passwd=hunter2",
            "postgres://relay:hunter2@localhost/relay?sslmode=maybe",
            "postgres://relay:hunter2@localhost/relay?port=http",
        ] {
            let refused = text.parse::<StoreUrl>().unwrap_err();
            assert_eq!(refused.field, "store", "{text}");
            assert!(!refused.problem.contains("hunter2"), "{refused}");
        }
    }
}
