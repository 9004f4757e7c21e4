//! Events of which a delivery is held and that are not in the log: it forgot them, or a hold brought its event along
//! before the log had it. Their places are negative: so they come before the log, and no read of the log sees them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use relay_event::{EndpointId, Hold};
use sqlx::QueryBuilder;

use super::{
    super::{
        batch::{self, Key, Placed, Stands},
        codes, insert, types,
    },
    LIVE, REPLAY,
};
use crate::pool::{Transaction, on};

/// The distance from an event's place in the log to its place here once it is forgotten: the order stays.
const FORGOTTEN: i64 = 1 << 60;

/// Places of events that the log does not have (yet) go down from here.
const BROUGHT: i64 = -(1 << 61);

/// Held deliveries whose event is moved here at once.
const MOST: usize = 4_000;

/// A delivery that was held before the log had its event.
pub(super) struct CaughtUp {
    pub(super) sequence: i64,
    pub(super) endpoint: EndpointId,
    pub(super) stands: Stands,
}

/// Finds the places of events that are kept here.
pub(super) async fn places<'k>(
    tx: &mut Transaction,
    keys: Vec<Key<'k>>,
) -> Result<HashMap<Key<'k>, i64>, sqlx::Error> {
    let mut places = HashMap::new();
    if keys.is_empty() || is_empty(tx).await? {
        return Ok(places);
    }
    let sql = "SELECT w.n, k.place FROM wanted w JOIN kept k ON k.id = w.id AND k.source = w.source";
    for chunk in keys.chunks(insert::ROWS) {
        let found: Vec<(i64, i64)> = on!(&mut *tx, tx => insert::wanted(chunk)
            .push(sql)
            .build_query_as()
            .persistent(false)
            .fetch_all(&mut **tx)
            .await?);
        for (n, place) in found {
            if let Some(key) = usize::try_from(n).ok().and_then(|n| chunk.get(n)) {
                places.insert(key.clone(), place);
            }
        }
    }
    Ok(places)
}

async fn is_empty(tx: &mut Transaction) -> Result<bool, sqlx::Error> {
    let sql = "SELECT 1 FROM kept LIMIT 1";
    on!(tx, tx => Ok(sqlx::query(sql).fetch_optional(&mut **tx).await?.is_none()))
}

/// Keeps the events that these holds brought along, each once, and returns their places.
pub(super) async fn keep<'r>(
    tx: &mut Transaction,
    holds: &[&'r Hold],
) -> Result<HashMap<Key<'r>, i64>, sqlx::Error> {
    let mut brought: BTreeMap<Key<'r>, (&'r Hold, &'r str)> = BTreeMap::new();
    for hold in holds {
        if let Some(event) = &hold.event {
            let key = batch::key(&hold.event_id, &hold.event_source);
            brought.entry(key).or_insert((hold, event));
        }
    }
    if brought.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "SELECT COALESCE(MIN(place), 0) FROM kept";
    let lowest: i64 = on!(&mut *tx, tx => sqlx::query_scalar(sql).fetch_one(&mut **tx).await?);
    let lowest = lowest.min(BROUGHT);
    let sql = "INSERT INTO kept (place, id, source, published_at, body) VALUES ($1, $2, $3, $4, $5)";
    let mut places = HashMap::new();
    for (place, (key, (hold, event))) in (1..).map(|n| lowest - n).zip(brought) {
        on!(&mut *tx, tx => {
            let insert = sqlx::query(sql)
                .bind(place)
                .bind(key.0)
                .bind(key.1.as_ref())
                .bind(hold.published_at.map(codes::millis))
                .bind(event.as_bytes());
            insert.execute(&mut **tx).await?;
        });
        places.insert(key, place);
    }
    Ok(places)
}

