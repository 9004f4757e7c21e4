//! Events that are known to be with all their queues. That an event is in the log does not tell: the
//! broker may have put it into the archive and not into the queue beside it.

use relay_event::{EventId, Timestamp};
use sqlx::QueryBuilder;

use super::{
    batch::{self, Key},
    codes, insert,
};
use crate::{
    Error, Store,
    pool::{self, Transaction, on},
};

/// Events asked for in one statement: the largest batch of events, at 3 parameters each.
const ASKED: usize = 1_000;

impl Store {
    /// Notes that events, by id and source, are confirmed; of those that are noted already nothing
    /// changes. It gives no places in the log, and so waits for nobody who writes to it, but in SQLite.
    ///
    /// # Errors
    /// The database failed, and none is noted.
    pub async fn note_confirmed(&self, events: &[(EventId, String)], now: Timestamp) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        // All writers in one order, lest two wait for each other's rows.
        let mut keys = keys(events);
        keys.sort_unstable();
        let work = async {
            let mut tx = self.pool.write().await?;
            note(&mut tx, &keys, now).await?;
            pool::commit(tx).await
        };
        self.within("note confirmed events", work).await
    }

    /// Which of the events, by id and source, were noted as confirmed and are not forgotten.
    ///
    /// # Errors
    /// The database failed.
    pub async fn are_confirmed(&self, events: &[(EventId, String)]) -> Result<Vec<bool>, Error> {
        let keys = keys(events);
        self.within("look for confirmed events", find(self, &keys)).await
    }
}

fn keys(events: &[(EventId, String)]) -> Vec<Key<'_>> {
    events.iter().map(|(id, source)| batch::key(id, source)).collect()
}

async fn note(tx: &mut Transaction, keys: &[Key<'_>], now: Timestamp) -> Result<(), sqlx::Error> {
    for chunk in keys.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut insert = QueryBuilder::new("INSERT INTO confirmed (id, source, at) ");
            insert.push_values(chunk, |mut row, (id, source)| {
                row.push_bind(*id).push_bind(source.as_ref()).push_bind(codes::millis(now));
            });
            let insert = insert.push(" ON CONFLICT (id, source) DO NOTHING").build();
            insert.persistent(chunk.len() == insert::ROWS).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

async fn find(store: &Store, keys: &[Key<'_>]) -> Result<Vec<bool>, sqlx::Error> {
    // A look for each by the key, whatever a database thinks of the table's size.
    let sql = "SELECT n FROM wanted w WHERE \
         (SELECT 1 FROM confirmed c WHERE c.id = w.id AND c.source = w.source) = 1";
    let mut confirmed = Vec::with_capacity(keys.len());
    for chunk in keys.chunks(ASKED) {
        let found: Vec<i64> = on!(&store.pool.reading, pool => insert::wanted(chunk)
            .push(sql)
            .build_query_scalar()
            .persistent(chunk.len() == 1)
            .fetch_all(pool)
            .await?);
        let begin = confirmed.len();
        confirmed.resize(begin + chunk.len(), false);
        for n in found {
            if let Some(confirmed) = usize::try_from(n).ok().and_then(|n| confirmed.get_mut(begin + n)) {
                *confirmed = true;
            }
        }
    }
    Ok(confirmed)
}
