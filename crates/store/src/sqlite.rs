//! The one place with SQLite's own ways: how its file is opened, and what its error codes mean.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, SqliteConnection,
    error::DatabaseError,
    migrate::MigrateError,
    sqlite::{SqliteConnectOptions, SqliteError, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{Error, error, pool::Pool, schema};

/// How long a writer waits for one of another process.
const BUSY: Duration = Duration::from_secs(5);

/// Readers wait for nobody.
const READERS: u32 = 8;

/// What the writer may keep of the file in memory, and what each reader: 16 and 2 MiB, in SQLite's way of
/// saying it.
const WRITER_CACHE: &str = "-16384";
const READER_CACHE: &str = "-2048";

/// What a write-ahead log that once grew keeps of its size: 64 MiB.
const JOURNAL: &str = "67108864";

/// Takes the writer's lock at once: a transaction that read first could not wait for it.
pub(crate) const WRITE: &str = "BEGIN IMMEDIATE";
pub(crate) const READ: &str = "BEGIN";

/// "Rely" in ASCII, in the file's header: this is how a relay's store is told from other files.
const APPLICATION_ID: i32 = 0x5265_6c79;

/// SQLite's primary result codes.
mod code {
    /// What the tables or the statement are to blame for, and no value in it.
    pub(super) const ERROR: i32 = 1;
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const NOMEM: i32 = 7;
    pub(super) const READONLY: i32 = 8;
    pub(super) const INTERRUPT: i32 = 9;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const PROTOCOL: i32 = 15;
    pub(super) const NOTADB: i32 = 26;
}

pub(crate) async fn open(path: &Path) -> Result<Pool, Error> {
    create(path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY)
        .foreign_keys(true)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", READER_CACHE)
        .pragma("journal_size_limit", JOURNAL)
        .disable_statement_logging();
    let opening = |source| opening(path, source);
    let mut connection = options.connect().await.map_err(opening)?;
    update_schema(path, &mut connection).await?;
    write_ahead(&mut connection).await.map_err(opening)?;
    connection.close().await.map_err(opening)?;
    let writing = pool(1).connect_lazy_with(options.clone().pragma("cache_size", WRITER_CACHE));
    let options = options.pragma("query_only", "on");
    let reading = pool(READERS).connect_with(options).await.map_err(opening)?;
    Ok(Pool::sqlite(reading, writing))
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(2 * BUSY) // so long too a writer waits for the others of its process
        // Asked anything, a connection first ends the rollback it may have been left with.
        .test_before_acquire(true)
        .before_acquire(|connection, _| Box::pin(async { Ok(is_clean(connection)) }))
}

/// Whether a connection is in no transaction. SQLite rolls back by itself when its disk is full or
/// fails; the rollback that sqlx tries then fails too, and it takes the connection to be in a
/// transaction for ever.
fn is_clean(connection: &SqliteConnection) -> bool {
    !connection.is_in_transaction()
}

/// Only its owner may read it, for it holds secrets. SQLite gives its side files the same mode.
fn create(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Err(foreign(path, "it is a folder"));
    }
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    // An existing file is not even opened: to close it would drop the locks that another
    // connection of this process has on it.
    let source = match created {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => error,
        _ => return Ok(()),
    };
    let problem = match source.kind() {
        io::ErrorKind::NotFound => "its folder does not exist",
        _ => "it cannot be created in its folder",
    };
    Err(unusable(path, problem, Box::new(source)))
}

/// In one transaction that only one process is in at a time. A database of another program is left
/// alone: nothing is written before it is known whose it is.
async fn update_schema(path: &Path, connection: &mut SqliteConnection) -> Result<(), Error> {
    let opening = |source| opening(path, source);
    let mut alone = connection.begin_with("BEGIN IMMEDIATE").await.map_err(opening)?;
    let application: i32 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *alone)
        .await
        .map_err(opening)?;
    let tables: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master")
        .fetch_one(&mut *alone)
        .await
        .map_err(opening)?;
    match (application, tables) {
        (APPLICATION_ID, _) => {}
        (0, 0) => sqlx::query(AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}")))
            .execute(&mut *alone)
            .await
            .map(drop)
            .map_err(opening)?,
        _ => return Err(foreign(path, "it is another program's database")),
    }
    // What `run` does; but that one's future can be spawned by no caller of ours.
    schema::sqlite()
        .run_direct(None, &mut *alone, false)
        .await
        .map_err(|error| match error {
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => opening(source),
            source => Error::Schema { source },
        })?;
    alone.commit().await.map_err(opening)
}

/// Readers and the writer no longer wait for each other. It stays so in the file. SQLite does not
/// wait by itself for its turn to change this.
async fn write_ahead(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let started = Instant::now();
    loop {
        let changed = sqlx::query("PRAGMA journal_mode = WAL")
            .execute(&mut *connection)
            .await;
        match changed {
            Err(error) if primary(&error) == Some(code::BUSY) && started.elapsed() < BUSY => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done => return done.map(drop),
        }
    }
}

/// Whether it may work later, unchanged.
pub(crate) fn is_unavailable(error: &SqliteError) -> bool {
    use code::*;
    matches!(
        primary_of(error),
        Some(
            ERROR
                | BUSY
                | LOCKED
                | NOMEM
                | READONLY
                | INTERRUPT
                | IOERR
                | CORRUPT
                | FULL
                | CANTOPEN
                | PROTOCOL
        )
    )
}

/// SQLite's primary result code: the low byte of the extended one.
fn primary(error: &sqlx::Error) -> Option<i32> {
    primary_of(error.as_database_error()?.try_downcast_ref()?)
}

fn primary_of(error: &SqliteError) -> Option<i32> {
    let code: i32 = error.code()?.parse().ok()?;
    Some(code & 0xff)
}

fn opening(path: &Path, source: sqlx::Error) -> Error {
    match primary(&source) {
        Some(code::NOTADB) => foreign(path, "it is not an SQLite database"),
        Some(code::PERM | code::CANTOPEN | code::READONLY) => unusable(
            path,
            "this user must be able to read and write it and its folder",
            error::cause(source),
        ),
        _ => Error::of(format!("open the store {}", path.display()), source),
    }
}

fn foreign(path: &Path, problem: &'static str) -> Error {
    let path = path.to_owned();
    Error::Foreign { path, problem }
}

fn unusable(path: &Path, problem: &'static str, source: error::Cause) -> Error {
    let path = path.to_owned();
    Error::File {
        path,
        problem,
        source,
    }
}

#[cfg(test)]
mod tests {
    use relay_event::{Endpoint, Secret, Timestamp};
    use tempfile::TempDir;

    use crate::{Store, StoreUrl, pool::Either};

    #[tokio::test]
    async fn a_full_disk_is_unavailable() {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&StoreUrl::sqlite(folder.path().join("relay.db")))
            .await
            .unwrap();
        let Either::Sqlite(pool) = &store.pool.writing else {
            panic!("SQLite");
        };
        sqlx::query("PRAGMA max_page_count = 40")
            .execute(pool)
            .await
            .unwrap();
        let refused = loop {
            let endpoint = Endpoint::new(
                "https://example.com/hook".parse().unwrap(),
                vec!["#".parse().unwrap()],
                Secret::generate(),
                Timestamp::now(),
            );
            if let Err(refused) = store.insert(&endpoint).await {
                break refused;
            }
        };
        assert!(refused.is_unavailable(), "{refused:?}");
        store.endpoints().await.unwrap();
    }
}
