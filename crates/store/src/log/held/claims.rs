//! Claims: held deliveries that are being sent on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use bytes::Bytes;
use relay_event::{EndpointId, EndpointsVersion, Event, History, HoldReason, Timestamp};
use sqlx::{AssertSqlSafe, QueryBuilder};

use super::{
    super::{codes, insert, types},
    ClaimFrom, ClaimRequest, Claimed, Claims, HeldAgain, LIVE, REPLAY, ReturnedFor, UNREADABLE, duty,
    endpoints::{self, Changed},
    lines::Way,
};
use crate::{
    Error, Store,
    pool::{self, Transaction, on},
    sql::{self, Fleet},
};

/// Branches in a statement: each finds the first lines of one endpoint.
const BRANCHES: usize = 50;

impl Store {
    /// Claims the first deliveries, in the order of the log within each lane, that are held for each of these endpoints and not claimed:
    /// at most so many, and events of about `max_bytes` in all, or one that is larger. `None` if the epoch is over: nothing is
    /// claimed then. What is claimed stays so until a record ends it: an attempt, a dead letter, or a hold; or until
    /// [`Self::hold_silent_claims_again`].
    ///
    /// # Errors
    /// The database failed.
    pub async fn claim(
        &self,
        epoch: i64,
        requests: &[ClaimRequest],
        max_bytes: u64,
    ) -> Result<Option<Vec<Claims>>, Error> {
        let work = async {
            let mut tx = self.pool.write().await?;
            insert::begin(&mut tx, Timestamp::default()).await?;
            if !duty::is_on(&mut tx, epoch).await? {
                return Ok(None);
            }
            let claims = claim(&mut tx, epoch, requests, max_bytes).await?;
            pool::commit(tx).await?;
            Ok(Some(claims))
        };
        self.within("claim held deliveries", work).await
    }

    /// The endpoints for which deliveries are held that were returned too often, in the order of their ids. Only such
    /// deliveries are looked at.
    ///
    /// # Errors
    /// The database failed.
    pub async fn returned(&self) -> Result<Vec<ReturnedFor>, Error> {
        let sql = format!(
            "SELECT o.id, MAX(o.answered), MAX(o.failed), MAX(o.returned), MAX(o.lost), MAX(o.overtaken), COUNT(h.claimed_at) FROM held h JOIN held_endpoints o ON o.number = h.endpoint \
             WHERE h.reason = {} AND (h.claimed_at IS NULL OR h.claimed_at < {UNREADABLE}) GROUP BY o.id ORDER BY o.id",
            codes::hold_code(HoldReason::Returned)
        );
        let work = async {
            type Columns = (String, i64, i64, i64, i64, i64, i64);
            let rows: Vec<Columns> = on!(&self.pool.reading, pool => {
                sqlx::query_as(AssertSqlSafe(sql)).fetch_all(pool).await?
            });
            let returned = |(id, answered, failed, returned, lost, overtaken, claimed): Columns| {
                Ok(ReturnedFor {
                    endpoint: codes::parsed(&id)?,
                    is_claimed: claimed > 0,
                    ends: endpoints::ends([answered, failed, returned, lost, overtaken])?,
                })
            };
            rows.into_iter().map(returned).collect()
        };
        self.within("read what was returned too often", work).await
    }

