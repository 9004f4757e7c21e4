//! Held deliveries whose event is not here yet. Retention does not forget them.

use relay_event::{Hold, Timestamp};
use sqlx::QueryBuilder;

use super::super::{
    batch::{self, Key},
    codes, insert,
};
use crate::pool::{Transaction, on};

/// Takes out the holds that wait for these events, with the events' places.
pub(super) async fn take(
    tx: &mut Transaction,
    events: &[(Key<'_>, i64)],
) -> Result<Vec<(i64, Hold)>, sqlx::Error> {
    let mut taken = Vec::new();
    if events.is_empty() || !is_any(tx).await? {
        return Ok(taken);
    }
    let sql =
        "SELECT w.n, h.key, h.record FROM wanted w JOIN held_early h ON h.id = w.id AND h.source = w.source";
    for chunk in events.chunks(insert::ROWS) {
        let keys: Vec<Key<'_>> = chunk.iter().map(|(key, _)| key.clone()).collect();
        let found: Vec<(i64, String, String)> = on!(&mut *tx, tx => insert::wanted(&keys)
            .push(sql)
            .build_query_as()
            .persistent(false)
            .fetch_all(&mut **tx)
            .await?);
        let mut done = Vec::new();
        for (n, key, record) in found {
            let event = usize::try_from(n).ok().and_then(|n| chunk.get(n));
            // A record of another version stays, and is counted.
            if let (Some((event, place)), Ok(hold)) = (event, serde_json::from_str::<Hold>(&record)) {
                taken.push((*place, hold));
                done.push((event, key));
            }
        }
        remove(tx, &done).await?;
    }
    Ok(taken)
}

async fn remove(tx: &mut Transaction, done: &[(&Key<'_>, String)]) -> Result<(), sqlx::Error> {
    for chunk in done.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut delete = QueryBuilder::new("DELETE FROM held_early WHERE (id, source, key) IN (");
            delete.push_values(chunk, |mut row, ((id, source), key)| {
                row.push_bind(*id).push_bind(source.as_ref()).push_bind(key);
            });
            delete.push(")").build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

/// Keeps holds until their event comes.
pub(super) async fn keep(
    tx: &mut Transaction,
    holds: &[&Hold],
    came_at: Timestamp,
) -> Result<(), sqlx::Error> {
    let row = |hold: &&Hold| {
        let record = serde_json::to_string(hold).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let run = hold.history.run.map_or(0, codes::millis);
        let key = format!("{} {run} {} {}", hold.endpoint, hold.hop, hold.history.attempts);
        Ok((key, record))
    };
    for chunk in holds.chunks(insert::ROWS) {
        let rows: Vec<(String, String)> = chunk.iter().map(row).collect::<Result<_, sqlx::Error>>()?;
        on!(&mut *tx, tx => {
            let mut insert = QueryBuilder::new("INSERT INTO held_early (id, source, key, came_at, record) ");
            insert.push_values(chunk.iter().zip(&rows), |mut row, (hold, (key, record))| {
                let (id, source) = batch::key(&hold.event_id, &hold.event_source);
                row.push_bind(id)
                    .push_bind(source.into_owned())
                    .push_bind(key)
                    .push_bind(codes::millis(came_at))
                    .push_bind(record);
            });
            let insert = insert.push(" ON CONFLICT (id, source, key) DO NOTHING");
            insert.build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

/// Tells whether any hold waits for its event, whatever their number.
async fn is_any(tx: &mut Transaction) -> Result<bool, sqlx::Error> {
    let sql = "SELECT 1 FROM held_early LIMIT 1";
    let any: Option<i32> = on!(tx, tx => sqlx::query_scalar(sql).fetch_optional(&mut **tx).await?);
    Ok(any.is_some())
}

/// The number of holds that wait for their event.
pub(super) async fn count(tx: &mut Transaction) -> Result<i64, sqlx::Error> {
    let sql = "SELECT COUNT(*) FROM held_early";
    on!(tx, tx => sqlx::query_scalar(sql).fetch_one(&mut **tx).await)
}
