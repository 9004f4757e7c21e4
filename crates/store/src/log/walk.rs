//! The log event by event: the read for types that are too many to be listed by their numbers.

use relay_event::TypePattern;
use sqlx::QueryBuilder;

use super::{
    place::{Order, Part, Window},
    types,
};
use crate::pool::{Transaction, on};

/// The most events that are looked at for one page. The page then ends, and says what part is left.
const LOOKED_AT: i64 = 8_000;

/// The events that are looked at first, or as many as are wanted. Where few match, each portion is larger than
/// the one before.
const FIRST: i64 = 200;

/// The places of events, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) places: Vec<i64>,
    /// The part that was not looked at, if that is why there are no more places.
    pub(super) left: Option<Part>,
}

impl Found {
    /// A page that is full, or goes to the end of its part.
    pub(super) fn enough(places: Vec<i64>) -> Self {
        Self { places, left: None }
    }
}

/// The events to find.
pub(super) struct Walk<'f> {
    pub(super) order: Order,
    pub(super) types: &'f [TypePattern],
    pub(super) source: Option<&'f str>,
    pub(super) subject: Option<&'f str>,
}

impl Walk<'_> {
    /// Finds the first events of a part, at most `limit`.
    pub(super) async fn page(
        &self,
        tx: &mut Transaction,
        part: Part,
        limit: u32,
    ) -> Result<Found, sqlx::Error> {
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let (mut places, mut left) = (Vec::new(), part);
        let (mut portion, mut looked_at) = (FIRST.max(limit.into()), 0);
        while looked_at < LOOKED_AT {
            portion = portion.min(LOOKED_AT - looked_at);
            let (rows, behind) = match self.subject {
                Some(subject) => self.about(tx, subject, left, portion).await?,
                None => self.at(tx, left, portion).await?,
            };
            for (place, name) in rows {
                if types::is_match(self.types, &name)? {
                    places.push(place);
                    if places.len() == most {
                        return Ok(Found::enough(places));
                    }
                }
            }
            match behind {
                Some(behind) if behind.len() > 0 => left = behind,
                _ => return Ok(Found::enough(places)),
            }
            looked_at += portion;
            portion *= 4;
        }
        Ok(Found {
            places,
            left: Some(left),
        })
    }

    /// Reads the events at the first places of a part, each with its type's name. Returns the rest of the part too.
    async fn at(
        &self,
        tx: &mut Transaction,
        part: Part,
        portion: i64,
    ) -> Result<(Vec<(i64, String)>, Option<Part>), sqlx::Error> {
        let Some(window) = Window::first(tx, part, self.order, portion).await? else {
            return Ok((Vec::new(), None));
        };
        let order = self.order.sql();
        let rows = on!(tx, tx => {
            let mut query = QueryBuilder::new(types::NAMED);
            window.push(&mut query);
            if let Some(source) = self.source {
                query.push(" AND (e.source || '') = ").push_bind(source);
            }
            query.push(format_args!(" ORDER BY e.recorded_at {order}, e.sequence {order}"));
            query.build_query_as().persistent(false).fetch_all(&mut **tx).await?
        });
        let last = match self.order {
            Order::OldestFirst => window.part.before - 1,
            Order::NewestFirst => window.part.from,
        };
        Ok((rows, Some(self.order.behind(part, last))))
    }

    /// Does the same for the events about a subject, which an index has in the order of the log.
    async fn about(
        &self,
        tx: &mut Transaction,
        subject: &str,
        part: Part,
        portion: i64,
    ) -> Result<(Vec<(i64, String)>, Option<Part>), sqlx::Error> {
        let (Part { from, before }, order) = (part, self.order.sql());
        let rows: Vec<(i64, String)> = on!(tx, tx => {
            let mut query = QueryBuilder::new(types::NAMED);
            query.push("e.subject = ").push_bind(subject);
            query.push(format_args!(" AND e.sequence >= {from} AND e.sequence < {before}"));
            if let Some(source) = self.source {
                query.push(" AND (e.source || '') = ").push_bind(source);
            }
            query.push(format_args!(" ORDER BY e.sequence {order} LIMIT {portion}"));
            query.build_query_as().persistent(false).fetch_all(&mut **tx).await?
        });
        let full = i64::try_from(rows.len()).is_ok_and(|rows| rows == portion);
        let last = rows.last().filter(|_| full).map(|(last, _)| *last);
        Ok((rows, last.map(|last| self.order.behind(part, last))))
    }
}
