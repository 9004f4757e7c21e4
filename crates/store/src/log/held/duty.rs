//! The row that says which process sends held deliveries on. Times are those of the database, so the clocks of the
//! processes do not matter.

use std::time::Duration;

use crate::{
    Error, Store,
    pool::{self, Either, Transaction, on},
    sql,
};

impl Store {
    /// Takes over sending held deliveries on, for so long, if nobody does it. Returns the new epoch.
    ///
    /// # Errors
    /// The database failed.
    pub async fn take_duty(&self, who: &str, lease: Duration) -> Result<Option<i64>, Error> {
        let sql =
            "UPDATE duty SET who = $1, ends_at = $2, epoch = epoch + 1 WHERE ends_at <= $3 RETURNING epoch";
        let work = async {
            let mut tx = self.pool.read().await?;
            let now = sql::now(&mut tx).await?;
            let free = "SELECT epoch FROM duty WHERE ends_at <= $1";
            let free: Option<i64> =
                on!(&mut tx, tx => sqlx::query_scalar(free).bind(now).fetch_optional(&mut **tx).await?);
            drop(tx);
            if free.is_none() {
                return Ok(None);
            }
            let mut tx = self.pool.write().await?;
            let epoch = on!(&mut tx, tx => sqlx::query_scalar(sql)
                .bind(who)
                .bind(now.saturating_add(millis(lease)))
                .bind(now)
                .fetch_optional(&mut **tx)
                .await?);
            pool::commit(tx).await?;
            Ok(epoch)
        };
        self.within("take over sending held deliveries on", work).await
    }

    /// Keeps the duty for so long from now on; `false` if another process took over.
    ///
    /// # Errors
    /// The database failed.
    pub async fn renew_duty(&self, epoch: i64, lease: Duration) -> Result<bool, Error> {
        let sql = "UPDATE duty SET ends_at = $1 WHERE epoch = $2";
        let work = async {
            let mut tx = self.pool.write().await?;
            let ends_at = sql::now(&mut tx).await?.saturating_add(millis(lease));
            let renewed = on!(&mut tx, tx => sqlx::query(sql)
                .bind(ends_at)
                .bind(epoch)
                .execute(&mut **tx)
                .await?
                .rows_affected());
            pool::commit(tx).await?;
            Ok(renewed > 0)
        };
        self.within("go on sending held deliveries on", work).await
    }

    /// Leaves the duty to others, if it was not taken over.
    ///
    /// # Errors
    /// The database failed.
    pub async fn leave_duty(&self, epoch: i64) -> Result<(), Error> {
        self.renew_duty(epoch, Duration::ZERO).await.map(drop)
    }
}

/// Returns true if this epoch is not over, and stays so until the transaction ends.
pub(super) async fn is_on(tx: &mut Transaction, epoch: i64) -> Result<bool, sqlx::Error> {
    let current: i64 = match tx {
        // Its writer is the only one.
        Either::Sqlite(tx) => {
            sqlx::query_scalar("SELECT epoch FROM duty")
                .fetch_one(&mut **tx)
                .await?
        }
        Either::Postgres(tx) => {
            sqlx::query_scalar("SELECT epoch FROM duty FOR SHARE")
                .fetch_one(&mut **tx)
                .await?
        }
    };
    Ok(current == epoch)
}

pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
