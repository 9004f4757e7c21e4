//! New generations of deliveries whose events are in the log: they are held in the lane of replays until the
//! dispatcher sends them on, or end at once because they are canceled.

use std::collections::{BTreeSet, HashMap, HashSet};

use relay_event::{DeliveryState, EndpointId, HoldReason, Standing, Timestamp};
use sqlx::QueryBuilder;

use super::{
    super::{
        batch::{Rows, Stands},
        codes, insert,
    },
    REPLAY, endpoints,
    lines::{End, Line, Way},
    write::Change,
};
use crate::{
    Error, Store,
    pool::{self, Transaction, on},
    sql,
};

/// A delivery that waits for its first attempt has no generation yet; that of its event's publication is on its way.
const CURRENT: &str = "SELECT d.event, d.endpoint, d.attempts, d.state, CASE WHEN d.attempts = 0 AND d.run = 0 \
     AND e.published_at > 0 THEN e.published_at ELSE d.run END \
     FROM deliveries d JOIN events e ON e.sequence = d.event WHERE (d.event, d.endpoint) IN (";

/// The deliveries that a request is for, of those that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// All.
    All,
    /// Those that have not ended.
    Waiting,
    /// Those that have ended, or were never begun.
    NotWaiting,
}

/// A delivery: the event's place in the log, and the endpoint.
type Named = (i64, EndpointId);

/// The attempts of a delivery so far, its state, and its generation.
type Current = (i64, DeliveryState, i64);

impl Store {
    /// Begins a new generation of each of these deliveries, named by the event's place and the endpoint: the delivery
    /// is pending, its schedule begins anew, and it is held as [`HoldReason::Replay`] until it is sent on. A delivery
    /// that is held already is held anew in its place. All begin or none. Returns those that were begun; events that
    /// were forgotten meanwhile have none.
    ///
    /// A retry that is on its way does not fire any more: its endpoint's [`overtaken`](relay_event::Endpoint::overtaken)
    /// tells of this change.
    ///
    /// # Errors
    /// The database failed.
    pub async fn begin_generation(
        &self,
        deliveries: &[Named],
        only: Only,
        now: Timestamp,
    ) -> Result<Vec<Named>, Error> {
        let begun = self.generation(deliveries, only, now, Some(HoldReason::Replay));
        self.within("begin deliveries anew in the log", begun).await
    }

    /// Cancels those of these deliveries that have not ended: they are sent no more. Returns them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn cancel(&self, deliveries: &[Named], now: Timestamp) -> Result<Vec<Named>, Error> {
        let canceled = self.generation(deliveries, Only::Waiting, now, None);
        self.within("cancel deliveries in the log", canceled).await
    }

    /// Marks an endpoint, as if a delivery to it were begun anew: its dispatcher tries it at once.
    ///
    /// # Errors
    /// The database failed.
    pub async fn mark(&self, endpoint: &EndpointId) -> Result<(), Error> {
        let work = async {
            let mut tx = self.pool.write().await?;
            insert::begin(&mut tx, Timestamp::default()).await?;
            sql::mark(&mut tx, &[endpoint.as_str()]).await?;
            pool::commit(tx).await
        };
        self.within(format!("mark endpoint {endpoint}"), work).await
    }

    async fn generation(
        &self,
        deliveries: &[Named],
        only: Only,
        now: Timestamp,
        held: Option<HoldReason>,
    ) -> Result<Vec<Named>, sqlx::Error> {
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.pool.write().await?;
        let changed = begin(&mut tx, deliveries, only, now, held).await?;
        pool::commit(tx).await?;
        Ok(changed)
    }
}

