//! Where in the feed a request begins.

use relay_event::{Invalid, Timestamp};
use relay_store::Extent;
use serde::Deserialize;

use crate::{cursor::Cursor, gateway::Gateway, moment::Moment, problem::Problem};

/// After which event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum After {
    /// None: with the oldest that is kept.
    Start,
    /// All there are.
    Now,
    At(Cursor),
}

impl TryFrom<String> for After {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        const ALLOWED: &str = "must be `start`, `now`, or a cursor of the feed";
        match text.as_str() {
            "start" => Ok(Self::Start),
            "now" => Ok(Self::Now),
            _ => match Cursor::try_from(text) {
                Ok(cursor @ Cursor::Feed { .. }) => Ok(Self::At(cursor)),
                _ => Err(ALLOWED),
            },
        }
    }
}

impl Gateway {
    /// How far the log goes, as far as this process knows; the store is asked if it does not.
    pub(super) async fn extent(&self) -> Result<Extent, Problem> {
        match self.tail.head() {
            Some(head) => Ok(head.extent),
            None => Ok(self.store.extent().await?),
        }
    }

    /// The place that a request begins after; without either, it begins after `otherwise`.
    pub(super) async fn first_place(
        &self,
        after: Option<After>,
        since: Option<Moment>,
        otherwise: After,
    ) -> Result<i64, Problem> {
        if let Some(since) = since {
            if after.is_some() {
                return Err(Invalid::new("since", "cannot stand beside `after`").into());
            }
            return Ok(self.store.place_before(since.seen_at(Timestamp::now())).await?);
        }
        match after.unwrap_or(otherwise) {
            // What this process knows may be forgotten meanwhile.
            After::Start => Ok(self.store.extent().await?.forgotten),
            After::Now => Ok(self.extent().await?.last),
            After::At(cursor) => self.place_of(&cursor, "after").await,
        }
    }

    /// The place of a cursor of this relay's feed, if everything after it is kept.
    pub(super) async fn place_of(&self, cursor: &Cursor, field: &str) -> Result<i64, Problem> {
        let mut extent = self.extent().await?;
        let place = place_in(cursor, &extent.log, field)?;
        if place > extent.last {
            // Another process may have seen more of it.
            extent = self.store.extent().await?;
        }
        if place > extent.last {
            let problem = "is ahead of this relay's log, which was perhaps restored from a backup: begin with `start`, `now` or `since`";
            return Err(Invalid::new(field, problem).into());
        }
        is_kept(place, &extent)?;
        Ok(place)
    }
}

fn place_in(cursor: &Cursor, this: &str, field: &str) -> Result<i64, Invalid> {
    match cursor {
        Cursor::Feed { log, after } if log == this => Ok(*after),
        Cursor::Feed { .. } => Err(Invalid::new(field, "is a cursor of another relay's feed")),
        _ => Err(Invalid::new(
            field,
            "is a cursor of another list, not of the feed",
        )),
    }
}

/// Refuses a place after which something is forgotten.
pub(super) fn is_kept(place: i64, extent: &Extent) -> Result<(), Problem> {
    if place >= extent.forgotten {
        return Ok(());
    }
    Err(Problem::cursor_expired(Cursor::feed(
        &extent.log,
        extent.forgotten,
    )))
}
