use std::collections::HashSet;

use relay_event::{EndpointId, Standing, Timestamp};

use super::{
    Record, Written,
    batch::{self, Rows, Stands},
    early,
    held::Held,
    insert,
};
use crate::{
    Error, Store,
    pool::{self, Transaction},
};

impl Store {
    /// Writes all records, or none. What was written before changes nothing, so records may come twice
    /// and in any order: an attempt may be there before its event.
    ///
    /// # Errors
    /// The database failed. [`Error::is_unavailable`] tells whether the same may work later.
    pub async fn record(&self, records: &[Record], now: Timestamp) -> Result<Written, Error> {
        if records.is_empty() {
            return Ok(Written::default());
        }
        let work = async {
            let mut tx = self.pool.write().await?;
            let written = write(&mut tx, records, now).await?;
            pool::commit(tx).await?;
            Ok(written)
        };
        self.within("write to the log", work).await
    }

    /// Notes that deliveries wait for their first attempt of a new run, which began at `run`. Those of
    /// events that were forgotten meanwhile are left out.
    ///
    /// # Errors
    /// The database failed.
    pub async fn begin_run(&self, deliveries: &[(i64, EndpointId)], run: Timestamp) -> Result<(), Error> {
        if deliveries.is_empty() {
            return Ok(());
        }
        let work = async {
            let mut tx = self.pool.write().await?;
            begin(&mut tx, deliveries, run).await?;
            pool::commit(tx).await
        };
        self.within("write the new run to the log", work).await
    }
}

async fn write(tx: &mut Transaction, records: &[Record], now: Timestamp) -> Result<Written, sqlx::Error> {
    let end = insert::begin(tx, now).await?;
    let mut places = insert::places(tx, records).await?;
    let new = batch::place_new(records, &mut places, end.sequence);
    insert::events(tx, &new, end.recorded_at).await?;
    let caught_up = early::take(tx, &new).await?;
    let held = Held::begin(tx, records, &places, &new).await?;

    let mut rows = Rows::default();
    let mut too_early = Vec::new();
    for placed in &new {
        rows.add_routes(placed, end.recorded_at);
    }
    for (sequence, record) in &caught_up {
        rows.add(*sequence, record);
    }
    for record in records {
        match places.get(&batch::key_of(record)) {
            Some(sequence) => rows.add(*sequence, record),
            None => too_early.push(record),
        }
    }
    held.add_to(&mut rows, records, &places);
    let attempts = insert::attempts(tx, &rows.attempts).await?;
    insert::deliveries(tx, &rows.deliveries).await?;
    let held_changed = held
        .write(tx, records, &caught_up, &places, end.recorded_at)
        .await?;
    early::keep(tx, &too_early, end.recorded_at).await?;
    if let Some(last) = new.last() {
        insert::end(tx, last.sequence).await?;
    }
    let events = u64::try_from(new.len()).unwrap_or(u64::MAX);
    let mut stand_anew: Vec<i64> = rows.deliveries.keys().map(|(event, _)| *event).collect();
    stand_anew.dedup();
    Ok(Written {
        events,
        attempts,
        stand_anew,
        held_changed,
    })
}

async fn begin(
    tx: &mut Transaction,
    deliveries: &[(i64, EndpointId)],
    run: Timestamp,
) -> Result<(), sqlx::Error> {
    insert::begin(tx, Timestamp::default()).await?;
    let sequences: Vec<i64> = deliveries.iter().map(|(sequence, _)| *sequence).collect();
    let kept: HashSet<i64> = insert::kept(tx, &sequences).await?.into_iter().collect();
    let pending = Stands::from(&Standing::pending(run));
    let mut rows = Rows::default();
    for (sequence, endpoint) in deliveries {
        if kept.contains(sequence) {
            rows.stands(*sequence, endpoint, pending);
        }
    }
    insert::deliveries(tx, &rows.deliveries).await
}
