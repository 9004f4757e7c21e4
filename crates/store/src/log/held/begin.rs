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
    REPLAY,
    endpoints::{self, Numbers},
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
    /// Those that wait: they have not ended, and are held or were attempted. What is on its way to its first attempt does
    /// not wait.
    Waiting,
    /// Those that are dead, or were never begun.
    Undelivered,
}

/// A delivery: the event's place in the log, and the endpoint.
type Named = (i64, EndpointId);

/// A delivery as the log shows it.
struct Current {
    attempts: i64,
    state: DeliveryState,
    generation: i64,
}

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

    /// Cancels those of these deliveries that wait ([`Only::Waiting`]): no attempt of them begins any more. Returns them.
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
    let named: BTreeSet<&Named> = deliveries
        .iter()
        .filter(|(place, _)| there.contains(place))
        .collect();
    let ids = named.iter().map(|(_, endpoint)| endpoint.clone()).collect();
    let mut numbers = endpoints::find(tx, &ids).await?;
    let at = |numbers: &Numbers, (place, endpoint): &Named| Some((*numbers.get(endpoint)?, *place));
    let all = named.iter().filter_map(|named| at(&numbers, named)).collect();
    let mut change = Change::begin(tx, all).await?;

    let is_held = |named: &Named| at(&numbers, named).is_some_and(|at| change.line(&at).is_some());
    let is_meant = |named: &Named| match (only, current.get(named)) {
        (Only::All, _) | (Only::Undelivered, None) => true,
        (Only::Undelivered, Some(current)) => current.state == DeliveryState::Dead,
        (Only::Waiting, None) => false,
        (Only::Waiting, Some(current)) => !current.state.is_end() && (current.attempts > 0 || is_held(named)),
    };
    let meant: Vec<Named> = named
        .into_iter()
        .filter(|named| is_meant(named))
        .cloned()
        .collect();
    if held.is_some() {
        let ids = meant.iter().map(|(_, endpoint)| endpoint.clone()).collect();
        endpoints::add(tx, &ids, &mut numbers).await?;
    }
    let (mut rows, mut overtaken) = (Rows::default(), BTreeSet::new());
    for named in &meant {
        let (place, endpoint) = named;
        let current = current.get(named);
        let before = current.map(|current| current.generation);
        let generation = Standing::run_after(codes::time_or_none(before)?, now);
        let standing = match held {
            Some(_) => Standing::pending(generation),
            None => {
                let attempts = current.map_or(0, |current| current.attempts);
                Standing::canceled(generation, codes::attempts(attempts)?, now)
            }
        };
        rows.stands(*place, endpoint, Stands::from(&standing));
        if current.is_some_and(|current| !current.state.is_end()) {
            overtaken.insert(endpoint.as_str());
        }
        let Some(at) = at(&numbers, named) else {
            continue; // Nothing is held for the endpoint.
        };
        match held {
            Some(reason) => {
                let line = line(codes::millis(generation), reason, change.line(&at), now);
                change.hold(at, line, Way::Overtaken);
            }
            None => change.end(
                at,
                End {
                    run: codes::millis(generation),
                    way: Way::Overtaken,
                    hop: None,
                },
            ),
        }
    }
    insert::deliveries(tx, &rows.deliveries).await?;
    change.write(tx).await?;
    if !overtaken.is_empty() {
        let overtaken: Vec<&str> = overtaken.into_iter().collect();
        sql::mark(tx, &overtaken).await?;
    }
    Ok(meant)
}

/// A line of a new generation. What was returned too often stays apart from all others.
fn line(generation: i64, reason: HoldReason, there: Option<&Line>, now: Timestamp) -> Line {
    let returned = codes::hold_code(HoldReason::Returned);
    let is_apart = there.is_some_and(|there| there.reason == returned);
    Line {
        lane: REPLAY,
        run: generation,
        attempts: 0,
        reason: if is_apart {
            returned
        } else {
            codes::hold_code(reason)
        },
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
            let now = Current {
                attempts,
                state: codes::state(state)?,
                generation,
            };
            current.insert(named, now);
        }
    }
    Ok(current)
}
