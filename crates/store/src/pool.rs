//! The connections to either database, and the macro by which a statement is written once for both.

use std::time::Duration;

use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, Postgres, Sqlite, SqliteConnection, SqlitePool,
};
use tokio::time::timeout;

use crate::{postgres, sqlite};

/// A thing of one of the two databases.
#[derive(Debug, Clone)]
pub(crate) enum Either<S, P> {
    Sqlite(S),
    Postgres(P),
}

/// A transaction on a connection of a pool. Rolls back unless it is committed. Statements run on `&mut **` of
/// what is in it.
pub(crate) type Transaction = TransactionOn<'static>;

/// A transaction that may be on a connection of somebody's own.
pub(crate) type TransactionOn<'c> = Either<sqlx::Transaction<'c, Sqlite>, sqlx::Transaction<'c, Postgres>>;

/// A connection of somebody's own.
pub(crate) type Own = Either<SqliteConnection, PgConnection>;

/// `on!(either, it => expression)`: the expression, compiled for each database. Its value must be of
/// one type.
macro_rules! on {
    ($either:expr, $it:ident => $body:expr) => {
        match $either {
            $crate::pool::Either::Sqlite($it) => $body,
            $crate::pool::Either::Postgres($it) => $body,
        }
    };
}
pub(crate) use on;

/// Clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    /// Of SQLite these cannot write.
    pub(crate) reading: Either<SqlitePool, PgPool>,
    /// SQLite lets waiting writers race for its lock, and a busy one wins again and again; so there is one
    /// connection, for which the writers of a process queue. PostgreSQL has queues of its own.
    pub(crate) writing: Either<SqlitePool, PgPool>,
    /// How long anything may take, all of its statements together.
    limit: Option<Duration>,
}

impl Pool {
    pub(crate) fn sqlite(reading: SqlitePool, writing: SqlitePool) -> Self {
        Self {
            reading: Either::Sqlite(reading),
            writing: Either::Sqlite(writing),
            limit: None,
        }
    }

    pub(crate) fn postgres(pool: PgPool) -> Self {
        Self {
            reading: Either::Postgres(pool.clone()),
            writing: Either::Postgres(pool),
            limit: Some(postgres::LIMIT),
        }
    }

    /// Does `work`, unless it takes too long: a connection whose other end froze never says so.
    pub(crate) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        self.within_time(Duration::MAX, work).await
    }

    /// Does `work` as [`Self::within`], and in PostgreSQL gives it up after `limit` at the latest.
    pub(crate) async fn within_time<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match self.limit.map(|longest| longest.min(limit)) {
            Some(limit) => timeout(limit, work).await.unwrap_or_else(|_| Err(silent(limit))),
            None => work.await,
        }
    }

    /// Opens a connection beside the pool, to read.
    pub(crate) async fn connect(&self) -> Result<Own, sqlx::Error> {
        match &self.reading {
            Either::Sqlite(pool) => pool.connect_options().connect().await.map(Either::Sqlite),
            Either::Postgres(pool) => {
                let options = pool.connect_options();
                let connecting = async { options.connect().await.map(Either::Postgres) };
                self.within_time(postgres::CONNECT, connecting).await
            }
        }
    }

    /// To write: sees what others have committed when each of its statements begins.
    pub(crate) async fn write(&self) -> Result<Transaction, sqlx::Error> {
        match &self.writing {
            Either::Sqlite(pool) => pool.begin_with(sqlite::WRITE).await.map(Either::Sqlite),
            Either::Postgres(pool) => begin(pool.clone(), postgres::WRITE).await.map(Either::Postgres),
        }
    }

    /// To read: all its statements see the same moment. It waits for no writer and no writer for it.
    pub(crate) async fn read(&self) -> Result<Transaction, sqlx::Error> {
        match &self.reading {
            Either::Sqlite(pool) => pool.begin_with(sqlite::READ).await.map(Either::Sqlite),
            Either::Postgres(pool) => begin(pool.clone(), postgres::READ).await.map(Either::Postgres),
        }
    }
}

/// Begins to read on a connection of somebody's own: all statements see the same moment. Whoever gives it up while
/// it begins must give up the connection too.
pub(crate) async fn read_on(connection: &mut Own) -> Result<TransactionOn<'_>, sqlx::Error> {
    match connection {
        Either::Sqlite(connection) => connection.begin_with(sqlite::READ).await.map(Either::Sqlite),
        Either::Postgres(connection) => connection.begin_with(postgres::READ).await.map(Either::Postgres),
    }
}

/// To its end, even if nobody waits for it any more: sqlx forgets a transaction of PostgreSQL that is given up
/// while it begins, and who gets the connection next would read the past in it.
async fn begin(
    pool: PgPool,
    statement: &'static str,
) -> Result<sqlx::Transaction<'static, Postgres>, sqlx::Error> {
    let beginning = tokio::spawn(async move { pool.begin_with(statement).await });
    beginning.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// Commits; what it returns on failure does not tell whether it happened.
pub(crate) async fn commit(transaction: Transaction) -> Result<(), sqlx::Error> {
    on!(transaction, it => it.commit().await)
}

fn silent(limit: Duration) -> sqlx::Error {
    let problem = format!("no answer within {limit:?}");
    std::io::Error::new(std::io::ErrorKind::TimedOut, problem).into()
}
