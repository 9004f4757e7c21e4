//! New generations of deliveries whose events are in the log: they are held in the lane of replays until the
//! dispatcher sends them on.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use relay_event::{EndpointId, HoldReason, Standing, Timestamp};
use sqlx::QueryBuilder;

use super::{
    super::{
        batch::{Rows, Stands},
        codes, insert,
    },
    REPLAY, endpoints,
    lines::Line,
    write::Change,
};
use crate::{
    Error, Store,
    pool::{self, Transaction, on},
};

/// A delivery that waits for its first attempt has no generation yet; that of its event's publication is on its way.
const NEWEST: &str = "SELECT MAX(CASE WHEN d.attempts = 0 AND d.run = 0 AND e.published_at > 0 \
     THEN e.published_at ELSE d.run END) \
     FROM deliveries d JOIN events e ON e.sequence = d.event WHERE (d.event, d.endpoint) IN (";

impl Store {
    /// Begins a new generation of each of these deliveries, named by the event's place and the endpoint: the delivery
    /// is pending, its schedule begins anew, and it is held as [`HoldReason::Replay`] until it is sent on. A delivery
    /// that is held already is held anew in its place. All begin or none. Returns the places of the events, each once;
    /// those of events that were forgotten meanwhile are left out.
    ///
    /// # Errors
    /// The database failed.
    pub async fn begin_generation(
        &self,
        deliveries: &[(i64, EndpointId)],
        now: Timestamp,
    ) -> Result<Vec<i64>, Error> {
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let work = async {
            let mut tx = self.pool.write().await?;
            let places = begin(&mut tx, deliveries, now).await?;
            pool::commit(tx).await?;
            Ok(places)
        };
        self.within("begin deliveries anew in the log", work).await
    }
}

async fn begin(
    tx: &mut Transaction,
    deliveries: &[(i64, EndpointId)],
    now: Timestamp,
) -> Result<Vec<i64>, sqlx::Error> {
    insert::begin(tx, Timestamp::default()).await?;
    let places: BTreeSet<i64> = deliveries.iter().map(|(place, _)| *place).collect();
    let places: Vec<i64> = places.into_iter().collect();
    let there: HashSet<i64> = insert::kept(tx, &places).await?.into_iter().collect();
    let deliveries: Vec<&(i64, EndpointId)> = deliveries
        .iter()
        .filter(|(place, _)| there.contains(place))
        .collect();
    let generation = Standing::run_after(newest(tx, &deliveries).await?, now);

    let mut rows = Rows::default();
    for (place, endpoint) in &deliveries {
        rows.stands(*place, endpoint, Stands::from(&Standing::pending(generation)));
    }
    insert::deliveries(tx, &rows.deliveries).await?;

    let ids: BTreeSet<EndpointId> = deliveries.iter().map(|(_, endpoint)| endpoint.clone()).collect();
    let mut numbers = endpoints::find(tx, &ids).await?;
    endpoints::add(tx, &ids, &mut numbers).await?;
    let at: BTreeMap<_, _> = deliveries
        .iter()
        .map(|(place, endpoint)| ((numbers[endpoint], *place), ()))
        .collect();
    let mut change = Change::begin(tx, at.keys().copied().collect()).await?;
    for at in at.into_keys() {
        let line = Line {
            lane: REPLAY,
            run: codes::millis(generation),
            attempts: 0,
            reason: codes::hold_code(HoldReason::Replay),
            held_at: codes::millis(now),
            history: None,
            hop: 0,
            is_claimed: false,
        };
        change.hold(at, line);
    }
    change.write(tx).await?;
    Ok(places.into_iter().filter(|place| there.contains(place)).collect())
}

/// The newest generation of any of these deliveries; `None` if none was ever begun.
async fn newest(
    tx: &mut Transaction,
    deliveries: &[&(i64, EndpointId)],
) -> Result<Option<Timestamp>, sqlx::Error> {
    let mut newest = None;
    for chunk in deliveries.chunks(insert::ROWS) {
        let generation: Option<i64> = on!(&mut *tx, tx => {
            let mut query = QueryBuilder::new(NEWEST);
            query.push_values(chunk, |mut row, (place, endpoint)| {
                row.push_bind(*place).push_bind(endpoint.to_bytes().to_vec());
            });
            query.push(")").build_query_scalar().persistent(false).fetch_one(&mut **tx).await?
        });
        newest = newest.max(generation);
    }
    codes::time_or_none(newest)
}
