//! The numbers of endpoints that have deliveries held, and what became of their claims.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use relay_event::EndpointId;
use sqlx::QueryBuilder;

use super::{
    super::{codes, insert},
    ClaimEnds, HeldChange, HeldChanges,
    lines::Way,
};
use crate::{
    Error, Store,
    pool::{Transaction, on},
};

/// The numbers of endpoints.
pub(super) type Numbers = HashMap<EndpointId, i64>;

/// The claims that a write ended, by the endpoint's number.
#[derive(Debug, Default)]
pub(super) struct Changed(BTreeMap<i64, ClaimEnds>);

impl Changed {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Something is held for the endpoint.
    pub(super) fn held(&mut self, number: i64) {
        self.0.entry(number).or_default();
    }

    /// A claim of the endpoint ended.
    pub(super) fn ended(&mut self, number: i64, way: Way) {
        let ends = self.0.entry(number).or_default();
        match way {
            Way::Answered => ends.answered += 1,
            Way::Failed => ends.failed += 1,
            Way::Returned => ends.returned += 1,
            Way::Lost => ends.lost += 1,
            Way::Overtaken => ends.overtaken += 1,
        }
    }

    /// Writes it down, under the number of the next change.
    pub(super) async fn write(&self, tx: &mut Transaction) -> Result<(), sqlx::Error> {
        if self.is_empty() {
            return Ok(());
        }
        let next = "UPDATE log SET held_changes = held_changes + 1 RETURNING held_changes";
        let number: i64 = on!(&mut *tx, tx => sqlx::query_scalar(next).fetch_one(&mut **tx).await?);
        let all: Vec<_> = self.0.iter().collect();
        for chunk in all.chunks(insert::ROWS) {
            on!(&mut *tx, tx => {
                let mut update = QueryBuilder::new("WITH ended(number, answered, failed, returned, lost, overtaken) AS (");
                update.push_values(chunk, |mut row, (endpoint, ends)| {
                    row.push(endpoint).push(ends.answered).push(ends.failed);
                    row.push(ends.returned).push(ends.lost).push(ends.overtaken);
                });
                update.push(") UPDATE held_endpoints SET changed = ").push(number);
                for way in ["answered", "failed", "returned", "lost", "overtaken"] {
                    update.push(format_args!(", {way} = held_endpoints.{way} + ended.{way}"));
                }
                update.push(" FROM ended WHERE held_endpoints.number = ended.number");
                update.build().persistent(false).execute(&mut **tx).await?;
            });
        }
        Ok(())
    }
}

/// The numbers of those of these endpoints that have one.
pub(super) async fn find(tx: &mut Transaction, ids: &BTreeSet<EndpointId>) -> Result<Numbers, sqlx::Error> {
    let ids: Vec<&EndpointId> = ids.iter().collect();
    let mut numbers = Numbers::new();
    for chunk in ids.chunks(insert::ROWS) {
        let found: Vec<(String, i64)> = on!(&mut *tx, tx => {
            let mut query = QueryBuilder::new("SELECT id, number FROM held_endpoints WHERE id IN (");
            let mut list = query.separated(", ");
            for id in chunk {
                list.push_bind(id.as_str());
            }
            query.push(")").build_query_as().persistent(false).fetch_all(&mut **tx).await?
        });
        for (id, number) in found {
            numbers.insert(codes::parsed(&id)?, number);
        }
    }
    Ok(numbers)
}

/// Gives a number to those of these endpoints that have none.
pub(super) async fn add(
    tx: &mut Transaction,
    ids: &BTreeSet<EndpointId>,
    numbers: &mut Numbers,
) -> Result<(), sqlx::Error> {
    let new: Vec<&EndpointId> = ids.iter().filter(|id| !numbers.contains_key(id)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let sql = "SELECT COALESCE(MAX(number), 0) FROM held_endpoints";
    let last: i64 = on!(&mut *tx, tx => sqlx::query_scalar(sql).fetch_one(&mut **tx).await?);
    let numbered: Vec<(i64, &EndpointId)> = (last + 1..).zip(new).collect();
    for chunk in numbered.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut insert = QueryBuilder::new(
                "INSERT INTO held_endpoints (number, id, changed, answered, failed, returned, lost) ",
            );
            insert.push_values(chunk, |mut row, (number, id)| {
                row.push(number).push_bind(id.as_str()).push("0, 0, 0, 0, 0");
            });
            insert.build().persistent(false).execute(&mut **tx).await?;
        });
    }
    numbers.extend(numbered.into_iter().map(|(number, id)| (id.clone(), number)));
    Ok(())
}

impl Store {
    /// The endpoints for which something was held, or of which a claim ended, after the write of this number: at most
    /// `limit`, and those of one write together. One row is read if there are none.
    ///
    /// # Errors
    /// The database failed.
    pub async fn held_changes(&self, after: i64, limit: u32) -> Result<HeldChanges, Error> {
        let sql = "SELECT id, changed, answered, failed, returned, lost, overtaken FROM held_endpoints
            WHERE changed > $1 ORDER BY changed LIMIT $2";
        let rest = "SELECT id, changed, answered, failed, returned, lost, overtaken FROM held_endpoints
            WHERE changed = $1";
        let work = async {
            let mut tx = self.pool.read().await?;
            let mut rows: Vec<Columns> = on!(&mut tx, tx =>
                sqlx::query_as(sql).bind(after).bind(i64::from(limit.max(1))).fetch_all(&mut **tx).await?);
            let through = rows.last().map_or(after, |row| row.1);
            if rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
                rows.retain(|row| row.1 != through);
                let last: Vec<Columns> = on!(&mut tx, tx =>
                    sqlx::query_as(rest).bind(through).fetch_all(&mut **tx).await?);
                rows.extend(last);
            }
            let endpoints = rows.into_iter().map(changed).collect::<Result<_, _>>()?;
            Ok(HeldChanges { through, endpoints })
        };
        self.within("read for which endpoints deliveries are held", work)
            .await
    }
}

type Columns = (String, i64, i64, i64, i64, i64, i64);

fn changed((id, _, answered, failed, returned, lost, overtaken): Columns) -> Result<HeldChange, sqlx::Error> {
    Ok(HeldChange {
        endpoint: codes::parsed(&id)?,
        ends: ends([answered, failed, returned, lost, overtaken])?,
    })
}

pub(super) fn ends(
    [answered, failed, returned, lost, overtaken]: [i64; 5],
) -> Result<ClaimEnds, sqlx::Error> {
    Ok(ClaimEnds {
        answered: codes::duration(answered)?,
        failed: codes::duration(failed)?,
        returned: codes::duration(returned)?,
        lost: codes::duration(lost)?,
        overtaken: codes::duration(overtaken)?,
    })
}
