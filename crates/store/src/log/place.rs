//! Times as places in the log: both only grow along it.

use relay_event::Timestamp;

use super::codes;
use crate::pool::{Transaction, on};

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