    /// Holds those deliveries again of whose claims nothing was heard, at most `limit`: those that an earlier epoch
    /// claimed `silent_for` ago, and all that were claimed `lost_after` ago. `None` if the epoch is over. All that is
    /// held is looked at: some 200 ms for a million.
    ///
    /// # Errors
    /// The database failed.
    pub async fn hold_silent_claims_again(
        &self,
        epoch: i64,
        (silent_for, lost_after): (Duration, Duration),
        limit: u32,
    ) -> Result<Option<HeldAgain>, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let now = sql::now(&mut tx).await?;
            let before = [silent_for, lost_after].map(|time| now.saturating_sub(duty::millis(time)));
            let silent = silent(&mut tx, epoch, before, limit).await?;
            drop(tx);
            let mut tx = self.pool.write().await?;
            insert::begin(&mut tx, Timestamp::default()).await?;
            if !duty::is_on(&mut tx, epoch).await? {
                return Ok(None);
            }
            let deliveries = hold_again(&mut tx, epoch, before, &silent).await?;
            pool::commit(tx).await?;
            let mut tx = self.pool.read().await?;
            let sql =
                "SELECT COUNT(CASE WHEN epoch < $1 THEN 1 END), COUNT(*) FROM held WHERE claimed_at < $2";
            let (left, claims): (i64, i64) = on!(&mut tx, tx =>
                sqlx::query_as(sql).bind(epoch).bind(UNREADABLE).fetch_one(&mut **tx).await?);
            Ok(Some(HeldAgain {
                deliveries,
                left: codes::duration(left)?,
                claims: codes::duration(claims)?,
            }))
        };
        self.within("hold deliveries again whose claims are silent", work)
            .await
    }
}

/// The number of a line's endpoint, its lane, and its event's place.
type At = (i64, i16, i64);

/// A line that may be claimed.
struct Candidate {
    at: At,
    generation: i64,
    hop: i64,
    history: Option<String>,
    published_at: Option<i64>,
    bytes: u64,
}

/// The number of the request, and the endpoint's line.
type Columns = (
    i64,
    i64,
    i16,
    i64,
    i64,
    i64,
    Option<String>,
    Option<i64>,
    Option<i64>,
);

async fn claim(
    tx: &mut Transaction,
    epoch: i64,
    requests: &[ClaimRequest],
    max_bytes: u64,
) -> Result<Vec<Claims>, sqlx::Error> {
    let ids: BTreeSet<EndpointId> = requests.iter().map(|request| request.endpoint.clone()).collect();
    let numbers = endpoints::find(tx, &ids).await?;
    let mut asked: Vec<(usize, i64, &ClaimRequest)> = Vec::new();
    for (n, request) in requests.iter().enumerate() {
        if let Some(number) = numbers.get(&request.endpoint) {
            asked.push((n, *number, request));
        }
    }
    let mut found: BTreeMap<usize, Vec<Candidate>> = BTreeMap::new();
    for chunk in asked.chunks(BRANCHES) {
        candidates(tx, chunk, &mut found).await?;
    }
    let (mut bytes, mut more) = (0, BTreeSet::new());
    for (n, candidates) in &mut found {
        if candidates.len() >= usize::try_from(requests[*n].limit).unwrap_or(usize::MAX) {
            more.insert(*n);
        }
        let fitting = candidates.iter().take_while(|candidate| {
            let first = bytes == 0;
            let fits = bytes + candidate.bytes <= max_bytes;
            if first || fits {
                bytes += candidate.bytes.max(1);
            }
            first || fits
        });
        let fitting = fitting.count();
        if fitting < candidates.len() {
            more.insert(*n);
            candidates.truncate(fitting);
        }
    }
    note(tx, epoch, found.values().flatten()).await?;
    // Marks are set in the log's turn too: so this is the version of all that were set before.
    let Fleet { lineage, number, .. } = sql::fleet_in(tx).await?;
    let version = EndpointsVersion { lineage, number };
    let bodies = bodies(tx, found.values().flatten()).await?;
    let (mut claims, mut unreadable) = (Vec::with_capacity(requests.len()), Vec::new());
    for (n, request) in requests.iter().enumerate() {
        let candidates = found.remove(&n).unwrap_or_default();
        let (count, before) = (candidates.len(), unreadable.len());
        let mut deliveries = Vec::with_capacity(count);
        for candidate in candidates {
            let at = candidate.at;
            match claimed(candidate, &bodies, &version) {
                Ok(claimed) => deliveries.push(claimed),
                Err(_) => unreadable.push(at),
            }
        }
        claims.push(Claims {
            endpoint: request.endpoint.clone(),
            unreadable: u64::try_from(unreadable.len() - before).unwrap_or(u64::MAX),
            deliveries,
            more: more.contains(&n),
        });
    }
    set_apart(tx, &unreadable).await?;
    Ok(claims)
}

