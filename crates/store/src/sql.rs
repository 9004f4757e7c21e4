//! Every statement about endpoints. Rows go in and come out as they are stored; what they mean is said
//! elsewhere. Reads are in SQL that SQLite and PostgreSQL both take.

mod changes;

pub(crate) use changes::{Expired, insert, mark, new_change, remove, update};

use sqlx::Error;

use crate::pool::{Either, Own, Pool, Transaction, TransactionOn, on};

/// A row of `endpoints`. Its document holds secrets, so it does not print.
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) document: String,
    pub(crate) version: i64,
    pub(crate) overtaken: i64,
}

type Columns = (String, String, i64, i64);

impl From<Columns> for Row {
    fn from((id, document, version, overtaken): Columns) -> Self {
        Self {
            id,
            document,
            version,
            overtaken,
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
    "SELECT id, document, version, overtaken FROM endpoints WHERE document IS NOT NULL ORDER BY id";

const FLEET: &str = "SELECT lineage, number, change, forgotten FROM fleet";

/// The time of the database, in milliseconds since 1970.
pub(crate) async fn now(tx: &mut Transaction) -> Result<i64, Error> {
    match tx {
        Either::Sqlite(tx) => {
            let sql = "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)";
            sqlx::query_scalar(sql).fetch_one(&mut **tx).await
        }
        Either::Postgres(tx) => {
            let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
            sqlx::query_scalar(sql).fetch_one(&mut **tx).await
        }
    }
}

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
    let sql = "SELECT id, document, version, overtaken FROM endpoints WHERE id = $1 AND document IS NOT NULL";
    let row: Option<Columns> =
        on!(&pool.reading, pool => sqlx::query_as(sql).bind(id).fetch_optional(pool).await?);
    Ok(row.map(Row::from))
}

pub(crate) async fn fleet(pool: &Pool) -> Result<Fleet, Error> {
    let row: FleetColumns = on!(&pool.reading, pool => sqlx::query_as(FLEET).fetch_one(pool).await?);
    Ok(row.into())
}

/// The fleet's row, read on a connection of somebody's own.
pub(crate) async fn fleet_on(connection: &mut Own) -> Result<Fleet, Error> {
    let row: FleetColumns = on!(connection, it => sqlx::query_as(FLEET).fetch_one(&mut *it).await?);
    Ok(row.into())
}

/// The fleet's row in a transaction.
pub(crate) async fn fleet_in(tx: &mut TransactionOn<'_>) -> Result<Fleet, Error> {
    let row: FleetColumns = on!(tx, tx => sqlx::query_as(FLEET).fetch_one(&mut **tx).await?);
    Ok(row.into())
}

/// All endpoints, in a transaction.
pub(crate) async fn endpoints_in(tx: &mut TransactionOn<'_>) -> Result<Vec<Row>, Error> {
    let rows: Vec<Columns> = on!(tx, tx => sqlx::query_as(ENDPOINTS).fetch_all(&mut **tx).await?);
    Ok(rows.into_iter().map(Row::from).collect())
}

/// The endpoints that changed after this number of the fleet's version, in a transaction.
pub(crate) async fn changed_in(tx: &mut TransactionOn<'_>, after: i64) -> Result<Vec<Row>, Error> {
    let sql = "SELECT id, document, version, overtaken FROM endpoints
        WHERE changed_in > $1 AND document IS NOT NULL ORDER BY changed_in";
    let rows: Vec<Columns> = on!(tx, tx => sqlx::query_as(sql).bind(after).fetch_all(&mut **tx).await?);
    Ok(rows.into_iter().map(Row::from).collect())
}

/// The ids of endpoints that were removed after this number of the fleet's version, in a transaction.
pub(crate) async fn removed_in(tx: &mut TransactionOn<'_>, after: i64) -> Result<Vec<String>, Error> {
    let sql = "SELECT id FROM endpoints WHERE changed_in > $1 AND document IS NULL ORDER BY changed_in";
    on!(tx, tx => sqlx::query_scalar(sql).bind(after).fetch_all(&mut **tx).await)
}
