//! Times as places in the log: both only grow along it.

use relay_event::Timestamp;

use sqlx::{AssertSqlSafe, Database, QueryBuilder};

use super::codes;
use crate::pool::{Transaction, on};

/// The end of the log to begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    NewestFirst,
    OldestFirst,
}

impl Order {
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::NewestFirst => "DESC",
            Self::OldestFirst => "ASC",
        }
    }

    pub(super) fn sort(self, places: &mut [i64]) {
        places.sort_unstable();
        if self == Self::NewestFirst {
            places.reverse();
        }
    }

    /// Of this part, what comes before a place in this order.
    pub(super) fn up_to(self, part: Part, place: i64) -> Part {
        match self {
            Self::NewestFirst => part.after(place),
            Self::OldestFirst => part.before(Some(place)),
        }
    }

    /// Returns the rest of a part behind a place, in this order.
    pub(super) fn behind(self, part: Part, place: i64) -> Part {
        match self {
            Self::NewestFirst => part.before(Some(place)),
            Self::OldestFirst => part.after(place),
        }
    }
}

/// Some part of the log, from a place up to before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) from: i64,
    pub(super) before: i64,
}

impl Part {
    /// What was recorded `since` and before `until`; `None` if that is nothing.
    pub(super) async fn recorded(
        tx: &mut Transaction,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<Option<Self>, sqlx::Error> {
        let from = match since {
            None => 0,
            Some(since) => match first(tx, since).await? {
                Some(first) => first,
                None => return Ok(None),
            },
        };
        let before = match until {
            None => i64::MAX,
            Some(until) => first(tx, until).await?.unwrap_or(i64::MAX),
        };
        Ok(Some(Self { from, before }))
    }

    pub(super) const NOTHING: Self = Self { from: 0, before: 0 };

    pub(super) const ALL: Self = Self {
        from: 0,
        before: i64::MAX,
    };

    /// Of this part, what is after a place.
    pub(super) fn after(self, place: i64) -> Self {
        Self {
            from: self.from.max(place.saturating_add(1)),
            ..self
        }
    }

    /// Of this part, what is before a place.
    pub(super) fn before(self, place: Option<i64>) -> Self {
        Self {
            before: self.before.min(place.unwrap_or(i64::MAX)),
            ..self
        }
    }

    /// The number of its places.
    pub(super) fn len(self) -> i64 {
        self.before.saturating_sub(self.from).max(0)
    }
}

/// A part of the log that has events, from its first to its last, and the times at which these two were recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) part: Part,
    since: i64,
    until: i64,
}

impl Window {
    /// Returns at most `most` places of a part: those from its first event on, in this order. `None` if the part has
    /// no event.
    pub(super) async fn first(
        tx: &mut Transaction,
        part: Part,
        order: Order,
        most: i64,
    ) -> Result<Option<Self>, sqlx::Error> {
        let Some((place, time)) = edge(tx, part, order).await? else {
            return Ok(None);
        };
        let (part, other) = match order {
            Order::OldestFirst => {
                let part = part.after(place - 1).before(place.checked_add(most));
                (part, Order::NewestFirst)
            }
            Order::NewestFirst => {
                let part = part.before(place.checked_add(1)).after(place - most);
                (part, Order::OldestFirst)
            }
        };
        let other = edge(tx, part, other).await?;
        Ok(other.map(|(_, other)| Self {
            part,
            since: time.min(other),
            until: time.max(other),
        }))
    }

    /// The condition for an event `e`. The index by time has the types too, and the order of the log.
    pub(super) fn push<DB: Database>(&self, query: &mut QueryBuilder<DB>) {
        let Part { from, before } = self.part;
        let (since, until) = (self.since, self.until);
        query.push(format_args!(
            "(e.recorded_at, e.sequence) >= ({since}, {from}) AND (e.recorded_at, e.sequence) < ({until}, {before})"
        ));
    }
}

/// Place and time of a part's first event in this order.
async fn edge(tx: &mut Transaction, part: Part, order: Order) -> Result<Option<(i64, i64)>, sqlx::Error> {
    let order = order.sql();
    let sql = format!(
        "SELECT sequence, recorded_at FROM events WHERE sequence >= $1 AND sequence < $2 \
         ORDER BY sequence {order} LIMIT 1"
    );
    on!(tx, tx => sqlx::query_as(AssertSqlSafe(sql))
        .bind(part.from)
        .bind(part.before)
        .fetch_optional(&mut **tx)
        .await)
}

/// The first place that was recorded at this time or later.
pub(super) async fn first(tx: &mut Transaction, since: Timestamp) -> Result<Option<i64>, sqlx::Error> {
    let sql = "SELECT sequence FROM events WHERE recorded_at >= $1 ORDER BY recorded_at, sequence LIMIT 1";
    on!(tx, tx => sqlx::query_scalar(sql).bind(codes::millis(since)).fetch_optional(&mut **tx).await)
}

/// The place that the next event gets.
pub(super) async fn end(tx: &mut Transaction) -> Result<i64, sqlx::Error> {
    let sql = "SELECT sequence + 1 FROM log";
    on!(tx, tx => sqlx::query_scalar(sql).fetch_one(&mut **tx).await)
}
