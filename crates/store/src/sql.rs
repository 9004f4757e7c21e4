//! Every statement about endpoints, in SQL that SQLite and PostgreSQL both take. Rows go in and come
//! out as they are stored; what they mean is said elsewhere.
//!
//! Each change is a transaction of two statements, the first of which adds one to the fleet's number. That
//! row's lock makes changes wait for each other in all processes, so numbers are committed in their order: who
//! has read up to a number has missed no change before it. Nothing else is waited for in between, and what a
//! change depends on is read before.

use sqlx::Error;

use crate::pool::{self, Pool, Transaction, on};

/// A row of `endpoints`. Its document holds secrets, so it does not print.
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) document: String,
    pub(crate) bound: String,
    pub(crate) version: i64,
}

type Columns = (String, String, String, i64);

impl From<Columns> for Row {
    fn from((id, document, bound, version): Columns) -> Self {
        Self {
            id,
            document,
            bound,
            version,
        }
    }
}

type FleetColumns = (String, i64, String, i64);

/// The row of `fleet`.
pub(crate) struct Fleet {
    pub(crate) lineage: String,
    pub(crate) number: i64,
    pub(crate) change: String,
    pub(crate) forgotten: i64,
}

impl From<FleetColumns> for Fleet {
    fn from((lineage, number, change, forgotten): FleetColumns) -> Self {
        Self {
            lineage,
            number,
            change,
            forgotten,
        }
    }
}

const ENDPOINTS: &str =
    "SELECT id, document, bound, version FROM endpoints WHERE document IS NOT NULL ORDER BY id";

const FLEET: &str = "SELECT lineage, number, change, forgotten FROM fleet";

/// Reads a page of the file, where `SELECT 1` would not.
pub(crate) async fn ping(pool: &Pool) -> Result<(), Error> {
    let sql = "SELECT 1 FROM endpoints LIMIT 1";
    on!(&pool.reading, pool => sqlx::query(sql).fetch_optional(pool).await.map(drop))
}

pub(crate) async fn endpoints(pool: &Pool) -> Result<Vec<Row>, Error> {
    let rows: Vec<Columns> = on!(&pool.reading, pool => sqlx::query_as(ENDPOINTS).fetch_all(pool).await?);
    Ok(rows.into_iter().map(Row::from).collect())
}

pub(crate) async fn endpoint(pool: &Pool, id: &str) -> Result<Option<Row>, Error> {
    let sql = "SELECT id, document, bound, version FROM endpoints WHERE id = $1 AND document IS NOT NULL";
    let row: Option<Columns> =
        on!(&pool.reading, pool => sqlx::query_as(sql).bind(id).fetch_optional(pool).await?);
    Ok(row.map(Row::from))
}

pub(crate) async fn fleet(pool: &Pool) -> Result<Fleet, Error> {
    let row: FleetColumns = on!(&pool.reading, pool => sqlx::query_as(FLEET).fetch_one(pool).await?);
    Ok(row.into())
}

/// The fleet's row in a transaction.
pub(crate) async fn fleet_in(tx: &mut Transaction) -> Result<Fleet, Error> {
    let row: FleetColumns = on!(tx, tx => sqlx::query_as(FLEET).fetch_one(&mut **tx).await?);
    Ok(row.into())
}

/// All endpoints, in a transaction.
pub(crate) async fn endpoints_in(tx: &mut Transaction) -> Result<Vec<Row>, Error> {
    let rows: Vec<Columns> = on!(tx, tx => sqlx::query_as(ENDPOINTS).fetch_all(&mut **tx).await?);
    Ok(rows.into_iter().map(Row::from).collect())
}

/// The endpoints that changed after this number of the fleet's version, in a transaction.
pub(crate) async fn changed_in(tx: &mut Transaction, after: i64) -> Result<Vec<Row>, Error> {
    let sql = "SELECT id, document, bound, version FROM endpoints
        WHERE changed_in > $1 AND document IS NOT NULL ORDER BY changed_in";
    let rows: Vec<Columns> = on!(tx, tx => sqlx::query_as(sql).bind(after).fetch_all(&mut **tx).await?);
    Ok(rows.into_iter().map(Row::from).collect())
}