/// Gives what was held of new events their places in the log.
pub(super) async fn move_to_log(
    tx: &mut Transaction,
    new: &[Placed<'_>],
) -> Result<Vec<CaughtUp>, sqlx::Error> {
    let keys = new.iter().map(Placed::key).collect();
    let kept = places(tx, keys).await?;
    let mut caught_up = Vec::new();
    for placed in new {
        let Some(place) = kept.get(&placed.key()) else {
            continue;
        };
        let sql = "SELECT o.id, h.generation, h.attempts, h.held_at FROM held h
            JOIN held_endpoints o ON o.number = h.endpoint WHERE h.event = $1 AND h.event < 0";
        let lines: Vec<(String, i64, i64, i64)> =
            on!(&mut *tx, tx => sqlx::query_as(sql).bind(place).fetch_all(&mut **tx).await?);
        for (endpoint, run, attempts, held_at) in lines {
            caught_up.push(CaughtUp {
                sequence: placed.sequence,
                endpoint: codes::parsed(&endpoint)?,
                stands: Stands::held(run, attempts, held_at, None),
            });
        }
        let moving = "UPDATE held SET event = $1 WHERE event = $2 AND event < 0";
        let removing = "DELETE FROM kept WHERE place = $1";
        on!(&mut *tx, tx => {
            let moving = sqlx::query(moving).bind(placed.sequence).bind(place);
            moving.execute(&mut **tx).await?;
            sqlx::query(removing).bind(place).execute(&mut **tx).await?;
        });
    }
    Ok(caught_up)
}

/// Removes those of the events at these places of which nothing is held any more.
pub(super) async fn remove_unheld(tx: &mut Transaction, places: &BTreeSet<i64>) -> Result<(), sqlx::Error> {
    let places: Vec<i64> = places.iter().copied().collect();
    for chunk in places.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut delete = QueryBuilder::new("DELETE FROM kept WHERE place IN (");
            types::push_list(&mut delete, chunk);
            delete.push(") AND NOT EXISTS (SELECT 1 FROM held WHERE held.event = kept.place AND held.event < 0)");
            delete.build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

/// Keeps the events before this place of which a delivery is held, so that the log may forget them. Returns the place
/// before which it may: an earlier one if very many deliveries are held.
pub(crate) async fn make_room(tx: &mut Transaction, before: i64) -> Result<i64, sqlx::Error> {
    // In this order each endpoint has the beginning of its lines looked at, and not all lines.
    let sql = "SELECT h.endpoint, h.lane, h.event FROM held_endpoints o
        CROSS JOIN (SELECT $1 AS lane UNION ALL SELECT $2) l CROSS JOIN held h
        WHERE h.endpoint = o.number AND h.lane = l.lane AND h.event >= 0 AND h.event < $3
        ORDER BY h.event LIMIT $4";
    let held = async |tx: &mut Transaction,
                      before: i64,
                      most: usize|
           -> Result<Vec<(i64, i16, i64)>, sqlx::Error> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        on!(tx, tx => sqlx::query_as(sql).bind(LIVE).bind(REPLAY).bind(before).bind(most).fetch_all(&mut **tx).await)
    };
    let mut lines = held(tx, before, MOST + 1).await?;
    let mut end = before;
    if let (Some((.., first)), Some((.., last))) = (lines.first(), lines.get(MOST)) {
        end = (*last).max(first + 1);
        lines = held(tx, end, usize::MAX).await?;
    }
    let events: BTreeSet<i64> = lines.iter().map(|(.., event)| *event).collect();
    let events: Vec<i64> = events.into_iter().collect();
    for chunk in events.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut keep = QueryBuilder::new("INSERT INTO kept (place, id, source, published_at, body) ");
            keep.push(format_args!("SELECT sequence - {FORGOTTEN}, id, source, published_at, body "));
            keep.push("FROM events WHERE sequence IN (");
            types::push_list(&mut keep, chunk);
            keep.push(")").build().persistent(false).execute(&mut **tx).await?;
        });
    }
    for chunk in lines.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut change = QueryBuilder::new(format!("UPDATE held SET event = event - {FORGOTTEN} "));
            change.push("WHERE (endpoint, lane, event) IN (");
            change.push_values(chunk, |mut row, (endpoint, lane, event)| {
                row.push(endpoint).push(lane).push(event);
            });
            change.push(")").build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(end)
}
