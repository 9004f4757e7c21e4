//! Events of the log as lists: the newest first, by any filter.

use bytes::Bytes;
use relay_event::{Timestamp, TypePattern};
use sqlx::{Database, Encode, QueryBuilder, Type};

use super::{
    EventFilter, EventPage, LoggedEvent, codes,
    place::{Order, Part},
    types::{self, Wanted},
    walk::{Found, Walk},
};
use crate::{
    Error, Store,
    pool::{Transaction, on},
};

/// Branches in a statement: each finds the first events of one type.
const BRANCHES: usize = 50;

/// A part of so few places is walked through rather than searched by its types, as is the end of the log that a
/// reader of the feed has not seen yet.
const SHORT: i64 = 200;

/// What is read of an event. SQLite and PostgreSQL know how long a body is without reading it.
pub(super) const COLUMNS: &str = "SELECT e.sequence, e.id, e.source, t.name, e.subject, e.published_at, e.recorded_at, \
     CAST(LENGTH(e.body) AS BIGINT) FROM events e JOIN types t ON t.id = e.type ";

pub(super) type Columns = (i64, String, String, String, Option<String>, Option<i64>, i64, i64);

impl Store {
    /// Events, newest first, at most `limit`; those before the sequence number `before`, if one is given. A page
    /// has fewer, or none, and more follow, if too many events had to be looked at to find those that the filter
    /// wants.
    ///
    /// # Errors
    /// The database failed.
    pub async fn logged_events(
        &self,
        filter: &EventFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<EventPage, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let Some(part) = Part::recorded(&mut tx, filter.since, filter.until).await? else {
                return Ok(EventPage::default());
            };
            let (order, most) = (Order::NewestFirst, usize::try_from(limit).unwrap_or(usize::MAX));
            let one_more = limit.saturating_add(1);
            let Found { mut places, left } =
                places(&mut tx, filter, part.before(before), order, one_more).await?;
            let more = places.len() > most;
            places.truncate(most);
            let events = rows(&mut tx, &places, order).await?;
            let before = match places.last() {
                Some(last) if more => Some(*last),
                _ => left.map(|left| left.before),
            };
            Ok(EventPage { events, before })
        };
        self.within("read events from the log", work).await
    }

    /// An event's bytes in structured mode, unless it was forgotten meanwhile.
    ///
    /// # Errors
    /// The database failed.
    pub async fn event_body(&self, sequence: i64) -> Result<Option<Bytes>, Error> {
        let sql = "SELECT body FROM events WHERE sequence = $1";
        let work = async {
            let body: Option<Vec<u8>> = on!(&self.pool.reading, pool =>
                sqlx::query_scalar(sql).bind(sequence).fetch_optional(pool).await?);
            Ok(body.map(Bytes::from))
        };
        self.within("read an event's body from the log", work).await
    }

    /// When the oldest event that is kept was recorded.
    ///
    /// # Errors
    /// The database failed.
    pub async fn oldest_event(&self) -> Result<Option<Timestamp>, Error> {
        let sql = "SELECT recorded_at FROM events ORDER BY sequence LIMIT 1";
        let work = async {
            let oldest: Option<i64> = on!(&self.pool.reading, pool =>
                sqlx::query_scalar(sql).fetch_optional(pool).await?);
            codes::time_or_none(oldest)
        };
        self.within("find the oldest event of the log", work).await
    }
}

/// Finds the places of the first events, at most `limit`. An index has them in order for each type, each type of each
/// source, and each subject; so the first of each are found at once wherever they are, and only then
/// are the events read. Types that are too many for that, and parts that are short, are walked through.
pub(super) async fn places(
    tx: &mut Transaction,
    filter: &EventFilter,
    mut part: Part,
    order: Order,
    limit: u32,
) -> Result<Found, sqlx::Error> {
    let mut search = Search::of(filter, order);
    let types = match search.wanted(tx, &filter.types, part).await? {
        Wanted::All => return search.page(tx, part, limit).await.map(Found::enough),
        Wanted::ByName => return search.walk(&filter.types).page(tx, part, limit).await,
        Wanted::These(types) if types.is_empty() => return Ok(Found::enough(types)),
        Wanted::These(types) => types,
    };
    if search.subject.is_some() {
        search.types = Types::In(types);
        return search.page(tx, part, limit).await.map(Found::enough);
    }
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut first = Vec::new();
    for chunk in types.chunks(BRANCHES) {
        search.types = Types::Each(chunk.to_vec());
        first.extend(search.page(tx, part, limit).await?);
        order.sort(&mut first);
        first.truncate(most);
        if let Some(last) = first.last().filter(|_| first.len() == most) {
            part = order.up_to(part, *last);
        }
    }
    Ok(Found::enough(first))
}

/// What is looked for in one statement.
struct Search {
    order: Order,
    types: Types,
    source: Option<String>,
    subject: Option<String>,
}

