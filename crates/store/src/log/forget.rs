//! Forgetting of what is old, a little at a time.

use relay_event::Timestamp;
use sqlx::QueryBuilder;

use super::{Forgotten, Retention, codes, held, insert, place, types};
use crate::{
    Error, Store,
    pool::{self, Transaction, on},
};

/// Deliveries that go with one event, on the whole: with more of them fewer events go at a time.
const DELIVERIES: i64 = 4;

impl Store {
    /// Forgets the oldest of what is old enough: at most about `most` events, and as many attempts and
    /// notes that events were confirmed. It is one short transaction. SQLite keeps the room in its file
    /// and uses it again; PostgreSQL's autovacuum does the same.
    ///
    /// # Errors
    /// The database failed.
    pub async fn forget(&self, retention: &Retention, most: u32) -> Result<Forgotten, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let due = Due::find(&mut tx, retention, most).await?;
            drop(tx);
            if due.is_nothing() {
                return Ok(Forgotten::default());
            }
            let mut tx = self.pool.write().await?;
            insert::begin(&mut tx, Timestamp::default()).await?;
            let forgotten = due.forget(&mut tx).await?;
            pool::commit(tx).await?;
            Ok(forgotten)
        };
        self.within("forget what is old in the log", work).await
    }
}

/// What goes this time: everything before these places in the log; records that came before this time
/// and whose event never did; and what was confirmed before this time.
struct Due {
    events: Cut,
    attempts: Cut,
    early: Cut,
    confirmed: Cut,
}

impl Due {
    async fn find(tx: &mut Transaction, retention: &Retention, most: u32) -> Result<Self, sqlx::Error> {
        // Where nothing is young enough, all goes up to here; but not what is written meanwhile.
        let end = place::end(tx).await?;
        let kept_events = place::first(tx, retention.events_before).await?.unwrap_or(end);
        let kept_attempts = place::first(tx, retention.attempts_before).await?.unwrap_or(end);
        // Their event may only be late, and is then kept for as long as any other.
        let late = retention.events_before.min(retention.attempts_before);
        let confirmed_before = codes::millis(retention.events_before);
        let most = i64::from(most.max(1));
        let events = Cut::find(tx, ("events", "sequence"), kept_events, most).await?;
        let deliveries = Cut::find(tx, ("deliveries", "event"), kept_events, most * DELIVERIES).await?;
        Ok(Self {
            events: events.and(deliveries),
            attempts: Cut::find(tx, ("attempts", "event"), kept_attempts.max(kept_events), most).await?,
            early: Cut::find(tx, ("early", "came_at"), codes::millis(late), most).await?,
            confirmed: Cut::find(tx, ("confirmed", "at"), confirmed_before, most).await?,
        })
    }

    fn is_nothing(&self) -> bool {
        [self.events, self.attempts, self.early, self.confirmed]
            .iter()
            .all(|cut| cut.before.is_none())
    }

    async fn forget(mut self, tx: &mut Transaction) -> Result<Forgotten, sqlx::Error> {
        if let Some(before) = &mut self.events.before {
            let end = held::make_room(tx, *before).await?;
            self.events.more |= end < *before;
            *before = end;
        }
        self.events
            .delete(tx, "DELETE FROM deliveries WHERE event < $1")
            .await?;
        let events = self.forget_events(tx).await?;
        let attempts = self
            .attempts
            .delete(tx, "DELETE FROM attempts WHERE event < $1")
            .await?;
        self.early
            .delete(tx, "DELETE FROM early WHERE came_at < $1")
            .await?;
        self.confirmed
            .delete(tx, "DELETE FROM confirmed WHERE at < $1")
            .await?;
        Ok(Forgotten {
            events,
            attempts,
            more: self.events.more || self.attempts.more || self.early.more || self.confirmed.more,
        })
    }

    /// Forgets events, and the types that only these had. Returns the number of events.
    async fn forget_events(&self, tx: &mut Transaction) -> Result<u64, sqlx::Error> {
        let Some(before) = self.events.before else {
            return Ok(0);
        };
        let sql = "DELETE FROM events WHERE sequence < $1 RETURNING type";
        let mut types: Vec<i64> =
            on!(&mut *tx, tx => sqlx::query_scalar(sql).bind(before).fetch_all(&mut **tx).await?);
        let events = types.len();
        types.sort_unstable();
        types.dedup();
        types::forget(tx, &types).await?;
        Ok(u64::try_from(events).unwrap_or(u64::MAX))
    }
}

/// Where to cut off the beginning of a table.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// `None` if nothing goes.
    before: Option<i64>,
    /// Whether there is more to go than this.
    more: bool,
}

impl Cut {
    /// Of the rows before `end` at most `most`, but all that have the first number.
    async fn find(
        tx: &mut Transaction,
        (table, column): (&str, &str),
        end: i64,
        most: i64,
    ) -> Result<Self, sqlx::Error> {
        let row = async |tx: &mut Transaction, skip: i64| -> Result<Option<i64>, sqlx::Error> {
            on!(tx, tx => QueryBuilder::new(format!("SELECT {column} FROM {table} WHERE {column} < "))
                .push_bind(end)
                .push(" ORDER BY 1 LIMIT 1 OFFSET ")
                .push_bind(skip)
                .build_query_scalar()
                .fetch_optional(&mut **tx)
                .await)
        };
        let Some(first) = row(tx, 0).await? else {
            return Ok(Self {
                before: None,
                more: false,
            });
        };
        let next = row(tx, most).await?;
        Ok(Self {
            before: Some(next.map_or(end, |next| next.max(first + 1))),
            more: next.is_some(),
        })
    }

    /// The earlier of the two.
    fn and(self, other: Self) -> Self {
        let before = [self.before, other.before].into_iter().flatten().min();
        Self {
            before,
            more: self.more || other.more,
        }
    }

    async fn delete(self, tx: &mut Transaction, sql: &'static str) -> Result<u64, sqlx::Error> {
        let Some(before) = self.before else {
            return Ok(0);
        };
        on!(tx, tx => Ok(sqlx::query(sql).bind(before).execute(&mut **tx).await?.rows_affected()))
    }
}
