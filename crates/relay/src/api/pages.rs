use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Api, ApiError, Query, understand};

/// The most the relay gives at once.
const PAGE: u64 = 1_000;

/// A list that is asked for page by page.
pub(crate) struct Pages<'a> {
    api: &'a Api,
    path: &'a [&'a str],
    query: Query,
    /// How many are still wanted.
    left: u64,
    at: At,
}

/// Where in the list.
enum At {
    Begin,
    After(String),
    End,
}

/// A page, whatever it is a list of.
#[derive(Deserialize)]
struct Page {
    #[serde(alias = "events", alias = "deliveries", alias = "attempts")]
    items: Vec<Box<RawValue>>,
    next: Option<String>,
}

impl<'a> Pages<'a> {
    /// At most `limit` of the list at `path`. Nothing is asked yet.
    pub(crate) fn new(api: &'a Api, path: &'a [&'a str], query: Query, limit: u64) -> Self {
        Self {
            api,
            path,
            query,
            left: limit,
            at: At::Begin,
        }
    }

    /// The next page, of what the relay wrote word for word; `None` when there are no more, or enough.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Vec<Box<RawValue>>>> {
        let cursor = match &self.at {
            _ if self.left == 0 => return Ok(None),
            At::End => return Ok(None),
            At::Begin => None,
            At::After(cursor) => Some(cursor),
        };
        let page = self.ask(cursor).await?;
        let Page { mut items, next } = understand(&page)?;
        items.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= items.len() as u64;
        self.at = next.map_or(At::End, At::After);
        Ok(Some(items))
    }

    async fn ask(&self, cursor: Option<&String>) -> Result<bytes::Bytes, ApiError> {
        let query = self.query.clone().with("limit", Some(self.left.min(PAGE)));
        self.api.get_with(self.path, &query.with("cursor", cursor)).await
    }

    /// Whether the list goes on behind what was asked for.
    pub(crate) fn has_more(&self) -> bool {
        !matches!(self.at, At::End)
    }
}
