//! Every statement of the running relay, in SQL that SQLite and PostgreSQL both take. Rows go in and
//! come out as they are stored; what they mean is said elsewhere. Each write is one statement that
//! commits by itself, so no transaction is ever open while something else is waited for.

use sqlx::Error;

pub(crate) type Pool = sqlx::SqlitePool;

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
    sqlx::query("SELECT 1 FROM endpoints LIMIT 1")
        .fetch_optional(pool)
        .await
        .map(drop)
}

pub(crate) async fn endpoints(pool: &Pool) -> Result<Vec<Row>, Error> {
    let rows: Vec<Columns> = sqlx::query_as("SELECT id, document, bound, version FROM endpoints ORDER BY id")
        .fetch_all(pool)
        .await?;
    Ok(rows.into_iter().map(Row::from).collect())
}

pub(crate) async fn endpoint(pool: &Pool, id: &str) -> Result<Option<Row>, Error> {
    let row: Option<Columns> =
        sqlx::query_as("SELECT id, document, bound, version FROM endpoints WHERE id = $1")
            .bind(id)
            .fetch_optional(pool)
            .await?;
    Ok(row.map(Row::from))
}

pub(crate) async fn insert(pool: &Pool, row: &Row) -> Result<(), Error> {
    sqlx::query("INSERT INTO endpoints (id, document, bound, version) VALUES ($1, $2, $3, $4)")
        .bind(&row.id)
        .bind(&row.document)
        .bind(&row.bound)
        .bind(row.version)
        .execute(pool)
        .await
        .map(drop)
}

/// Writes `row` as the next version; `false` if the stored one is no longer `row.version`.
pub(crate) async fn update(pool: &Pool, row: &Row) -> Result<bool, Error> {
    let done = sqlx::query(
        "UPDATE endpoints SET document = $1, bound = $2, version = version + 1 WHERE id = $3 AND version = $4",
    )
    .bind(&row.document)
    .bind(&row.bound)
    .bind(&row.id)
    .bind(row.version)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn delete(pool: &Pool, id: &str) -> Result<(), Error> {
    sqlx::query("DELETE FROM endpoints WHERE id = $1")
        .bind(id)
        .execute(pool)
        .await
        .map(drop)
}
