//! A page of the feed: from memory if it is new, from the store if it is older.

use std::sync::Arc;

use relay_store::{EventFilter, Extent, WholeEvent};

use super::place::is_kept;
use crate::{gateway::Gateway, problem::Problem};

/// What of the feed is asked for at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) events: u32,
    pub(super) bytes: u64,
}

/// Events of the feed.
pub(super) struct Page {
    pub(super) events: Vec<Arc<WholeEvent>>,
    /// Where the feed goes on.
    pub(super) through: i64,
    /// How far the log goes, as far as is known.
    pub(super) extent: Extent,
}

impl Page {
    /// Whether there is more at once.
    pub(super) fn more(&self) -> bool {
        self.through < self.extent.last
    }
}

impl Gateway {
    /// Reads on after a place.
    pub(super) async fn read(&self, filter: &EventFilter, after: i64, size: Size) -> Result<Page, Problem> {
        match self.at_hand(filter, after, size) {
            Some(page) => Ok(page),
            None => self.read_stored(filter, after, size).await,
        }
    }

    /// The same, if the store need not be asked.
    pub(super) fn at_hand(&self, filter: &EventFilter, after: i64, size: Size) -> Option<Page> {
        let extent = self.tail.head()?.extent;
        let kept = self.tail.after(after, filter, size.events, size.bytes)?;
        Some(Page {
            events: kept.events,
            through: kept.through,
            extent,
        })
    }

    async fn read_stored(&self, filter: &EventFilter, after: i64, size: Size) -> Result<Page, Problem> {
        let page = self.store.feed(filter, after, size.events, size.bytes).await?;
        is_kept(after, &page.extent)?;
        Ok(Page {
            events: page.events.into_iter().map(Arc::new).collect(),
            through: page.through,
            extent: page.extent,
        })
    }
}