enum Types {
    All,
    /// A branch for each, with a limit of its own.
    Each(Vec<i64>),
    /// Any of these, told from others while looking.
    In(Vec<i64>),
}

impl Search {
    fn of(filter: &EventFilter, order: Order) -> Self {
        let text = |text: &String| codes::text(text).into_owned();
        Self {
            order,
            types: Types::All,
            source: filter.source.as_ref().map(text),
            subject: filter.subject.as_ref().map(text),
        }
    }

    /// Whether the index by source is the one to use: it has the type before the order.
    fn by_source(&self) -> bool {
        self.source.is_some() && self.subject.is_none()
    }

    /// Decides how to find the events: by the numbers of their types, which the index of a source needs in any case,
    /// or by their names.
    async fn wanted(
        &self,
        tx: &mut Transaction,
        patterns: &[TypePattern],
        part: Part,
    ) -> Result<Wanted, sqlx::Error> {
        let any = patterns.is_empty() && !self.by_source();
        if !any && part.len() <= SHORT {
            return Ok(Wanted::ByName);
        }
        let wanted = types::matching(tx, patterns).await?;
        match &self.source {
            Some(source) if self.by_source() && !matches!(wanted, Wanted::These(_)) => {
                types::of_source(tx, source, patterns).await
            }
            _ => Ok(wanted),
        }
    }

    fn walk<'f>(&'f self, types: &'f [TypePattern]) -> Walk<'f> {
        Walk {
            order: self.order,
            types,
            source: self.source.as_deref(),
            subject: self.subject.as_deref(),
        }
    }

    async fn page(&self, tx: &mut Transaction, part: Part, limit: u32) -> Result<Vec<i64>, sqlx::Error> {
        let one = [None];
        let each: Vec<Option<i64>>;
        let branches = match &self.types {
            Types::Each(types) => {
                each = types.iter().copied().map(Some).collect();
                each.as_slice()
            }
            Types::All | Types::In(_) => &one,
        };
        let order = self.order.sql();
        on!(tx, tx => {
            let mut query = QueryBuilder::new("SELECT sequence FROM (");
            for (number, event_type) in branches.iter().enumerate() {
                query.push(if number == 0 { "" } else { " UNION ALL " });
                query.push("SELECT sequence FROM (SELECT sequence FROM events WHERE ");
                self.push(&mut query, *event_type, part);
                query.push(format_args!(" ORDER BY sequence {order} LIMIT {limit}) AS branch"));
            }
            query.push(format_args!(") AS found ORDER BY sequence {order} LIMIT {limit}"));
            query.build_query_scalar().persistent(false).fetch_all(&mut **tx).await
        })
    }

    /// The conditions of one branch. An expression instead of a column keeps a database from an index
    /// that has more to look through.
    fn push<'a, DB: Database>(&'a self, query: &mut QueryBuilder<DB>, event_type: Option<i64>, part: Part)
    where
        &'a str: Encode<'a, DB> + Type<DB>,
    {
        let Part { from, before } = part;
        query.push(format_args!("sequence >= {from} AND sequence < {before}"));
        if let Some(event_type) = event_type {
            query.push(format_args!(" AND type = {event_type}"));
        }
        if let Types::In(types) = &self.types {
            query.push(" AND +type IN (");
            types::push_list(query, types);
            query.push(")");
        }
        if let Some(subject) = self.subject.as_deref() {
            query.push(" AND subject = ").push_bind(subject);
        }
        if let Some(source) = self.source.as_deref() {
            let column = if self.by_source() {
                "source"
            } else {
                "(source || '')"
            };
            query.push(format_args!(" AND {column} = ")).push_bind(source);
        }
    }
}

pub(super) async fn rows(
    tx: &mut Transaction,
    sequences: &[i64],
    order: Order,
) -> Result<Vec<LoggedEvent>, sqlx::Error> {
    if sequences.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<Columns> = on!(tx, tx => {
        let mut query = QueryBuilder::new(COLUMNS);
        query.push("WHERE e.sequence IN (");
        types::push_list(&mut query, sequences);
        query.push(format_args!(") ORDER BY e.sequence {}", order.sql()));
        query.build_query_as().persistent(false).fetch_all(&mut **tx).await?
    });
    rows.into_iter().map(event).collect()
}

pub(super) fn event(row: Columns) -> Result<LoggedEvent, sqlx::Error> {
    let (sequence, id, source, event_type, subject, published_at, recorded_at, size) = row;
    Ok(LoggedEvent {
        sequence,
        id: codes::parsed(&id)?,
        source,
        event_type: codes::parsed(&event_type)?,
        subject,
        published_at: codes::time_or_none(published_at)?,
        recorded_at: codes::time(recorded_at)?,
        size: codes::duration(size)?,
    })
}
