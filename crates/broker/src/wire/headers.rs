//! The headers of a message: the relay's own, CloudEvents', and the broker's.

use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use relay_event::{DeadLetter, DeadReason, History, Timestamp};

pub(super) const ENDPOINT: &str = "relay-endpoint";
pub(super) const ATTEMPTS: &str = "relay-attempts";
pub(super) const FIRST_ATTEMPT: &str = "relay-first-attempt";
pub(super) const LAST_ATTEMPT: &str = "relay-last-attempt";
pub(super) const LAST_STATUS: &str = "relay-last-status";
pub(super) const LAST_ERROR: &str = "relay-last-error";
pub(super) const PUBLISHED_AT: &str = "relay-published-at";
pub(super) const REASON: &str = "relay-reason";
pub(super) const DETAIL: &str = "relay-detail";
pub(super) const DEAD_AT: &str = "relay-dead-at";

// How a delivery had ended that was begun anew.
const EARLIER_REASON: &str = "relay-earlier-reason";
const EARLIER_ATTEMPTS: &str = "relay-earlier-attempts";
const EARLIER_FIRST_ATTEMPT: &str = "relay-earlier-first-attempt";
const EARLIER_LAST_ATTEMPT: &str = "relay-earlier-last-attempt";
const EARLIER_LAST_STATUS: &str = "relay-earlier-last-status";
const EARLIER_LAST_ERROR: &str = "relay-earlier-last-error";
const EARLIER_DEAD_AT: &str = "relay-earlier-dead-at";

/// The CloudEvents AMQP binding's prefix, and the two that older clients use.
pub(super) const ATTRIBUTE_PREFIXES: [&str; 3] = ["ce-", "cloudEvents_", "cloudEvents:"];

pub(super) fn put_history(headers: &mut FieldTable, history: &History) {
    headers.insert(ATTEMPTS.into(), AMQPValue::LongLongInt(history.attempts.into()));
    put_time(headers, FIRST_ATTEMPT, history.first_attempt);
    put_time(headers, LAST_ATTEMPT, history.last_attempt);
    put_time(headers, PUBLISHED_AT, history.published_at);
    if let Some(status) = history.last_status {
        headers.insert(LAST_STATUS.into(), AMQPValue::LongLongInt(status.into()));
    }
    if let Some(error) = &history.last_error {
        put_text(headers, LAST_ERROR, error);
    }
}

/// The facts of a dead letter that was redelivered.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(super) reason: Option<DeadReason>,
    pub(super) history: History,
    pub(super) dead_at: Option<Timestamp>,
}

impl Earlier {
    pub(super) fn of(letter: &DeadLetter) -> Self {
        Self {
            reason: Some(letter.reason),
            history: History {
                attempts: letter.attempts,
                first_attempt: letter.first_attempt,
                last_attempt: letter.last_attempt,
                last_status: letter.last_status,
                last_error: letter.last_error.clone(),
                published_at: None,
            },
            dead_at: letter.dead_at,
        }
    }
}

pub(super) fn put_earlier(headers: &mut FieldTable, earlier: &Earlier) {
    let history = &earlier.history;
    headers.insert(
        EARLIER_ATTEMPTS.into(),
        AMQPValue::LongLongInt(history.attempts.into()),
    );
    put_time(headers, EARLIER_FIRST_ATTEMPT, history.first_attempt);
    put_time(headers, EARLIER_LAST_ATTEMPT, history.last_attempt);
    put_time(headers, EARLIER_DEAD_AT, earlier.dead_at);
    if let Some(status) = history.last_status {
        headers.insert(EARLIER_LAST_STATUS.into(), AMQPValue::LongLongInt(status.into()));
    }
    if let Some(error) = &history.last_error {
        put_text(headers, EARLIER_LAST_ERROR, error);
    }
    if let Some(reason) = earlier.reason {
        put_text(headers, EARLIER_REASON, reason.as_str());
    }
}

/// As many as are sure to fit into a frame: headers cannot be split, and RabbitMQ closes the
/// connection over a frame of more than 128 KiB.
pub(super) fn put_attributes(headers: &mut FieldTable, attributes: &[(String, String)]) {
    const ROOM: usize = 64 * 1024;
    let mut taken = 0;
    for (name, value) in attributes {
        taken += name.len() + value.len() + 16;
        if taken <= ROOM {
            put_text(headers, &format!("ce-{name}"), value);
        }
    }
}

pub(super) fn put_text(headers: &mut FieldTable, name: &str, value: &str) {
    headers.insert(name.into(), AMQPValue::LongString(value.into()));
}