/// The ids of endpoints that were removed after this number of the fleet's version, in a transaction.
pub(crate) async fn removed_in(tx: &mut Transaction, after: i64) -> Result<Vec<String>, Error> {
    let sql = "SELECT id FROM endpoints WHERE changed_in > $1 AND document IS NULL ORDER BY changed_in";
    on!(tx, tx => sqlx::query_scalar(sql).bind(after).fetch_all(&mut **tx).await)
}

pub(crate) async fn insert(pool: &Pool, row: &Row, change: &str) -> Result<(), Error> {
    let sql = "INSERT INTO endpoints (id, document, bound, version, changed_in) VALUES ($1, $2, $3, $4, $5)";
    let (mut tx, number) = begin(pool, change).await?;
    on!(&mut tx, tx => sqlx::query(sql)
        .bind(&row.id)
        .bind(&row.document)
        .bind(&row.bound)
        .bind(row.version)
        .bind(number)
        .execute(&mut **tx)
        .await
        .map(drop))?;
    pool::commit(tx).await
}

/// Writes `row` as the next version; `false` if the stored one is no longer `row.version`.
pub(crate) async fn update(pool: &Pool, row: &Row, change: &str) -> Result<bool, Error> {
    let sql = "UPDATE endpoints SET document = $1, bound = $2, version = version + 1, changed_in = $3
        WHERE id = $4 AND version = $5 AND document IS NOT NULL";
    let (mut tx, number) = begin(pool, change).await?;
    let changed = on!(&mut tx, tx => sqlx::query(sql)
        .bind(&row.document)
        .bind(&row.bound)
        .bind(number)
        .bind(&row.id)
        .bind(row.version)
        .execute(&mut **tx)
        .await?
        .rows_affected());
    commit_if(changed == 1, tx).await
}

/// Makes an endpoint's row that of a removed one, if there is one. Removals before `forget` are forgotten.
pub(crate) async fn remove(pool: &Pool, id: &str, change: &str, now: i64, forget: i64) -> Result<(), Error> {
    let sql = "UPDATE endpoints SET document = NULL, bound = NULL, changed_in = $1, removed_at = $2
        WHERE id = $3 AND document IS NOT NULL";
    let (mut tx, number) = begin(pool, change).await?;
    let removed = on!(&mut tx, tx => sqlx::query(sql)
        .bind(number)
        .bind(now)
        .bind(id)
        .execute(&mut **tx)
        .await?
        .rows_affected());
    if removed == 1 {
        forget_removals(&mut tx, forget).await?;
    }
    commit_if(removed == 1, tx).await.map(drop)
}

async fn forget_removals(tx: &mut Transaction, before: i64) -> Result<(), Error> {
    let sql = "DELETE FROM endpoints WHERE removed_at < $1 RETURNING changed_in";
    let forgotten: Vec<i64> =
        on!(&mut *tx, tx => sqlx::query_scalar(sql).bind(before).fetch_all(&mut **tx).await?);
    let Some(last) = forgotten.into_iter().max() else {
        return Ok(());
    };
    let sql = "UPDATE fleet SET forgotten = $1 WHERE forgotten < $1";
    on!(tx, tx => sqlx::query(sql).bind(last).execute(&mut **tx).await.map(drop))
}

/// Begins a change, and returns the fleet's new number.
async fn begin(pool: &Pool, change: &str) -> Result<(Transaction, i64), Error> {
    let sql = "UPDATE fleet SET number = number + 1, change = $1 RETURNING number";
    let mut tx = pool.write().await?;
    let number = on!(&mut tx, tx => sqlx::query_scalar(sql).bind(change).fetch_one(&mut **tx).await?);
    Ok((tx, number))
}

async fn commit_if(changed: bool, tx: Transaction) -> Result<bool, Error> {
    if changed {
        pool::commit(tx).await?;
    } else {
        on!(tx, tx => tx.rollback().await?);
    }
    Ok(changed)
}
