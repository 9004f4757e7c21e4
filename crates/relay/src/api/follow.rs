//! The relay's feed by long polls: every event once, in the log's order, whatever becomes of the relay or
//! the connection meanwhile.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use relay_broker::Delays;
use relay_event::{Event, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Api, ApiError, Patience, Query, understand};
use crate::{filter::Filter, progress::Progress};

/// The most the relay gives at once.
const LIMIT: u64 = 1_000;

/// An empty page that was to be waited for and comes sooner was not: what stands before the relay, or a
/// relay that is stopping, may answer so.
const TOO_SOON: Duration = Duration::from_secs(1);

/// Where in the log to begin, or to go on.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// With what is recorded from now on.
    Now,
    /// With what was recorded since then.
    Since(Timestamp),
    /// After this cursor.
    After(String),
}

/// The feed from a place on. It goes on only as far as it is told that events were dealt with.
pub(crate) struct Follow<'a> {
    api: &'a Api,
    patience: Patience<'a>,
    filter: Query,
    place: Place,
    delays: Delays,
}

/// What comes next.
pub(crate) enum Next {
    /// Events, or none if there are none.
    Page(Page),
    /// Some of what came after the place may no longer be kept: the log goes on after this cursor.
    Missed { oldest: String },
}

/// Some events in a row.
pub(crate) struct Page {
    pub(crate) events: Vec<Item>,
    /// Where the feed goes on, which may be far behind the last event if others do not match.
    pub(crate) next: String,
    /// Whether there is more at once.
    pub(crate) more: bool,
}

/// An event as the feed has it.
pub(crate) struct Item {
    /// Where the feed goes on after it.
    pub(crate) cursor: String,
    pub(crate) event: Event,
    /// All of it in the relay's words.
    pub(crate) json: Box<RawValue>,
}

impl<'a> Follow<'a> {
    /// Nothing is asked yet.
    pub(crate) fn new(api: &'a Api, filter: &Filter, place: Place, progress: &'a Progress) -> Self {
        Self {
            api,
            patience: Patience::new(progress, ApiError::passes),
            filter: filter.on(Query::default()),
            place,
            delays: Delays::new(),
        }
    }

    /// Asks what comes next, by as many tries as it takes; the relay may hold the answer back for so long
    /// if there is nothing. The place stays as it is.
    pub(crate) async fn next(&mut self, wait: Duration) -> anyhow::Result<Next> {
        // Until the place is a cursor, which stays what it is if the answer is lost, nothing is waited for.
        let wait = match self.place {
            Place::After(_) => wait,
            Place::Now | Place::Since(_) => Duration::ZERO,
        };
        let (query, asked) = (self.query(), Instant::now());
        let path = ["v1", "feed"];
        let asking = self
            .patience
            .until_done(async || self.api.held(&path, &query, wait).await);
        let page = match asking.await {
            Ok(held) => Page::read(&held.body)?,
            Err(ApiError::Refused {
                oldest: Some(oldest), ..
            }) => return Ok(Next::Missed { oldest }),
            Err(error) => return Err(error.into()),
        };
        if wait > TOO_SOON && page.events.is_empty() && !page.more && asked.elapsed() < TOO_SOON {
            self.delays.wait().await;
        } else {
            self.delays.reset();
        }
        Ok(Next::Page(page))
    }

    fn query(&self) -> Query {
        let query = self.filter.clone().with("limit", Some(LIMIT));
        match &self.place {
            Place::Now => query.with("after", Some("now")),
            Place::Since(since) => query.with("since", Some(since)),
            Place::After(cursor) => query.with("after", Some(cursor)),
        }
    }

    /// Everything up to this cursor was dealt with.
    pub(crate) fn passed(&mut self, cursor: &str) {
        self.place = Place::After(cursor.to_owned());
    }

    /// Where it goes on, once that is known.
    pub(crate) fn cursor(&self) -> Option<&str> {
        match &self.place {
            Place::After(cursor) => Some(cursor),
            Place::Now | Place::Since(_) => None,
        }
    }

    /// The option by which another one goes on there, unless that is the same as to begin anew.
    pub(crate) fn go_on(&self) -> Option<String> {
        match &self.place {
            Place::After(cursor) => Some(format!("--cursor {cursor}")),
            Place::Since(since) => Some(format!("--since {since}")),
            Place::Now => None,
        }
    }
}

impl Page {
    fn read(body: &[u8]) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Read {
            events: Vec<Box<RawValue>>,
            next: String,
            more: bool,
        }
        let Read { events, next, more } = understand(body)?;
        let events: anyhow::Result<Vec<Item>> = events.into_iter().map(Item::read).collect();
        Ok(Self {
            events: events?,
            next,
            more,
        })
    }
}

impl Item {
    fn read(json: Box<RawValue>) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Read {
            cursor: String,
            event: Box<RawValue>,
        }
        let Read { cursor, event } = understand(json.get().as_bytes())?;
        let body = Bytes::copy_from_slice(event.get().as_bytes());
        let event = Event::reread(body)
            .with_context(|| format!("the relay's feed has no valid event before its cursor {cursor}"))?;
        Ok(Self { cursor, event, json })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_s_bytes_stay_as_they_came() {
        let event = r#"{"specversion":"1.0", "id":"1","source":"/s","type":"a.b","data":{"n": 1.50}}"#;
        let page = format!(r#"{{"events":[{{"cursor":"c1","event":{event}}}],"next":"c9","more":true}}"#);
        let page = Page::read(page.as_bytes()).unwrap();
        assert_eq!((page.next.as_str(), page.more), ("c9", true));
        let [item] = &page.events[..] else { panic!() };
        assert_eq!(item.cursor, "c1");
        assert_eq!(item.event.body(), event);
        assert!(item.json.get().contains(r#""cursor":"c1""#));
    }

    #[test]
    fn what_is_no_event_is_said_with_its_place() {
        let page = r#"{"events":[{"cursor":"c7","event":{"id":"1"}}],"next":"c9","more":false}"#;
        let error = format!("{:#}", Page::read(page.as_bytes()).err().unwrap());
        assert!(error.contains("c7") && error.contains("source"), "{error}");
        assert!(Page::read(b"{}").is_err());
    }
}
