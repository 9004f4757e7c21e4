//! Changes of endpoints. Each takes the next number of the fleet's version, and the fleet's row is locked until
//! the change is committed: so numbers are committed in their order, whichever process takes them, and a reader
//! of a number has missed no change with a lower one.
//!
//! SQLite has one writer anyway: a change is a transaction, and begins with the number. In PostgreSQL all changes
//! wait for that row. So a change is one statement that commits by itself: the row is locked while the server
//! writes and commits, and not while it waits for the relay. Only [`mark`] is part of a longer transaction, at its end.

use sqlx::{Error, PgPool, Postgres, QueryBuilder, Sqlite, SqlitePool, query::Query};
use uuid::Uuid;

use super::Row;
use crate::{
    pool::{Either, Pool, Transaction, on},
    sqlite,
};

pub(crate) async fn insert(pool: &Pool, row: &Row, change: &str) -> Result<(), Error> {
    match &pool.writing {
        Either::Sqlite(pool) => {
            let insert = "INSERT INTO endpoints (id, document, version, changed_in) VALUES ($1, $2, $3, $4)";
            let (mut tx, number) = begin(pool, change).await?;
            sqlx::query(insert)
                .bind(&row.id)
                .bind(&row.document)
                .bind(row.version)
                .bind(number)
                .execute(&mut *tx)
                .await?;
            tx.commit().await
        }
        Either::Postgres(pool) => {
            let insert = "WITH next AS (UPDATE fleet SET number = number + 1, change = $1 RETURNING number)
                INSERT INTO endpoints (id, document, version, changed_in)
                SELECT $2, $3, $4, number FROM next";
            let insert = sqlx::query(insert)
                .bind(change)
                .bind(&row.id)
                .bind(&row.document)
                .bind(row.version);
            changed(pool, insert).await.map(drop)
        }
    }
}

/// Writes `row` as the next version; `false` if the stored one is no longer `row.version`.
pub(crate) async fn update(pool: &Pool, row: &Row, change: &str) -> Result<bool, Error> {
    match &pool.writing {
        Either::Sqlite(pool) => {
            let update = "UPDATE endpoints SET document = $1, version = version + 1, changed_in = $2
                WHERE id = $3 AND version = $4 AND document IS NOT NULL";
            let (tx, number) = begin(pool, change).await?;
            let update = sqlx::query(update)
                .bind(&row.document)
                .bind(number)
                .bind(&row.id)
                .bind(row.version);
            commit_if_changed(tx, update).await
        }
        Either::Postgres(pool) => {
            // Locks the endpoint before the fleet, and takes no number for an endpoint that others changed.
            let update = "WITH stored AS (
                    SELECT id FROM endpoints WHERE id = $1 AND version = $2 AND document IS NOT NULL FOR UPDATE
                ), next AS (
                    UPDATE fleet SET number = number + 1, change = $3
                    WHERE EXISTS (SELECT FROM stored) RETURNING number
                )
                UPDATE endpoints SET document = $4, version = version + 1, changed_in = next.number
                FROM next WHERE id = $1";
            let update = sqlx::query(update)
                .bind(&row.id)
                .bind(row.version)
                .bind(change)
                .bind(&row.document);
            changed(pool, update).await
        }
    }
}

/// An endpoint's row as it was when the endpoint's time was over, and the epoch of the process that removes it.
pub(crate) struct Expired {
    pub(crate) version: i64,
    pub(crate) epoch: i64,
}