async fn candidates(
    tx: &mut Transaction,
    asked: &[(usize, i64, &ClaimRequest)],
    found: &mut BTreeMap<usize, Vec<Candidate>>,
) -> Result<(), sqlx::Error> {
    let returned = codes::hold_code(HoldReason::Returned);
    let rows: Vec<Columns> = on!(tx, tx => {
        let mut query = QueryBuilder::new("");
        let mut branches = 0;
        for (n, number, request) in asked {
            let limit = request.limit;
            for lanes in request.from.branches() {
                query.push(if branches == 0 { "" } else { " UNION ALL " });
                query.push(format_args!(
                    "SELECT * FROM (SELECT CAST({n} AS BIGINT), h.endpoint, h.lane, h.event, h.generation, h.hop, \
                     h.history, CASE WHEN h.event < 0 THEN k.published_at ELSE e.published_at END, \
                     CAST(COALESCE(LENGTH(e.body), LENGTH(k.body)) AS BIGINT) FROM held h \
                     LEFT JOIN events e ON e.sequence = h.event LEFT JOIN kept k ON k.place = h.event \
                     WHERE h.endpoint = {number} AND h.claimed_at IS NULL AND "
                ));
                match lanes {
                    Some(lane) => query.push(format_args!("h.lane = {lane} AND h.reason <> {returned} ORDER BY h.event")),
                    None if request.from == ClaimFrom::Returned => {
                        query.push(format_args!("h.reason = {returned} ORDER BY h.event"))
                    }
                    None => query.push(format_args!("h.reason <> {returned} ORDER BY h.lane, h.event")),
                };
                query.push(format_args!(" LIMIT {limit}) AS branch{branches}"));
                branches += 1;
            }
        }
        query.build_query_as().persistent(false).fetch_all(&mut **tx).await?
    });
    for (n, endpoint, lane, event, generation, hop, history, published_at, bytes) in rows {
        let n = usize::try_from(n).map_err(codes::unreadable)?;
        found.entry(n).or_default().push(Candidate {
            at: (endpoint, lane, event),
            generation,
            hop,
            history,
            published_at,
            bytes: codes::duration(bytes.unwrap_or_default())?,
        });
    }
    for (n, _, request) in asked {
        if let Some(candidates) = found.get_mut(n) {
            candidates.sort_unstable_by_key(|candidate| {
                let (_, lane, event) = candidate.at;
                let comes_later = lane == LIVE && request.from == ClaimFrom::ReplaysFirst;
                (comes_later, lane, event)
            });
            candidates.truncate(usize::try_from(request.limit).unwrap_or(usize::MAX));
        }
    }
    Ok(())
}

impl ClaimFrom {
    /// The lanes in each of which the first deliveries are looked for; `None` for all lanes in their order, which is
    /// that of the table.
    fn branches(self) -> &'static [Option<i16>] {
        match self {
            Self::LiveFirst | Self::Returned => &[None],
            Self::ReplaysFirst => &[Some(REPLAY), Some(LIVE)],
        }
    }
}

