//! The log forwards: whoever reads on after the place that it was told last misses nothing and gets
//! nothing twice.

use bytes::Bytes;
use relay_event::Timestamp;
use sqlx::QueryBuilder;

use super::{
    EventFilter, Extent, FeedPage, LoggedEvent, WholeEvent, events,
    place::{self, Order, Part},
    types,
    walk::Found,
};
use crate::{
    Error, Store,
    pool::{Transaction, on},
};

impl Store {
    /// How far the log goes.
    ///
    /// # Errors
    /// The database failed.
    pub async fn extent(&self) -> Result<Extent, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            extent(&mut tx).await
        };
        self.within("read how far the log goes", work).await
    }

    /// The place before the first event that was recorded at this time or later: its feed begins after it.
    ///
    /// # Errors
    /// The database failed.
    pub async fn place_before(&self, time: Timestamp) -> Result<i64, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            match place::first(&mut tx, time).await? {
                Some(first) => Ok(first - 1),
                None => Ok(place::end(&mut tx).await? - 1),
            }
        };
        self.within("find a time in the log", work).await
    }

    /// The events after the place `after`, oldest first: at most `limit`, and with more than one at most
    /// `bytes` of bodies. The times of `filter` do not matter. A page has fewer, or none, and more follow, if too
    /// many events had to be looked at to find those that the filter wants.
    ///
    /// # Errors
    /// The database failed.
    pub async fn feed(
        &self,
        filter: &EventFilter,
        after: i64,
        limit: u32,
        bytes: u64,
    ) -> Result<FeedPage, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let extent = extent(&mut tx).await?;
            if after >= extent.last {
                return Ok(FeedPage::empty(after, extent));
            }
            let part = Part::ALL.after(after).before(extent.last.checked_add(1));
            let order = Order::OldestFirst;
            let Found { places, left } = events::places(&mut tx, filter, part, order, limit).await?;
            let all = places.len() < usize::try_from(limit).unwrap_or(usize::MAX);
            let mut found = events::rows(&mut tx, &places, order).await?;
            let cut = within(&mut found, bytes);
            let through = match found.last() {
                Some(last) if cut || !all => last.sequence,
                _ => left.map_or(extent.last, |left| left.from - 1),
            };
            let events = with_bodies(&mut tx, found).await?;
            Ok(FeedPage {
                events,
                through,
                extent,
            })
        };
        self.within("read on in the log", work).await
    }
}

impl EventFilter {
    /// Whether an event is one of these.
    pub fn matches(&self, event: &LoggedEvent) -> bool {
        let is = |wanted: &Option<String>, given: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| given == Some(wanted))
        };
        (self.types.is_empty()
            || self
                .types
                .iter()
                .any(|pattern| pattern.matches(&event.event_type)))
            && is(&self.source, Some(&event.source))
            && is(&self.subject, event.subject.as_deref())
            && self.since.is_none_or(|since| event.recorded_at >= since)
            && self.until.is_none_or(|until| event.recorded_at < until)
    }
}

impl FeedPage {
    fn empty(through: i64, extent: Extent) -> Self {
        Self {
            events: Vec::new(),
            through,
            extent,
        }
    }
}

async fn extent(tx: &mut Transaction) -> Result<Extent, sqlx::Error> {
    // Places are given one after the other, so all before the first that is kept were forgotten.
    let sql = "SELECT id, sequence, COALESCE((SELECT MIN(sequence) - 1 FROM events), sequence) FROM log";
    let (log, last, forgotten) =
        on!(tx, tx => sqlx::query_as::<_, (String, i64, i64)>(sql).fetch_one(&mut **tx).await?);
    Ok(Extent { log, last, forgotten })
}

/// Drops what is too much, but never the first; whether there was any.
fn within(events: &mut Vec<LoggedEvent>, bytes: u64) -> bool {
    let mut sum = 0;
    let fits = |event: &&LoggedEvent| {
        sum += event.size;
        sum <= bytes
    };
    let fitting = events.iter().take_while(fits).count().max(1);
    let cut = fitting < events.len();
    events.truncate(fitting);
    cut
}

async fn with_bodies(tx: &mut Transaction, events: Vec<LoggedEvent>) -> Result<Vec<WholeEvent>, sqlx::Error> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let places: Vec<i64> = events.iter().map(|event| event.sequence).collect();
    // In the same order, and in the same moment: as many.
    let bodies: Vec<Vec<u8>> = on!(tx, tx => {
        let mut query = QueryBuilder::new("SELECT body FROM events WHERE sequence IN (");
        types::push_list(&mut query, &places);
        query.push(") ORDER BY sequence");
        query.build_query_scalar().persistent(false).fetch_all(&mut **tx).await?
    });
    let bodies = bodies.into_iter().map(Bytes::from);
    let whole = events.into_iter().zip(bodies);
    Ok(whole.map(|(event, body)| WholeEvent { event, body }).collect())
}