/// Makes an endpoint's row that of a removed one, if there is one; `false` if there is none. If it is removed because
/// its time is over, it must still be the row of then, and the epoch must not be over. Removals before `forget` are
/// forgotten.
pub(crate) async fn remove(
    pool: &Pool,
    id: &str,
    change: &str,
    expired: Option<Expired>,
    now: i64,
    forget: i64,
) -> Result<bool, Error> {
    let version = expired.as_ref().map(|expired| expired.version);
    let epoch = expired.map(|expired| expired.epoch);
    match &pool.writing {
        Either::Sqlite(pool) => {
            let remove = "UPDATE endpoints SET document = NULL, changed_in = $1, removed_at = $2
                WHERE id = $3 AND document IS NOT NULL AND ($4 IS NULL OR version = $4)
                AND ($5 IS NULL OR EXISTS (SELECT 1 FROM duty WHERE epoch = $5))";
            let (mut tx, number) = begin(pool, change).await?;
            forget_removals(&mut tx, forget).await?;
            let remove = sqlx::query(remove)
                .bind(number)
                .bind(now)
                .bind(id)
                .bind(version)
                .bind(epoch);
            commit_if_changed(tx, remove).await
        }
        Either::Postgres(pool) => {
            // The epoch's row is locked too, so that the epoch is not over before this is committed.
            let remove = "WITH current AS (
                    SELECT epoch FROM duty WHERE epoch = $6 FOR SHARE
                ), stored AS (
                    SELECT id FROM endpoints WHERE id = $1 AND document IS NOT NULL
                    AND ($5::bigint IS NULL OR version = $5)
                    AND ($6::bigint IS NULL OR EXISTS (SELECT FROM current)) FOR UPDATE
                ), next AS (
                    UPDATE fleet SET number = number + 1, change = $2, forgotten = greatest(
                        forgotten, (SELECT max(changed_in) FROM endpoints WHERE removed_at < $4)
                    )
                    WHERE EXISTS (SELECT FROM stored) RETURNING number
                ), forgotten AS (
                    DELETE FROM endpoints WHERE removed_at < $4 AND EXISTS (SELECT FROM next)
                )
                UPDATE endpoints SET document = NULL, changed_in = next.number, removed_at = $3
                FROM next WHERE id = $1";
            let remove = sqlx::query(remove)
                .bind(id)
                .bind(change)
                .bind(now)
                .bind(forget)
                .bind(version)
                .bind(epoch);
            changed(pool, remove).await
        }
    }
}

/// Marks endpoints, of which a delivery that had not ended is begun anew or canceled in this transaction, with the next
/// number of the fleet's version. Those that were removed have none. It locks the endpoints and then the fleet, as
/// [`update`] does, until the transaction ends: so it comes last there.
pub(crate) async fn mark(tx: &mut Transaction, ids: &[&str]) -> Result<(), Error> {
    let next = "UPDATE fleet SET number = number + 1, change = $1 RETURNING number";
    if let Either::Postgres(tx) = tx {
        let lock =
            "SELECT id FROM endpoints WHERE id = ANY($1) AND document IS NOT NULL ORDER BY id FOR UPDATE";
        sqlx::query(lock).bind(ids).execute(&mut **tx).await?;
    }
    let number: i64 =
        on!(&mut *tx, tx => sqlx::query_scalar(next).bind(new_change()).fetch_one(&mut **tx).await?);
    for chunk in ids.chunks(IDS) {
        on!(&mut *tx, tx => {
            let mut update = QueryBuilder::new("UPDATE endpoints SET changed_in = ");
            update.push(number).push(", overtaken = ").push(number);
            update.push(" WHERE document IS NOT NULL AND id IN (");
            let mut list = update.separated(", ");
            for id in chunk {
                list.push_bind(*id);
            }
            update.push(")").build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

/// Ids in a statement.
const IDS: usize = 500;

/// The id of a change; no other has it.
pub(crate) fn new_change() -> String {
    Uuid::now_v7().simple().to_string()
}

async fn forget_removals(tx: &mut sqlx::Transaction<'_, Sqlite>, before: i64) -> Result<(), Error> {
    let note = "UPDATE fleet SET forgotten = max(
        forgotten, coalesce((SELECT max(changed_in) FROM endpoints WHERE removed_at < $1), 0)
    )";
    let forget = "DELETE FROM endpoints WHERE removed_at < $1";
    for sql in [note, forget] {
        sqlx::query(sql).bind(before).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Begins a change in SQLite, and returns the fleet's new number.
async fn begin(pool: &SqlitePool, change: &str) -> Result<(sqlx::Transaction<'static, Sqlite>, i64), Error> {
    let next = "UPDATE fleet SET number = number + 1, change = $1 RETURNING number";
    let mut tx = pool.begin_with(sqlite::WRITE).await?;
    let number = sqlx::query_scalar(next).bind(change).fetch_one(&mut *tx).await?;
    Ok((tx, number))
}

/// Ends a change in SQLite; one that finds no row is undone.
async fn commit_if_changed(
    mut tx: sqlx::Transaction<'static, Sqlite>,
    change: Query<'_, Sqlite, <Sqlite as sqlx::Database>::Arguments>,
) -> Result<bool, Error> {
    let changed = change.execute(&mut *tx).await?.rows_affected() == 1;
    if changed {
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    Ok(changed)
}

/// Makes a change in PostgreSQL, and returns whether it found a row.
async fn changed(
    pool: &PgPool,
    change: Query<'_, Postgres, <Postgres as sqlx::Database>::Arguments>,
) -> Result<bool, Error> {
    Ok(change.execute(pool).await?.rows_affected() == 1)
}