pub(super) fn put_time(headers: &mut FieldTable, name: &str, time: Option<Timestamp>) {
    if let Some(time) = time {
        headers.insert(name.into(), AMQPValue::LongLongInt(time.as_millis()));
    }
}

/// A message's headers, read forgivingly: clients write numbers and strings in many widths.
pub(crate) struct Headers<'a>(Option<&'a BTreeMap<ShortString, AMQPValue>>);

/// The newest entry of the broker's `x-death`.
pub(super) struct Died<'a> {
    pub(super) queue: &'a str,
    pub(super) reason: &'a str,
    pub(super) at: Option<Timestamp>,
}

impl<'a> Headers<'a> {
    pub(crate) fn of(properties: &'a BasicProperties) -> Self {
        Self(properties.headers().as_ref().map(FieldTable::inner))
    }

    fn get(&self, name: &str) -> Option<&'a AMQPValue> {
        self.0?.get(name)
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        text(self.get(name)?)
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        integer(self.get(name)?)
    }

    pub(super) fn time(&self, name: &str) -> Option<Timestamp> {
        Timestamp::from_millis(self.integer(name)?)
    }

    pub(super) fn history(&self) -> History {
        History {
            attempts: self
                .integer(ATTEMPTS)
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or(0),
            first_attempt: self.time(FIRST_ATTEMPT),
            last_attempt: self.time(LAST_ATTEMPT),
            last_status: self
                .integer(LAST_STATUS)
                .and_then(|status| u16::try_from(status).ok()),
            last_error: self.text(LAST_ERROR).map(str::to_owned),
            published_at: self.time(PUBLISHED_AT),
        }
    }

    /// How the delivery had ended before it was begun anew, if it was.
    pub(super) fn earlier(&self) -> Option<Earlier> {
        let attempts = u32::try_from(self.integer(EARLIER_ATTEMPTS)?).ok()?;
        Some(Earlier {
            reason: self.text(EARLIER_REASON).and_then(|reason| reason.parse().ok()),
            history: History {
                attempts,
                first_attempt: self.time(EARLIER_FIRST_ATTEMPT),
                last_attempt: self.time(EARLIER_LAST_ATTEMPT),
                last_status: self
                    .integer(EARLIER_LAST_STATUS)
                    .and_then(|status| u16::try_from(status).ok()),
                last_error: self.text(EARLIER_LAST_ERROR).map(str::to_owned),
                published_at: None,
            },
            dead_at: self.time(EARLIER_DEAD_AT),
        })
    }

    /// The CloudEvents attributes among the headers, without their prefix.
    pub(crate) fn attributes(&self) -> Vec<(String, String)> {
        let attribute = |(name, value): (&ShortString, &AMQPValue)| {
            let name = ATTRIBUTE_PREFIXES
                .iter()
                .find_map(|prefix| name.as_str().strip_prefix(prefix))?;
            Some((name.to_owned(), readable(value)?))
        };
        self.0.into_iter().flatten().filter_map(attribute).collect()
    }

    pub(super) fn attribute(&self, name: &str) -> Option<String> {
        self.attributes()
            .into_iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value)
    }

    pub(super) fn death(&self) -> Option<Died<'a>> {
        let AMQPValue::FieldArray(deaths) = self.get("x-death")? else {
            return None;
        };
        let AMQPValue::FieldTable(newest) = deaths.as_slice().first()? else {
            return None;
        };
        let newest = newest.inner();
        let at = match newest.get("time") {
            Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds)
                .ok()
                .and_then(|s| Timestamp::from_millis(s.checked_mul(1000)?)),
            _ => None,
        };
        Some(Died {
            queue: text(newest.get("queue")?)?,
            reason: text(newest.get("reason")?)?,
            at,
        })
    }
}

fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::ShortShortInt(number) => Some(number.into()),
        AMQPValue::ShortShortUInt(number) => Some(number.into()),
        AMQPValue::ShortInt(number) => Some(number.into()),
        AMQPValue::ShortUInt(number) => Some(number.into()),
        AMQPValue::LongInt(number) => Some(number.into()),
        AMQPValue::LongUInt(number) => Some(number.into()),
        AMQPValue::LongLongInt(number) => Some(number),
        _ => None,
    }
}

/// An attribute as the text it has in binary mode (CloudEvents section 3.1, type system).
fn readable(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::Boolean(truth) => Some(truth.to_string()),
        AMQPValue::Timestamp(seconds) => {
            let millis = i64::try_from(*seconds).ok()?.checked_mul(1000)?;
            Some(Timestamp::from_millis(millis)?.to_string())
        }
        other => text(other)
            .map(str::to_owned)
            .or_else(|| integer(other).map(|number| number.to_string())),
    }
}
