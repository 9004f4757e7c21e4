//! Reads of what is held.

use std::collections::{BTreeMap, HashMap};

use relay_event::{EndpointId, HoldReason};
use sqlx::QueryBuilder;

use super::{
    super::{codes, insert},
    HeldDelivery, HeldFor, HeldNow, LIVE, REPLAY, early,
    endpoints::ends,
};
use crate::{
    Error, Store,
    pool::{Transaction, on},
};

/// The endpoint's id, the ends of its claims, a reason, the number of its lines with this reason, and that of those
/// that are claimed.
type Columns = (String, i64, i64, i64, i64, i64, i16, i64, i64);

impl Store {
    /// All that is held, by endpoint and reason. Every held delivery is looked at: some 200 ms for a million.
    ///
    /// # Errors
    /// The database failed.
    pub async fn waiting_by_endpoint(&self) -> Result<HeldNow, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let last = "SELECT held_changes FROM log";
            let through = on!(&mut tx, tx => sqlx::query_scalar(last).fetch_one(&mut **tx).await?);
            let rows: Vec<Columns> = on!(&mut tx, tx => {
                let sql = "SELECT o.id, o.answered, o.failed, o.returned, o.lost, o.overtaken, h.reason, h.lines, h.claimed FROM \
                     (SELECT endpoint, reason, COUNT(*) AS lines, COUNT(claimed_at) AS claimed FROM held \
                     GROUP BY endpoint, reason) h JOIN held_endpoints o ON o.number = h.endpoint ORDER BY o.id";
                sqlx::query_as(sql).fetch_all(&mut **tx).await?
            });
            Ok(HeldNow {
                through,
                endpoints: by_endpoint(rows)?,
                without_event: codes::duration(early::count(&mut tx).await?)?,
            })
        };
        self.within("count held deliveries", work).await
    }

    /// The number of deliveries that are held for one endpoint, by reason, claimed ones included. Only reasons that
    /// any has are told. A delivery whose event is not in the log yet does not count.
    ///
    /// # Errors
    /// The database failed.
    pub async fn waiting_for(&self, endpoint: &EndpointId) -> Result<BTreeMap<HoldReason, u64>, Error> {
        let sql = "SELECT h.reason, COUNT(*) FROM held_endpoints o JOIN held h ON h.endpoint = o.number
            WHERE o.id = $1 GROUP BY h.reason";
        let work = async {
            let rows: Vec<(i16, i64)> = on!(&self.pool.reading, pool => {
                sqlx::query_as(sql).bind(endpoint.as_str()).fetch_all(pool).await?
            });
            let counted = |(reason, count)| Ok((codes::hold(reason)?, codes::duration(count)?));
            rows.into_iter().map(counted).collect()
        };
        self.within(format!("count what is held for endpoint {endpoint}"), work)
            .await
    }
}

/// Puts the rows of an endpoint, which come one after the other, together.
fn by_endpoint(rows: Vec<Columns>) -> Result<Vec<HeldFor>, sqlx::Error> {
    let mut endpoints: Vec<HeldFor> = Vec::new();
    for (id, answered, failed, returned, lost, overtaken, reason, lines, claimed) in rows {
        let by_reason = (codes::hold(reason)?, codes::duration(lines)?);
        let claimed = codes::duration(claimed)?;
        match endpoints.last_mut() {
            Some(last) if last.endpoint.as_str() == id => {
                last.by_reason.push(by_reason);
                last.claimed += claimed;
            }
            _ => endpoints.push(HeldFor {
                endpoint: codes::parsed(&id)?,
                by_reason: vec![by_reason],
                claimed,
                ends: ends([answered, failed, returned, lost, overtaken])?,
            }),
        }
    }
    for held in &mut endpoints {
        held.by_reason.sort_unstable();
    }
    Ok(endpoints)
}

/// The held ones of these deliveries, by the event's place and the endpoint.
pub(crate) async fn held_of(
    tx: &mut Transaction,
    deliveries: &[(i64, EndpointId)],
) -> Result<HashMap<(i64, EndpointId), HeldDelivery>, sqlx::Error> {
    let mut held = HashMap::new();
    let anything = "SELECT endpoint FROM held LIMIT 1";
    let anything: Option<i64> =
        on!(&mut *tx, tx => sqlx::query_scalar(anything).fetch_optional(&mut **tx).await?);
    if anything.is_none() {
        return Ok(held);
    }
    for chunk in deliveries.chunks(insert::ROWS) {
        let found: Vec<(i64, i16, i64, Option<i64>)> = on!(&mut *tx, tx => {
            let mut query = QueryBuilder::new("WITH wanted(n, event, id) AS (");
            query.push_values((0_i64..).zip(chunk), |mut row, (n, (event, endpoint))| {
                row.push_bind(n).push_bind(*event).push_bind(endpoint.as_str());
            });
            query.push(
                ") SELECT w.n, h.reason, h.held_at, h.claimed_at FROM wanted w \
                 JOIN held_endpoints o ON o.id = w.id JOIN held h ON h.endpoint = o.number AND h.event = w.event ",
            );
            query.push(format_args!("AND h.lane IN ({LIVE}, {REPLAY})"));
            query.build_query_as().persistent(false).fetch_all(&mut **tx).await?
        });
        for (n, reason, since, claimed_at) in found {
            if let Some(delivery) = usize::try_from(n).ok().and_then(|n| chunk.get(n)) {
                let delivery_held = HeldDelivery {
                    reason: codes::hold(reason)?,
                    since: codes::time(since)?,
                    is_claimed: claimed_at.is_some(),
                };
                held.insert(delivery.clone(), delivery_held);
            }
        }
    }
    Ok(held)
}
