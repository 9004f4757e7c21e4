//! Where a list goes on. Clients hand a cursor back as they got it; only this file looks into it.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use relay_event::{AttemptId, EndpointId, Invalid, Timestamp};
use serde::{Deserialize, Serialize, Serializer};

/// A place in one of the lists.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Cursor {
    /// Events before this one.
    Events { before: i64 },
    /// Attempts of an event, after this one.
    Attempts { event: i64, after: AttemptId },
    /// Deliveries after that of an event to an endpoint.
    Deliveries { event: i64, endpoint: EndpointId },
    /// Events of a period to recover for an endpoint, after this one.
    Recovery {
        endpoint: EndpointId,
        since: Timestamp,
        until: Timestamp,
        after: i64,
    },
    /// The feed of a log, after this place.
    Feed { log: String, after: i64 },
}

/// What to say of a cursor that is none, or of another list.
const UNKNOWN: &str = "must be the `next` of an answer to the same request";

impl Cursor {
    /// Where the feed of this log goes on after a place.
    pub(crate) fn feed(log: &str, after: i64) -> Self {
        let log = log.to_owned();
        Self::Feed { log, after }
    }

    /// Refuses a cursor of another list.
    pub(crate) fn refused() -> Invalid {
        Invalid::new("cursor", UNKNOWN)
    }

    /// What it says, in words; the first names the list.
    fn words(&self) -> String {
        match self {
            Self::Events { before } => format!("events {before}"),
            Self::Attempts { event, after } => format!("attempts {event} {after}"),
            Self::Deliveries { event, endpoint } => format!("deliveries {event} {endpoint}"),
            Self::Recovery {
                endpoint,
                since,
                until,
                after,
            } => {
                let (since, until) = (since.as_millis(), until.as_millis());
                format!("recovery {endpoint} {since} {until} {after}")
            }
            Self::Feed { log, after } => format!("feed {log} {after}"),
        }
    }

    fn parse(words: &str) -> Option<Self> {
        let words: Vec<&str> = words.split(' ').collect();
        let time = |millis: &str| Timestamp::from_millis(millis.parse().ok()?);
        match words[..] {
            ["events", before] => Some(Self::Events {
                before: before.parse().ok()?,
            }),
            ["attempts", event, after] => Some(Self::Attempts {
                event: event.parse().ok()?,
                after: after.parse().ok()?,
            }),
            ["deliveries", event, endpoint] => Some(Self::Deliveries {
                event: event.parse().ok()?,
                endpoint: endpoint.parse().ok()?,
            }),
            ["recovery", endpoint, since, until, after] => Some(Self::Recovery {
                endpoint: endpoint.parse().ok()?,
                since: time(since)?,
                until: time(until)?,
                after: after.parse().ok()?,
            }),
            ["feed", log, after] => Some(Self::Feed {
                log: log.to_owned(),
                after: after.parse().ok().filter(|after| *after >= 0)?,
            }),
            _ => None,
        }
    }
}

impl TryFrom<String> for Cursor {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let words = URL_SAFE_NO_PAD.decode(text).ok();
        let words = words.and_then(|words| String::from_utf8(words).ok());
        words.and_then(|words| Self::parse(&words)).ok_or(UNKNOWN)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.words()))
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_as_it_was_written() {
        let endpoint = EndpointId::generate();
        let now = Timestamp::now();
        for cursor in [
            Cursor::Events { before: 17 },
            Cursor::feed("0123456789abcdef", 17),
            Cursor::Attempts {
                event: 17,
                after: AttemptId::generate(),
            },
            Cursor::Deliveries {
                event: 17,
                endpoint: endpoint.clone(),
            },
            Cursor::Recovery {
                endpoint,
                since: Timestamp::default(),
                until: now,
                after: 0,
            },
        ] {
            let text = cursor.to_string();
            let in_a_query = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            assert!(text.bytes().all(in_a_query), "{text}");
            assert_eq!(Cursor::try_from(text), Ok(cursor));
        }
    }

    #[test]
    fn garbage_is_refused() {
        let written = |words: &str| URL_SAFE_NO_PAD.encode(words);
        for text in [
            String::new(),
            "17".to_owned(),
            "events 17".to_owned(),
            written("events"),
            written("events x"),
            written("events 17 18"),
            written("deliveries 17 ep_1"),
            written("letters 17"),
            written("feed 17"),
            written("feed 0123456789abcdef -1"),
            format!("{}=", written("events 17")),
        ] {
            assert!(Cursor::try_from(text.clone()).is_err(), "{text}");
        }
    }
}
