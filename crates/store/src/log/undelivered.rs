//! Events that an endpoint wants and was not delivered.

use relay_event::{DeliveryState, TypePattern};
use sqlx::{Database, Encode, QueryBuilder, Type};

use super::{
    Undelivered, codes,
    place::{Order, Part, Window},
    types::{self, Wanted},
};
use crate::{
    Error, Store,
    pool::{Transaction, on},
};

/// Places of the log that are looked through at once. It bounds the list of deliveries that these are
/// compared with, whatever a database believes of its length.
const WINDOW: i64 = 20_000;

/// The same where each event comes with its type's name.
const WINDOW_BY_NAME: i64 = 2_000;

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
                count += search.count(&mut tx, window).await?;
            }
            codes::duration(count)
        };
        let operation = format!("count what {} was not delivered", of.endpoint);
        self.within(operation, work).await
    }

    /// The places in the log of events that an endpoint wants and was not delivered, oldest first; those after the
    /// place `after`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn undelivered(&self, of: &Undelivered, after: i64, limit: u32) -> Result<Vec<i64>, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let mut search = Search::begin(&mut tx, of, after).await?;
            let most = usize::try_from(limit).unwrap_or(usize::MAX);
            let mut found = Vec::new();
            while found.len() < most
                && let Some(window) = search.next(&mut tx).await?
            {
                found.extend(search.oldest(&mut tx, window, most - found.len()).await?);
            }
            Ok(found)
        };
        let operation = format!("read what {} was not delivered", of.endpoint);
        self.within(operation, work).await
    }
}

/// What is looked for, and where still.
struct Search {
    types: Wanted,
    patterns: Vec<TypePattern>,
    source: Option<String>,
    subject: Option<String>,
    endpoint: Vec<u8>,
    /// The states of a delivery that is not wanted again.
    done: &'static [DeliveryState],
    rest: Part,
}

impl Search {
    async fn begin(tx: &mut Transaction, of: &Undelivered, after: i64) -> Result<Self, sqlx::Error> {
        use DeliveryState::{Canceled, Delivered, Pending, Retrying};
        let text = |text: &String| codes::text(text).into_owned();
        let types = if of.selection.types.is_empty() {
            Wanted::These(Vec::new())
        } else {
            types::matching(tx, &of.selection.types).await?
        };
        let part = Part::recorded(tx, Some(of.since), of.until).await?;
        let rest = part.filter(|_| !matches!(&types, Wanted::These(types) if types.is_empty()));
        let rest = rest.map(|part| part.after(after));
        Ok(Self {
            types,
            patterns: of.selection.types.clone(),
            source: of.selection.source.as_ref().map(text),
            subject: of.selection.subject.as_ref().map(text),
            endpoint: of.endpoint.to_bytes().to_vec(),
            done: if of.waiting_too {
                &[Delivered, Canceled]
            } else {
                &[Pending, Retrying, Delivered, Canceled]
            },
            rest: rest.unwrap_or(Part::NOTHING),
        })
    }

    fn is_by_name(&self) -> bool {
        self.types == Wanted::ByName
    }

    /// The next window in which there is any event.
    async fn next(&mut self, tx: &mut Transaction) -> Result<Option<Window>, sqlx::Error> {
        let most = if self.is_by_name() { WINDOW_BY_NAME } else { WINDOW };
        let next = Window::first(tx, self.rest, Order::OldestFirst, most).await?;
        if let Some(window) = &next {
            self.rest.from = window.part.before;
        }
        Ok(next)
    }

    async fn count(&self, tx: &mut Transaction, window: Window) -> Result<i64, sqlx::Error> {
        if self.is_by_name() {
            let found = self.places(tx, window).await?;
            return Ok(i64::try_from(found.len()).unwrap_or(i64::MAX));
        }
        on!(tx, tx => {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM events e WHERE ");
            self.push(&mut query, window);
            query.build_query_scalar().persistent(false).fetch_one(&mut **tx).await
        })
    }

    async fn oldest(
        &self,
        tx: &mut Transaction,
        window: Window,
        limit: usize,
    ) -> Result<Vec<i64>, sqlx::Error> {
        if self.is_by_name() {
            let mut found = self.places(tx, window).await?;
            found.truncate(limit);
            return Ok(found);
        }
        on!(tx, tx => {
            let mut query = QueryBuilder::new("SELECT e.sequence FROM events e WHERE ");
            self.push(&mut query, window);
            query.push(format_args!(" ORDER BY e.recorded_at, e.sequence LIMIT {limit}"));
            query.build_query_scalar().persistent(false).fetch_all(&mut **tx).await
        })
    }

    /// Finds the places in a window, oldest first, where the types are known by their names only.
    async fn places(&self, tx: &mut Transaction, window: Window) -> Result<Vec<i64>, sqlx::Error> {
        let rows: Vec<(i64, String)> = on!(tx, tx => {
            let mut query = QueryBuilder::new(types::NAMED);
            self.push(&mut query, window);
            query.push(" ORDER BY e.recorded_at, e.sequence");
            query.build_query_as().persistent(false).fetch_all(&mut **tx).await?
        });
        let mut places = Vec::new();
        for (place, name) in rows {
            if types::is_match(&self.patterns, &name)? {
                places.push(place);
            }
        }
        Ok(places)
    }

    /// The conditions for an event `e`. The signs keep a database from other indexes than that by time.
    fn push<'a, DB: Database>(&'a self, query: &mut QueryBuilder<DB>, window: Window)
    where
        &'a [u8]: Encode<'a, DB> + Type<DB>,
        &'a str: Encode<'a, DB> + Type<DB>,
    {
        window.push(query);
        if let Wanted::These(types) = &self.types {
            query.push(" AND +e.type IN (");
            types::push_list(query, types);
            query.push(")");
        }
        for (column, wanted) in [("source", &self.source), ("subject", &self.subject)] {
            if let Some(wanted) = wanted.as_deref() {
                query.push(format_args!(" AND (e.{column} || '') = "));
                query.push_bind(wanted);
            }
        }
        let Part { from, before } = window.part;
        query.push(" AND e.sequence NOT IN (SELECT d.event FROM deliveries d WHERE d.endpoint = ");
        query.push_bind(self.endpoint.as_slice());
        query.push(format_args!(
            " AND d.event >= {from} AND d.event < {before} AND d.state IN ("
        ));
        let done: Vec<i64> = self
            .done
            .iter()
            .map(|state| codes::state_code(*state).into())
            .collect();
        types::push_list(query, &done);
        query.push("))");
    }
}
