//! The statements that write to the log, many rows each.

use std::collections::{BTreeMap, HashSet};

use relay_event::{Attempt, DeliveryState, Timestamp};
use sqlx::{Database, Encode, QueryBuilder, Type};

use super::{
    Record,
    batch::{self, Key, Placed, Places, Stands},
    codes, types, webhook_ids,
};
use crate::pool::{Transaction, on};

/// Rows in a statement. The widest has 17 parameters a row; SQLite takes 32,766 and PostgreSQL 65,535.
pub(super) const ROWS: usize = 500;

/// Bytes of bodies in a statement, about.
const BYTES: usize = 4 << 20;

/// The end of the log.
pub(super) struct End {
    pub(super) sequence: i64,
    pub(super) recorded_at: Timestamp,
}

/// Waits for its turn to write: the row stays locked until the transaction ends. A clock that was set
/// back is waited for.
pub(super) async fn begin(tx: &mut Transaction, now: Timestamp) -> Result<End, sqlx::Error> {
    let sql = "UPDATE log SET recorded_at = CASE WHEN recorded_at < $1 THEN $1 ELSE recorded_at END RETURNING sequence, recorded_at";
    let (sequence, recorded_at) = on!(tx, tx => sqlx::query_as::<_, (i64, i64)>(sql)
        .bind(codes::millis(now))
        .fetch_one(&mut **tx)
        .await?);
    Ok(End {
        sequence,
        recorded_at: codes::time(recorded_at)?,
    })
}

/// Notes the last place given.
pub(super) async fn end(tx: &mut Transaction, sequence: i64) -> Result<(), sqlx::Error> {
    let sql = "UPDATE log SET sequence = $1";
    on!(tx, tx => sqlx::query(sql).bind(sequence).execute(&mut **tx).await.map(drop))
}

/// The beginning of a query that knows events as `wanted(n, id, source)`.
pub(super) fn wanted<'k, DB: Database>(keys: &'k [Key<'k>]) -> QueryBuilder<DB>
where
    i64: Encode<'k, DB> + Type<DB>,
    &'k str: Encode<'k, DB> + Type<DB>,
{
    let mut query = QueryBuilder::new("WITH wanted(n, id, source) AS (");
    query.push_values((0_i64..).zip(keys), |mut row, (n, (id, source))| {
        row.push_bind(n).push_bind(*id).push_bind(source.as_ref());
    });
    query.push(") ");
    query
}

/// Where the events that records are about are in the log.
pub(super) async fn places<'r>(
    tx: &mut Transaction,
    records: &'r [Record],
) -> Result<Places<'r>, sqlx::Error> {
    let keys: HashSet<Key<'r>> = records.iter().map(batch::key_of).collect();
    let keys: Vec<Key<'r>> = keys.into_iter().collect();
    let sql = "SELECT w.n, e.sequence FROM wanted w JOIN events e ON e.id = w.id AND e.source = w.source";
    let mut places = Places::with_capacity(keys.len());
    for chunk in keys.chunks(ROWS) {
        let found: Vec<(i64, i64)> = on!(&mut *tx, tx => wanted(chunk)
            .push(sql)
            .build_query_as()
            .persistent(chunk.len() == ROWS)
            .fetch_all(&mut **tx)
            .await?);
        for (n, sequence) in found {
            if let Some(key) = usize::try_from(n).ok().and_then(|n| chunk.get(n)) {
                places.insert(key.clone(), sequence);
            }
        }
    }
    Ok(places)
}

/// Those of the places at which there is an event.
pub(super) async fn kept(tx: &mut Transaction, sequences: &[i64]) -> Result<Vec<i64>, sqlx::Error> {
    let mut kept = Vec::new();
    for chunk in sequences.chunks(ROWS) {
        let found: Vec<i64> = on!(&mut *tx, tx => {
            let mut query = QueryBuilder::new("SELECT sequence FROM events WHERE sequence IN (");
            types::push_list(&mut query, chunk);
            query.push(")").build_query_scalar().persistent(false).fetch_all(&mut **tx).await?
        });
        kept.extend(found);
    }
    Ok(kept)
}

