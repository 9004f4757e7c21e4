//! The one place with PostgreSQL's own ways: how its server is reached, and what its error codes mean.

use std::time::Duration;

use sqlx::{
    ConnectOptions, Connection, PgConnection,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgDatabaseError, PgPoolOptions},
};
use tokio::time::timeout;
use url::Url;

use crate::{Error, StoreUrl, error, pool::Pool, schema};

/// How long it may take to reach the server, and to get a connection from the pool.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// How long a connection may take to show that it is still one.
const ANSWER: Duration = Duration::from_secs(2);

/// How long anything may take, all its statements together. Longer than the server allows a statement.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// One writes, the others read.
const CONNECTIONS: u32 = 8;

/// What every session asks of the server: to end by itself what nobody may wait for any more, so that
/// a process that froze in the middle of a write does not hold up all others for longer; and to read
/// along the indexes, which every question here has in its order. Of a table that has grown since it
/// was last analyzed it would otherwise believe that reading and sorting all of it is less. Compiling
/// a query that then seems dear takes longer than any of them. A statement that waited for another
/// one's commit goes on with what that wrote, whatever the server's own default is.
const SESSION: [(&str, &str); 10] = [
    ("default_transaction_isolation", "read committed"),
    ("enable_bitmapscan", "off"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("statement_timeout", "30s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("tcp_keepalives_idle", "30"),
    ("tcp_user_timeout", "30000"),
    ("client_min_messages", "warning"),
];

/// Each statement sees what was committed before it: also what the writer before this one wrote.
pub(crate) const WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
pub(crate) const READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Whoever brings the tables up to date has this lock: "Rely" in ASCII.
const SCHEMA_LOCK: i64 = 0x5265_6c79;

pub(crate) async fn open(url: &StoreUrl, server: &Url) -> Result<Pool, Error> {
    let opening = |source| opening(url, source);
    let options = options(server).map_err(opening)?;
    let mut connection = timeout(CONNECT, options.connect())
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))
        .map_err(opening)?;
    update_schema(url, &mut connection).await?;
    connection.close().await.map_err(opening)?;
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(CONNECT)
        // Instead of sqlx's own test, which waits without end for a connection that froze.
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(async { Ok(answers(connection).await) }))
        .after_release(|connection, _| Box::pin(async { Ok(answers(connection).await) }));
    Ok(Pool::postgres(pool.connect_lazy_with(options)))
}

/// What a URL says, with what every session of the relay needs.
pub(crate) fn options(server: &Url) -> Result<PgConnectOptions, sqlx::Error> {
    let given: PgConnectOptions = server.as_str().parse()?;
    let options = given.clone().options(SESSION).disable_statement_logging();
    Ok(match given.get_application_name() {
        Some(_) => options,
        None => options.application_name("relay"),
    })
}

async fn answers(connection: &mut PgConnection) -> bool {
    matches!(timeout(ANSWER, connection.ping()).await, Ok(Ok(())))
}

/// In one transaction that only one process is in at a time.
async fn update_schema(url: &StoreUrl, connection: &mut PgConnection) -> Result<(), Error> {
    let opening = |source| opening(url, source);
    let mut alone = connection.begin_with(WRITE).await.map_err(opening)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(SCHEMA_LOCK)
        .execute(&mut *alone)
        .await
        .map_err(opening)?;
    sqlx::query("SET LOCAL statement_timeout = 0")
        .execute(&mut *alone)
        .await
        .map_err(opening)?;
    schema::postgres()
        .set_locking(false)
        .run_direct(None, &mut *alone, false)
        .await
        .map_err(|error| match error {
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => opening(source),
            source => Error::Schema { source },
        })?;
    alone.commit().await.map_err(opening)
}

/// Whether it may work later, unchanged. What is left are the refusals of what was to be written.
pub(crate) fn is_unavailable(error: &PgDatabaseError) -> bool {
    let code = error.code();
    let class = code.get(..2).unwrap_or_default();
    // Connection, login, transaction rollback, resources, locks, operator, system, internal.
    let classes = ["08", "28", "40", "53", "55", "57", "58", "XX"];
    // A standby; a session that idled; no such database, rights or tables, as while one is restored.
    let codes = ["25006", "25P03", "3D000", "42501", "42P01"];
    classes.contains(&class) || codes.contains(&code)
}

fn opening(url: &StoreUrl, source: sqlx::Error) -> Error {
    match problem(&source) {
        Some(problem) => Error::Refused {
            url: url.to_string(),
            problem,
            source: error::cause(source),
        },
        None => Error::of(format!("open the store {url}"), source),
    }
}

/// What only an operator can mend.
fn problem(error: &sqlx::Error) -> Option<&'static str> {
    if let sqlx::Error::Tls(_) = error {
        return Some("no TLS with the server: see `sslmode` and `sslrootcert` in the store's URL");
    }
    if let sqlx::Error::Configuration(_) = error {
        return Some("the store's URL, or a file it names, cannot be used");
    }
    let refused: &PgDatabaseError = error.as_database_error()?.try_downcast_ref()?;
    Some(match refused.code() {
        code if code.starts_with("28") => {
            "the server does not let this user in: check the user and the password in the store's URL"
        }
        "3D000" => "the server has no such database: create it, for instance with `createdb`",
        "42501" => {
            "the user may not do this: make it the database's owner, or grant it CREATE on the schema and all rights on the relay's tables"
        }
        "3F000" => "the database has no schema to create tables in",
        "42P07" => "it holds tables of another program: give the relay a database of its own",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, PgConnection};

    use crate::Error;

    #[tokio::test]
    async fn only_a_refusal_of_what_is_written_is_a_failure() {
        let url = relay_testkit::database().await;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        for (code, unavailable) in [
            ("08006", true),  // connection failure
            ("53100", true),  // disk full
            ("53300", true),  // too many connections
            ("40001", true),  // serialization failure
            ("40P01", true),  // deadlock
            ("55P03", true),  // lock timeout
            ("57014", true),  // statement timeout
            ("57P01", true),  // shutdown
            ("58030", true),  // failing disk
            ("25006", true),  // a standby
            ("XX001", true),  // corrupted
            ("22021", false), // a text that is none
            ("22003", false), // a number out of range
            ("23505", false), // twice
            ("54000", false), // too large
        ] {
            let raise = format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$");
            let raised = sqlx::query(AssertSqlSafe(raise)).execute(&mut connection).await;
            let error = Error::of("try", raised.unwrap_err());
            assert_eq!(error.is_unavailable(), unavailable, "{code}");
        }
    }
}
