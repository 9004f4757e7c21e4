//! Attempts and deaths whose event is not in the log yet: they travel by another queue, and may
//! overtake it. Their event takes them in when it is written.

use std::borrow::Cow;

use relay_event::{
    Attempt, DeadReason, Death, DeliveryState, EndpointId, ErrorClass, Event, Standing, Timestamp,
};
use serde::{Deserialize, Serialize};
use sqlx::QueryBuilder;

use super::{
    Record,
    batch::{self, Key, Placed},
    codes, insert,
};
use crate::pool::{Transaction, on};

/// How a record waits, in JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Early<'r> {
    Attempt(Cow<'r, Attempt>),
    Death(EarlyDeath<'r>),
}

#[derive(Serialize, Deserialize)]
struct EarlyDeath<'r> {
    endpoint: Cow<'r, EndpointId>,
    run: Timestamp,
    attempts: u32,
    state: DeliveryState,
    at: Timestamp,
    next_at: Option<Timestamp>,
    reason: Option<DeadReason>,
    status: Option<u16>,
    error: Option<ErrorClass>,
}

impl<'r> Early<'r> {
    fn of(record: &'r Record) -> Option<Self> {
        match record {
            // A hold waits with others of its kind.
            Record::Event(_) | Record::Hold(_) => None,
            Record::Attempt(attempt) => Some(Self::Attempt(Cow::Borrowed(attempt))),
            Record::Death(death) => Some(Self::Death(EarlyDeath {
                endpoint: Cow::Borrowed(&death.endpoint),
                run: death.standing.run,
                attempts: death.standing.attempts,
                state: death.standing.state,
                at: death.standing.at,
                next_at: death.standing.next_at,
                reason: death.standing.reason,
                status: death.standing.status,
                error: death.standing.error,
            })),
        }
    }

    fn into_record(self, event: &Event) -> Record {
        match self {
            Self::Attempt(attempt) => Record::Attempt(attempt.into_owned()),
            Self::Death(death) => Record::Death(Death {
                event_id: event.id().clone(),
                event_source: event.source().to_owned(),
                endpoint: death.endpoint.into_owned(),
                standing: Standing {
                    run: death.run,
                    attempts: death.attempts,
                    state: death.state,
                    at: death.at,
                    next_at: death.next_at,
                    reason: death.reason,
                    status: death.status,
                    error: death.error,
                },
            }),
        }
    }
}

/// What came before these events did, with their places. It waits no longer.
pub(super) async fn take(
    tx: &mut Transaction,
    new: &[Placed<'_>],
) -> Result<Vec<(i64, Record)>, sqlx::Error> {
    let mut taken = Vec::new();
    if new.is_empty() || nothing_waits(tx).await? {
        return Ok(taken);
    }
    for chunk in new.chunks(insert::ROWS) {
        let keys: Vec<Key<'_>> = chunk.iter().map(Placed::key).collect();
        let mut done = Vec::new();
        for (n, key, record) in waiting(tx, &keys).await? {
            let position = usize::try_from(n).unwrap_or(usize::MAX);
            // What does not read, such as another version's, stays until it is forgotten.
            if let (Some(placed), Ok(early)) = (chunk.get(position), serde_json::from_str::<Early>(&record)) {
                taken.push((placed.sequence, early.into_record(placed.event)));
                done.push((&keys[position], key));
            }
        }
        remove(tx, &done).await?;
    }
    Ok(taken)
}

async fn nothing_waits(tx: &mut Transaction) -> Result<bool, sqlx::Error> {
    let sql = "SELECT 1 FROM early LIMIT 1";
    on!(tx, tx => Ok(sqlx::query(sql).fetch_optional(&mut **tx).await?.is_none()))
}

async fn waiting(tx: &mut Transaction, keys: &[Key<'_>]) -> Result<Vec<(i64, String, String)>, sqlx::Error> {
    let sql = "SELECT w.n, e.key, e.record FROM wanted w JOIN early e ON e.id = w.id AND e.source = w.source";
    on!(tx, tx => insert::wanted(keys).push(sql).build_query_as().persistent(false).fetch_all(&mut **tx).await)
}

async fn remove(tx: &mut Transaction, done: &[(&Key<'_>, String)]) -> Result<(), sqlx::Error> {
    for chunk in done.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut delete = QueryBuilder::new("DELETE FROM early WHERE (id, source, key) IN (");
            delete.push_values(chunk, |mut row, ((id, source), key)| {
                row.push_bind(*id).push_bind(source.as_ref()).push_bind(key);
            });
            delete.push(")").build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

/// Keeps records until their event comes.
pub(super) async fn keep(
    tx: &mut Transaction,
    records: &[&Record],
    came_at: Timestamp,
) -> Result<(), sqlx::Error> {
    let rows = records.iter().filter_map(|record| row(record).transpose());
    let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    for chunk in rows.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut insert = QueryBuilder::new("INSERT INTO early (id, source, key, came_at, record) ");
            insert.push_values(chunk, |mut row, ((id, source), key, record)| {
                row.push_bind(*id)
                    .push_bind(source.as_ref())
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

/// A record with what tells it from the others of its event: an attempt has an id, and a death is
/// nothing but what it says.
fn row(record: &Record) -> Result<Option<(Key<'_>, String, String)>, sqlx::Error> {
    let Some(early) = Early::of(record) else {
        return Ok(None);
    };
    let json = serde_json::to_string(&early).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let key = match &early {
        Early::Attempt(attempt) => attempt.id.to_string(),
        Early::Death(_) => json.clone(),
    };
    Ok(Some((batch::key_of(record), key, json)))
}
