use relay_event::Timestamp;

use super::{
    Record, Written,
    batch::{self, Rows},
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