/// Begins a generation of each delivery that is held for this reason; without a reason, it ends at once.
async fn begin(
    tx: &mut Transaction,
    deliveries: &[Named],
    only: Only,
    now: Timestamp,
    held: Option<HoldReason>,
) -> Result<Vec<Named>, sqlx::Error> {
    insert::begin(tx, Timestamp::default()).await?;
    let places: BTreeSet<i64> = deliveries.iter().map(|(place, _)| *place).collect();
    let places: Vec<i64> = places.into_iter().collect();
    let there: HashSet<i64> = insert::kept(tx, &places).await?.into_iter().collect();
    let current = current(tx, deliveries).await?;
    let waits = |named: &Named| current.get(named).is_some_and(|(_, state, _)| !state.is_end());
    let is_meant = |named: &&Named| match only {
        Only::All => true,
        Only::Waiting => waits(named),
        Only::NotWaiting => !waits(named),
    };
    let meant: BTreeSet<Named> = deliveries
        .iter()
        .filter(|(place, _)| there.contains(place))
        .filter(is_meant)
        .cloned()
        .collect();
    let newest = meant
        .iter()
        .filter_map(|named| current.get(named))
        .map(|(.., generation)| *generation)
        .max();
    let generation = Standing::run_after(codes::time_or_none(newest)?, now);

    let mut rows = Rows::default();
    for named in &meant {
        let (place, endpoint) = named;
        let standing = match held {
            Some(_) => Standing::pending(generation),
            None => {
                let attempts = current.get(named).map_or(0, |(attempts, ..)| *attempts);
                Standing::canceled(generation, codes::attempts(attempts)?, now)
            }
        };
        rows.stands(*place, endpoint, Stands::from(&standing));
    }
    insert::deliveries(tx, &rows.deliveries).await?;

    let ids: BTreeSet<EndpointId> = meant.iter().map(|(_, endpoint)| endpoint.clone()).collect();
    let mut numbers = endpoints::find(tx, &ids).await?;
    if held.is_some() {
        endpoints::add(tx, &ids, &mut numbers).await?;
    }
    let at = meant
        .iter()
        .filter_map(|(place, endpoint)| Some((*numbers.get(endpoint)?, *place)));
    let at: BTreeSet<_> = at.collect();
    let mut change = Change::begin(tx, at.clone()).await?;
    let run = codes::millis(generation);
    for at in at {
        match held {
            Some(reason) => change.hold(at, line(run, reason, now)),
            None => change.end(
                at,
                End {
                    run,
                    way: Way::Returned,
                    hop: None,
                },
            ),
        }
    }
    change.write(tx).await?;

    let overtaken: BTreeSet<&str> = meant
        .iter()
        .filter(|named| waits(named))
        .map(|(_, endpoint)| endpoint.as_str())
        .collect();
    if !overtaken.is_empty() {
        let overtaken: Vec<&str> = overtaken.into_iter().collect();
        sql::mark(tx, &overtaken).await?;
    }
    Ok(meant.into_iter().collect())
}

fn line(run: i64, reason: HoldReason, now: Timestamp) -> Line {
    Line {
        lane: REPLAY,
        run,
        attempts: 0,
        reason: codes::hold_code(reason),
        held_at: codes::millis(now),
        history: None,
        hop: 0,
        is_claimed: false,
    }
}

/// The deliveries that were begun before, as the log shows them.
async fn current(tx: &mut Transaction, deliveries: &[Named]) -> Result<HashMap<Named, Current>, sqlx::Error> {
    type Columns = (i64, Vec<u8>, i64, i16, i64);
    let mut current = HashMap::new();
    for chunk in deliveries.chunks(insert::ROWS) {
        let found: Vec<Columns> = on!(&mut *tx, tx => {
            let mut query = QueryBuilder::new(CURRENT);
            query.push_values(chunk, |mut row, (place, endpoint)| {
                row.push_bind(*place).push_bind(endpoint.to_bytes().to_vec());
            });
            query.push(")").build_query_as().persistent(false).fetch_all(&mut **tx).await?
        });
        for (place, endpoint, attempts, state, generation) in found {
            let named = (place, codes::endpoint(endpoint)?);
            current.insert(named, (attempts, codes::state(state)?, generation));
        }
    }
    Ok(current)
}