pub(super) async fn events(
    tx: &mut Transaction,
    new: &[Placed<'_>],
    recorded_at: Timestamp,
) -> Result<(), sqlx::Error> {
    let names: HashSet<&str> = new.iter().map(Placed::type_name).collect();
    let types = types::intern(tx, names.into_iter().collect()).await?;
    let recorded_at = codes::millis(recorded_at);
    let mut rest = new;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(portion(rest));
        rest = after;
        on!(&mut *tx, tx => {
            let mut insert = QueryBuilder::new(
                "INSERT INTO events (sequence, recorded_at, published_at, type, id, source, subject, body, fingerprint) ",
            );
            insert.push_values(chunk, |mut row, placed| {
                row.push_bind(placed.sequence)
                    .push_bind(recorded_at)
                    .push_bind(placed.published_at)
                    .push_bind(types.get(placed.type_name()))
                    .push_bind(placed.event.id().as_str())
                    .push_bind(placed.event.source())
                    .push_bind(placed.event.subject())
                    .push_bind(placed.event.body().as_ref())
                    .push_bind(webhook_ids::fingerprint(placed.event.source(), placed.event.id().as_str()));
            });
            insert.build().persistent(chunk.len() == ROWS).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

/// How many of these events go into one statement.
fn portion(events: &[Placed<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |placed: &&Placed<'_>| {
        let first = bytes == 0;
        bytes += placed.event.body().len().max(1);
        first || bytes <= BYTES
    };
    events.iter().take(ROWS).take_while(fits).count()
}

/// Writes what was not there; how many that is.
pub(super) async fn attempts(
    tx: &mut Transaction,
    attempts: &BTreeMap<(i64, [u8; 16]), &Attempt>,
) -> Result<u64, sqlx::Error> {
    let rows: Vec<_> = attempts.iter().collect();
    let mut written = 0;
    for chunk in rows.chunks(ROWS) {
        written += on!(&mut *tx, tx => {
            let mut insert = QueryBuilder::new(
                "INSERT INTO attempts (event, id, endpoint, published_at, attempt, at, duration_ms, first_byte_ms, \
                 next_at, status, error, state, reason, deliverer, detail, answer, hop) ",
            );
            insert.push_values(chunk, |mut row, ((event, id), attempt)| {
                row.push_bind(*event)
                    .push_bind(id.as_slice())
                    .push_bind(attempt.endpoint.to_bytes().to_vec())
                    .push_bind(attempt.published_at.map(codes::millis))
                    .push_bind(i64::from(attempt.attempt))
                    .push_bind(codes::millis(attempt.at))
                    .push_bind(codes::count(attempt.duration_ms))
                    .push_bind(attempt.first_byte_ms.map(codes::count))
                    .push_bind(attempt.next_at.map(codes::millis))
                    .push_bind(attempt.status.map(i32::from))
                    .push_bind(attempt.error.map(codes::error_code))
                    .push_bind(codes::state_code(attempt.state))
                    .push_bind(attempt.reason.map(codes::reason_code))
                    .push_bind(codes::text(&attempt.deliverer).into_owned())
                    .push_bind(attempt.detail.as_deref().map(|detail| codes::text(detail).into_owned()))
                    .push_bind(codes::text(&attempt.answer).into_owned())
                    .push_bind(i64::from(attempt.hop));
            });
            insert
                .push(" ON CONFLICT (event, id) DO NOTHING")
                .build()
                .persistent(chunk.len() == ROWS)
                .execute(&mut **tx)
                .await?
                .rows_affected()
        });
    }
    Ok(written)
}

/// Writes how deliveries stand, where that is newer than what is there: by [`Stands`]' order, in which
/// nothing comes before anything.
pub(super) async fn deliveries(
    tx: &mut Transaction,
    deliveries: &BTreeMap<(i64, [u8; 16]), Stands>,
) -> Result<(), sqlx::Error> {
    let dead = codes::state_code(DeliveryState::Dead); // The first of the states that are an end.
    let newer = format!(
        " ON CONFLICT (event, endpoint) DO UPDATE SET run = excluded.run, attempts = excluded.attempts, \
         state = excluded.state, at = excluded.at, next_at = excluded.next_at, reason = excluded.reason, \
         status = excluded.status, error = excluded.error \
         WHERE (excluded.run, excluded.state >= {dead}, excluded.attempts, excluded.state, excluded.at, \
         COALESCE(excluded.next_at, -1), COALESCE(excluded.reason, -1), COALESCE(excluded.status, -1), \
         COALESCE(excluded.error, -1)) \
         > (deliveries.run, deliveries.state >= {dead}, deliveries.attempts, deliveries.state, deliveries.at, \
         COALESCE(deliveries.next_at, -1), COALESCE(deliveries.reason, -1), COALESCE(deliveries.status, -1), \
         COALESCE(deliveries.error, -1))"
    );
    let rows: Vec<_> = deliveries.iter().collect();
    for chunk in rows.chunks(ROWS) {
        on!(&mut *tx, tx => {
            let mut insert = QueryBuilder::new(
                "INSERT INTO deliveries (event, endpoint, run, attempts, state, at, next_at, reason, status, error) ",
            );
            insert.push_values(chunk, |mut row, ((event, endpoint), stands)| {
                row.push_bind(*event)
                    .push_bind(endpoint.as_slice())
                    .push_bind(stands.run)
                    .push_bind(stands.attempts)
                    .push_bind(stands.state)
                    .push_bind(stands.at)
                    .push_bind(stands.next_at)
                    .push_bind(stands.reason)
                    .push_bind(stands.status)
                    .push_bind(stands.error);
            });
            insert.push(&newer).build().persistent(chunk.len() == ROWS).execute(&mut **tx).await?;
        });
    }
    Ok(())
}
