//! Events by the ids that receivers know them by.

use relay_event::{DEFAULT_SOURCE, EventId, WebhookId};
use sqlx::QueryBuilder;

use super::{LoggedDelivery, LoggedEvent, codes, events, insert};
use crate::{
    Error, Store,
    pool::{self, Transaction, on},
};

impl LoggedEvent {
    /// The id that receivers know it by.
    pub fn webhook_id(&self) -> WebhookId {
        WebhookId::of(&self.source, &self.id)
    }
}

impl LoggedDelivery {
    /// The id that the receiver knows the event by.
    pub fn webhook_id(&self) -> WebhookId {
        WebhookId::of(&self.source, &self.event_id)
    }
}

impl Store {
    /// Looks for an event by the id that receivers know it by, or by its own. A webhook id belongs to one
    /// event. Events of several sources may share their own id; then the newest is returned. If a source is
    /// given, only events of that count.
    ///
    /// # Errors
    /// The database failed.
    pub async fn logged_event(
        &self,
        id: &EventId,
        source: Option<&str>,
    ) -> Result<Option<LoggedEvent>, Error> {
        let work = async {
            if let Some(event) = derived(self, id, source).await? {
                return Ok(Some(event));
            }
            own(self, id, source).await
        };
        self.within(format!("read event {id} from the log"), work).await
    }

    /// Fills in what events that older versions recorded lack to be found by their webhook ids: of at most
    /// `most` of them. Returns whether there may be more.
    ///
    /// # Errors
    /// The database failed.
    pub async fn fill_fingerprints(&self, most: u32) -> Result<bool, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let missing = missing(&mut tx, most).await?;
            drop(tx);
            if missing.is_empty() {
                return Ok(false);
            }
            let mut tx = self.pool.write().await?;
            insert::begin(&mut tx, relay_event::Timestamp::default()).await?;
            fill(&mut tx, &missing).await?;
            pool::commit(tx).await?;
            Ok(missing.len() >= usize::try_from(most).unwrap_or(usize::MAX))
        };
        self.within("fill in webhook ids in the log", work).await
    }
}

/// Returns the fingerprint of an event as it is stored.
pub(super) fn fingerprint(source: &str, id: &str) -> i64 {
    WebhookId::fingerprint(source, id).cast_signed()
}

/// The event whose webhook id is derived, and is this one.
async fn derived(
    store: &Store,
    id: &EventId,
    source: Option<&str>,
) -> Result<Option<LoggedEvent>, sqlx::Error> {
    let Some(fingerprint) = WebhookId::fingerprint_in(id.as_str()) else {
        return Ok(None);
    };
    let rows: Vec<events::Columns> = on!(&store.pool.reading, pool => {
        let mut query = QueryBuilder::new(events::COLUMNS);
        query.push("WHERE e.fingerprint = ").push_bind(fingerprint.cast_signed());
        query.build_query_as().fetch_all(pool).await?
    });
    for row in rows {
        let event = events::event(row)?;
        let is_wanted = source.is_none_or(|source| codes::text(source) == event.source);
        if is_wanted && event.webhook_id().as_str() == id.as_str() {
            return Ok(Some(event));
        }
    }
    Ok(None)
}

/// The event of this id. If that is the webhook id of an event too, that event's.
async fn own(store: &Store, id: &EventId, source: Option<&str>) -> Result<Option<LoggedEvent>, sqlx::Error> {
    let found: Option<events::Columns> = on!(&store.pool.reading, pool => {
        let mut query = QueryBuilder::new(events::COLUMNS);
        query.push("WHERE e.id = ").push_bind(id.as_str());
        if let Some(source) = source {
            query.push(" AND e.source = ").push_bind(codes::text(source).into_owned());
        }
        query.push(" ORDER BY ");
        if WebhookId::of(DEFAULT_SOURCE, id).as_str() == id.as_str() {
            query.push("CASE WHEN e.source = ").push_bind(DEFAULT_SOURCE).push(" THEN 0 ELSE 1 END, ");
        }
        // By a value, lest a database goes through all events in this order.
        query.push("+e.sequence DESC LIMIT 1");
        query.build_query_as().fetch_optional(pool).await?
    });
    found.map(events::event).transpose()
}

/// Places of events without a fingerprint, and what it is.
async fn missing(tx: &mut Transaction, most: u32) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    let sql = "SELECT sequence, id, source FROM events WHERE fingerprint IS NULL LIMIT $1";
    let rows: Vec<(i64, String, String)> = on!(tx, tx => sqlx::query_as(sql)
        .bind(i64::from(most))
        .fetch_all(&mut **tx)
        .await?);
    let filled = |(sequence, id, source): (i64, String, String)| (sequence, fingerprint(&source, &id));
    Ok(rows.into_iter().map(filled).collect())
}

async fn fill(tx: &mut Transaction, fingerprints: &[(i64, i64)]) -> Result<(), sqlx::Error> {
    for chunk in fingerprints.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut update = QueryBuilder::new("WITH filled(n, fingerprint) AS (");
            update.push_values(chunk, |mut row, (sequence, fingerprint)| {
                row.push_bind(*sequence).push_bind(*fingerprint);
            });
            update.push(") UPDATE events SET fingerprint = filled.fingerprint FROM filled WHERE sequence = filled.n");
            update.build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(())
}