/// Notes the claims.
async fn note(
    tx: &mut Transaction,
    epoch: i64,
    candidates: impl Iterator<Item = &Candidate>,
) -> Result<(), sqlx::Error> {
    let at: Vec<At> = candidates.map(|line| line.at).collect();
    if at.is_empty() {
        return Ok(());
    }
    let now = sql::now(tx).await?;
    for chunk in at.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut update = QueryBuilder::new("UPDATE held SET hop = hop + 1, epoch = ");
            update.push(epoch).push(", claimed_at = ").push(now);
            update.push(" WHERE (endpoint, lane, event) IN (");
            update.push_values(chunk, |mut row, (endpoint, lane, event)| {
                row.push(endpoint).push(lane).push(event);
            });
            update.push(")").build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

/// Leaves deliveries claimed for ever that cannot be read.
async fn set_apart(tx: &mut Transaction, unreadable: &[At]) -> Result<(), sqlx::Error> {
    for chunk in unreadable.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut update = QueryBuilder::new("UPDATE held SET claimed_at = ");
            update.push(UNREADABLE).push(" WHERE (endpoint, lane, event) IN (");
            update.push_values(chunk, |mut row, (endpoint, lane, event)| {
                row.push(endpoint).push(lane).push(event);
            });
            update.push(")").build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

/// The bytes of the events, by their places.
async fn bodies(
    tx: &mut Transaction,
    candidates: impl Iterator<Item = &Candidate>,
) -> Result<HashMap<i64, Bytes>, sqlx::Error> {
    let places: BTreeSet<i64> = candidates.map(|line| line.at.2).collect();
    let places: Vec<i64> = places.into_iter().collect();
    let mut bodies = HashMap::with_capacity(places.len());
    for chunk in places.chunks(insert::ROWS) {
        let found: Vec<(i64, Vec<u8>)> = on!(&mut *tx, tx => {
            let mut query = QueryBuilder::new("SELECT sequence, body FROM events WHERE sequence IN (");
            types::push_list(&mut query, chunk);
            query.push(") UNION ALL SELECT place, body FROM kept WHERE place IN (");
            types::push_list(&mut query, chunk);
            query.push(")").build_query_as().persistent(false).fetch_all(&mut **tx).await?
        });
        bodies.extend(found.into_iter().map(|(place, body)| (place, Bytes::from(body))));
    }
    Ok(bodies)
}

fn claimed(
    candidate: Candidate,
    bodies: &HashMap<i64, Bytes>,
    version: &EndpointsVersion,
) -> Result<Claimed, sqlx::Error> {
    let place = candidate.at.2;
    let body = bodies.get(&place).cloned().unwrap_or_default();
    let event = Event::reread(body).map_err(|refused| {
        codes::unreadable(format!("the held event at {place} does not read: {refused}"))
    })?;
    let mut history: History = match &candidate.history {
        Some(json) => serde_json::from_str(json).map_err(codes::unreadable)?,
        None => History {
            run: (candidate.generation > 0)
                .then(|| codes::time(candidate.generation))
                .transpose()?,
            ..History::default()
        },
    };
    history.version = Some(version.clone());
    Ok(Claimed {
        event,
        published_at: codes::time_or_none(candidate.published_at)?,
        hop: codes::attempts(candidate.hop.saturating_add(1))?,
        history,
    })
}

async fn silent(
    tx: &mut Transaction,
    epoch: i64,
    [silent, lost]: [i64; 2],
    limit: u32,
) -> Result<Vec<At>, sqlx::Error> {
    let sql = "SELECT endpoint, lane, event FROM held WHERE claimed_at IS NOT NULL
        AND (epoch < $1 AND claimed_at <= $2 OR claimed_at <= $3) LIMIT $4";
    on!(tx, tx => sqlx::query_as(sql)
        .bind(epoch)
        .bind(silent)
        .bind(lost)
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await)
}

/// Holds deliveries again whose claims are silent still.
async fn hold_again(
    tx: &mut Transaction,
    epoch: i64,
    [silent, lost]: [i64; 2],
    found: &[At],
) -> Result<u64, sqlx::Error> {
    let (mut changed, mut count) = (Changed::default(), 0);
    for chunk in found.chunks(insert::ROWS) {
        let endpoints: Vec<i64> = on!(&mut *tx, tx => {
            let mut update = QueryBuilder::new("UPDATE held SET epoch = NULL, claimed_at = NULL WHERE (endpoint, lane, event) IN (");
            update.push_values(chunk, |mut row, (endpoint, lane, event)| {
                row.push(endpoint).push(lane).push(event);
            });
            update.push(") AND claimed_at IS NOT NULL AND (epoch < ").push(epoch);
            update.push(" AND claimed_at <= ").push(silent).push(" OR claimed_at <= ").push(lost);
            update.push(") RETURNING endpoint");
            update.build_query_scalar().persistent(false).fetch_all(&mut **tx).await?
        });
        for endpoint in endpoints {
            changed.ended(endpoint, Way::Lost);
            count += 1;
        }
    }
    changed.write(tx).await?;
    Ok(count)
}
