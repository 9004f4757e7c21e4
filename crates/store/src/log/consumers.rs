//! Consumers of the feed, and the places they have come to.

use relay_event::Timestamp;

use super::{Consumer, codes};
use crate::{Error, Store, pool::on};

type Columns = (String, i64, i64);

impl Store {
    /// All consumers, by name.
    ///
    /// # Errors
    /// The database failed.
    pub async fn consumers(&self) -> Result<Vec<Consumer>, Error> {
        let sql = "SELECT name, place, committed_at FROM consumers ORDER BY name";
        let work = async {
            let rows: Vec<Columns> =
                on!(&self.pool.reading, pool => sqlx::query_as(sql).fetch_all(pool).await?);
            rows.into_iter().map(consumer).collect()
        };
        self.within("read the consumers", work).await
    }

    /// A consumer, if it ever committed.
    ///
    /// # Errors
    /// The database failed.
    pub async fn consumer(&self, name: &str) -> Result<Option<Consumer>, Error> {
        let sql = "SELECT name, place, committed_at FROM consumers WHERE name = $1";
        let work = async {
            let row: Option<Columns> = on!(&self.pool.reading, pool =>
                sqlx::query_as(sql).bind(name).fetch_optional(pool).await?);
            row.map(consumer).transpose()
        };
        self.within(format!("read the consumer {name}"), work).await
    }

    /// Keeps the place of a consumer, unless it has come further already and does not mean to go `back`.
    ///
    /// # Errors
    /// The database failed, and nothing is changed.
    pub async fn commit_consumer(
        &self,
        name: &str,
        place: i64,
        back: bool,
        now: Timestamp,
    ) -> Result<(), Error> {
        let forward = "INSERT INTO consumers (name, place, committed_at) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET place = excluded.place, committed_at = excluded.committed_at \
             WHERE consumers.place <= excluded.place";
        let anywhere = "INSERT INTO consumers (name, place, committed_at) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET place = excluded.place, committed_at = excluded.committed_at";
        let sql = if back { anywhere } else { forward };
        let work = async {
            on!(&self.pool.writing, pool => sqlx::query(sql)
                .bind(name)
                .bind(place)
                .bind(codes::millis(now))
                .execute(pool)
                .await
                .map(drop))
        };
        self.within(format!("keep the place of the consumer {name}"), work)
            .await
    }

    /// Forgets a consumer; whether there was one.
    ///
    /// # Errors
    /// The database failed.
    pub async fn remove_consumer(&self, name: &str) -> Result<bool, Error> {
        let sql = "DELETE FROM consumers WHERE name = $1";
        let work = async {
            let removed = on!(&self.pool.writing, pool =>
                sqlx::query(sql).bind(name).execute(pool).await?.rows_affected());
            Ok(removed > 0)
        };
        self.within(format!("remove the consumer {name}"), work).await
    }
}

fn consumer((name, place, committed_at): Columns) -> Result<Consumer, sqlx::Error> {
    Ok(Consumer {
        name,
        place,
        committed_at: codes::time(committed_at)?,
    })
}
