use std::path::PathBuf;

use relay_event::{EndpointId, Invalid};
use sqlx::{migrate::MigrateError, postgres::PgDatabaseError, sqlite::SqliteError};

use crate::{postgres, sqlite};

/// What a database said. Its text is the database's own, not sqlx's around it.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be reached, is locked for too long, or its disk is full or failing. It
    /// may work later.
    #[error("could not {operation}: the database is unavailable")]
    Unavailable {
        /// What was asked of it.
        operation: String,
        /// What it said.
        source: Cause,
    },
    /// The database refused, in a way that trying again does not help.
    #[error("could not {operation}")]
    Failed {
        /// What was asked of it.
        operation: String,
        /// What it said.
        source: Cause,
    },
    /// The file cannot be opened.
    #[error("could not open the store {}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it must be.
        problem: &'static str,
        /// What the system said.
        source: Cause,
    },
    /// The server, or the database in it, does not let the relay use it.
    #[error("could not open the store {url}: {problem}")]
    Refused {
        /// The store, without a password.
        url: String,
        /// What must be otherwise.
        problem: &'static str,
        /// What the server said.
        source: Cause,
    },
    /// The file holds something else. It was not changed.
    #[error("{} is not a relay's store: {problem}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        problem: &'static str,
    },
    /// The tables are not those of this version, such as when a newer relay changed them.
    #[error("the store's tables were made by another version of the relay")]
    Schema {
        /// The difference.
        source: MigrateError,
    },
    /// What is stored of an endpoint does not read.
    #[error("endpoint {id}: its stored document does not parse")]
    Unreadable {
        /// The endpoint as it is stored.
        id: String,
        /// Why.
        source: serde_json::Error,
    },
    /// There is an endpoint of this id, or there was one within the last week.
    #[error("endpoint {id} exists already, or was deleted within the last week")]
    Exists {
        /// The endpoint.
        id: EndpointId,
    },
    /// The change was refused, and nothing was changed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl Error {
    /// Whether it may work later without anyone changing the request: a 503, or a wait.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// What `operation` failed of.
    pub(crate) fn of(operation: impl Into<String>, source: sqlx::Error) -> Self {
        let operation = operation.into();
        let unavailable = is_unavailable(&source);
        let source = cause(source);
        if unavailable {
            Self::Unavailable { operation, source }
        } else {
            Self::Failed { operation, source }
        }
    }
}

/// Only a refusal of what was to be written is a failure: whoever writes may give that up for good, so
/// anything wrong with the database or the way to it must not look like one.
fn is_unavailable(error: &sqlx::Error) -> bool {
    if let Some(error) = error.as_database_error() {
        let sqlite: Option<&SqliteError> = error.try_downcast_ref();
        let postgres: Option<&PgDatabaseError> = error.try_downcast_ref();
        return sqlite.is_some_and(sqlite::is_unavailable) || postgres.is_some_and(postgres::is_unavailable);
    }
    matches!(
        error,
        sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed
            | sqlx::Error::InvalidSavePointStatement
    )
}

/// sqlx's own text repeats that of what it holds; so what it holds is taken.
pub(crate) fn cause(error: sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Database(inner) => Box::new(inner),
        sqlx::Error::Io(inner) => Box::new(inner),
        sqlx::Error::Configuration(inner)
        | sqlx::Error::Tls(inner)
        | sqlx::Error::Decode(inner)
        | sqlx::Error::Encode(inner) => inner,
        sqlx::Error::PoolTimedOut => "no connection in time".into(),
        other => Box::new(other),
    }
}
