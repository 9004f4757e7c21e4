use bytes::Bytes;
use relay_event::{DeliveryState, Event};
use sqlx::{AssertSqlSafe, Database, Encode, QueryBuilder, Type};

use super::{
    Undelivered, codes,
    place::Part,
    types::{self, Wanted},
};
use crate::{
    Error, Store,
    pool::{Transaction, on},
};

/// Places of the log that are looked through at once. It bounds the list of deliveries that these are
/// compared with, whatever a database believes of its length.
const WINDOW: i64 = 20_000;

impl Store {
    /// How many events an endpoint wants and was not delivered.
    ///
    /// # Errors
    /// The database failed.
    pub async fn count_undelivered(&self, of: &Undelivered) -> Result<u64, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let mut search = Search::begin(&mut tx, of, 0).await?;
            let mut count = 0;
            while let Some(window) = search.next(&mut tx).await? {
                count += window.count(&mut tx, &search).await?;
            }
            codes::duration(count)
        };
        let operation = format!("count what {} was not delivered", of.endpoint);
        self.within(operation, work).await
    }

    /// Events an endpoint wants and was not delivered, oldest first, with their places in the log; those
    /// after the place `after`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn undelivered(
        &self,
        of: &Undelivered,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, Event)>, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let mut search = Search::begin(&mut tx, of, after).await?;
            let most = usize::try_from(limit).unwrap_or(usize::MAX);
            let mut found = Vec::new();
            while found.len() < most
                && let Some(window) = search.next(&mut tx).await?
            {
                found.extend(window.oldest(&mut tx, &search, most - found.len()).await?);
            }
            found.into_iter().map(event).collect()
        };
        let operation = format!("read what {} was not delivered", of.endpoint);
        self.within(operation, work).await
    }
}

fn event((sequence, body): (i64, Vec<u8>)) -> Result<(i64, Event), sqlx::Error> {
    let unreadable = |refused| codes::unreadable(format!("the event at {sequence} does not read: {refused}"));
    Ok((sequence, Event::reread(Bytes::from(body)).map_err(unreadable)?))
}

/// What is looked for, and where still.
struct Search {
    types: Wanted,
    endpoint: Vec<u8>,
    /// The states of a delivery that is not wanted again.
    done: &'static [DeliveryState],
    rest: Part,
}

impl Search {
    async fn begin(tx: &mut Transaction, of: &Undelivered, after: i64) -> Result<Self, sqlx::Error> {
        use DeliveryState::{Delivered, Pending, Retrying};
        let types = if of.types.is_empty() {
            Wanted::These(Vec::new())
        } else {
            types::matching(tx, &of.types).await?
        };
        let part = Part::recorded(tx, Some(of.since), of.until).await?;
        let rest = part.filter(|_| !matches!(&types, Wanted::These(types) if types.is_empty()));
        let rest = rest.map(|part| part.after(after));
        Ok(Self {
            types,
            endpoint: of.endpoint.to_bytes().to_vec(),
            done: if of.waiting_too {
                &[Delivered]
            } else {
                &[Pending, Retrying, Delivered]
            },
            rest: rest.unwrap_or(Part::NOTHING),
        })
    }

    /// The next window in which there is any event.
    async fn next(&mut self, tx: &mut Transaction) -> Result<Option<Window>, sqlx::Error> {
        let sql = "SELECT sequence, recorded_at FROM events WHERE sequence >= $1 AND sequence < $2 ORDER BY sequence";
        let first = edge(tx, &format!("{sql} LIMIT 1"), self.rest).await?;
        let Some((from, since)) = first else {
            return Ok(None);
        };
        let part = Part {
            from,
            before: self.rest.before.min(from.saturating_add(WINDOW)),
        };
        self.rest.from = part.before;
        let last = edge(tx, &format!("{sql} DESC LIMIT 1"), part).await?;
        Ok(last.map(|(_, until)| Window { part, since, until }))
    }
}

/// Place and time of the event that a query finds in a part of the log.
async fn edge(tx: &mut Transaction, sql: &str, part: Part) -> Result<Option<(i64, i64)>, sqlx::Error> {
    on!(tx, tx => sqlx::query_as(AssertSqlSafe(sql))
        .bind(part.from)
        .bind(part.before)
        .fetch_optional(&mut **tx)
        .await)
}

/// A part of the log, and the times at which its first and its last event were recorded.
struct Window {
    part: Part,
    since: i64,
    until: i64,
}

impl Window {
    async fn count(&self, tx: &mut Transaction, search: &Search) -> Result<i64, sqlx::Error> {
        on!(tx, tx => {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM events e ");
            self.push(&mut query, search);
            query.build_query_scalar().persistent(false).fetch_one(&mut **tx).await
        })
    }

    async fn oldest(
        &self,
        tx: &mut Transaction,
        search: &Search,
        limit: usize,
    ) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        on!(tx, tx => {
            let mut query = QueryBuilder::new("SELECT b.sequence, b.body FROM (SELECT e.sequence FROM events e ");
            self.push(&mut query, search);
            query.push(format_args!(
                " ORDER BY e.recorded_at, e.sequence LIMIT {limit}) AS k JOIN events b ON b.sequence = k.sequence \
                 ORDER BY b.sequence",
            ));
            query.build_query_as().persistent(false).fetch_all(&mut **tx).await
        })
    }

    /// The conditions for an event `e`. The index by time has the types too, and the order of the log;
    /// the signs keep a database from other indexes.
    fn push<'a, DB: Database>(&self, query: &mut QueryBuilder<DB>, search: &'a Search)
    where
        &'a [u8]: Encode<'a, DB> + Type<DB>,
    {
        let Part { from, before } = self.part;
        query.push(format_args!(
            "WHERE e.recorded_at >= {} AND e.recorded_at <= {} AND +e.sequence >= {from} AND +e.sequence < {before}",
            self.since, self.until,
        ));
        if let Wanted::These(types) = &search.types {
            query.push(" AND +e.type IN (");
            types::push_list(query, types);
            query.push(")");
        }
        query.push(" AND e.sequence NOT IN (SELECT d.event FROM deliveries d WHERE d.endpoint = ");
        query.push_bind(search.endpoint.as_slice());
        query.push(format_args!(
            " AND d.event >= {from} AND d.event < {before} AND d.state IN ("
        ));
        let done: Vec<i64> = search
            .done
            .iter()
            .map(|state| codes::state_code(*state).into())
            .collect();
        types::push_list(query, &done);
        query.push("))");
    }
}
