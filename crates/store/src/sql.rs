//! Every statement about endpoints, in SQL that SQLite and PostgreSQL both take. Rows go in and come
//! out as they are stored; what they mean is said elsewhere. Each write is one statement that commits
//! by itself, so no transaction is ever open while something else is waited for.

use sqlx::Error;

use crate::pool::{Pool, on};

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

/// Reads a page of the file, where `SELECT 1` would not.
pub(crate) async fn ping(pool: &Pool) -> Result<(), Error> {
    let sql = "SELECT 1 FROM endpoints LIMIT 1";
    on!(&pool.reading, pool => sqlx::query(sql).fetch_optional(pool).await.map(drop))
}

pub(crate) async fn endpoints(pool: &Pool) -> Result<Vec<Row>, Error> {
    let sql = "SELECT id, document, bound, version FROM endpoints ORDER BY id";
    let rows: Vec<Columns> = on!(&pool.reading, pool => sqlx::query_as(sql).fetch_all(pool).await?);
    Ok(rows.into_iter().map(Row::from).collect())
}

pub(crate) async fn endpoint(pool: &Pool, id: &str) -> Result<Option<Row>, Error> {
    let sql = "SELECT id, document, bound, version FROM endpoints WHERE id = $1";
    let row: Option<Columns> =
        on!(&pool.reading, pool => sqlx::query_as(sql).bind(id).fetch_optional(pool).await?);
    Ok(row.map(Row::from))
}

pub(crate) async fn insert(pool: &Pool, row: &Row) -> Result<(), Error> {
    let sql = "INSERT INTO endpoints (id, document, bound, version) VALUES ($1, $2, $3, $4)";
    on!(&pool.writing, pool => sqlx::query(sql)
        .bind(&row.id)
        .bind(&row.document)
        .bind(&row.bound)
        .bind(row.version)
        .execute(pool)
        .await
        .map(drop))
}

/// Writes `row` as the next version; `false` if the stored one is no longer `row.version`.
pub(crate) async fn update(pool: &Pool, row: &Row) -> Result<bool, Error> {
    let sql = "UPDATE endpoints SET document = $1, bound = $2, version = version + 1 WHERE id = $3 AND version = $4";
    let changed = on!(&pool.writing, pool => sqlx::query(sql)
        .bind(&row.document)
        .bind(&row.bound)
        .bind(&row.id)
        .bind(row.version)
        .execute(pool)
        .await?
        .rows_affected());
    Ok(changed == 1)
}

pub(crate) async fn delete(pool: &Pool, id: &str) -> Result<(), Error> {
    let sql = "DELETE FROM endpoints WHERE id = $1";
    on!(&pool.writing, pool => sqlx::query(sql).bind(id).execute(pool).await.map(drop))
}
