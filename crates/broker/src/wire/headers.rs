//! The headers of a message: the relay's own, CloudEvents', and the broker's.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable, ShortString},
};
use relay_event::{DeadLetter, DeadReason, EndpointId, History, Invalid, Timestamp};

use crate::transport::{Cut, MARKER};

/// The version of the form of a message that the relay publishes.
const WIRE: &str = "relay-wire";
/// The version that this relay writes, and the only one that it reads.
const WIRE_VERSION: i64 = 1;

pub(super) const ENDPOINT: &str = "relay-endpoint";
pub(super) const RUN: &str = "relay-run";
pub(super) const VERSION: &str = "relay-endpoints-version";
pub(super) const HOP: &str = "relay-hop";
pub(super) const ATTEMPTS: &str = "relay-attempts";
pub(super) const FIRST_ATTEMPT: &str = "relay-first-attempt";
pub(super) const LAST_ATTEMPT: &str = "relay-last-attempt";
pub(super) const LAST_STATUS: &str = "relay-last-status";
pub(super) const LAST_ERROR: &str = "relay-last-error";
pub(super) const PUBLISHED_AT: &str = "relay-published-at";
pub(super) const REASON: &str = "relay-reason";
pub(super) const DETAIL: &str = "relay-detail";
pub(super) const DEAD_AT: &str = "relay-dead-at";
/// A dead letter that does not hold all of what was published.
pub(super) const PARTIAL: &str = "relay-partial";

/// The broker's own account of why and where it moved a message. A producer may forge it.
pub(super) const X_DEATH: &str = "x-death";

// The end that a delivery had before it was begun anew.
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
    put_time(headers, RUN, history.run);
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
                run: None,
                version: None,
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

/// As many as are sure to be read again beside the facts of a dead letter, and to fit into a frame: headers
/// cannot be split, and RabbitMQ closes the connection over a frame of more than 128 KiB.
pub(super) fn put_attributes(headers: &mut FieldTable, attributes: &[(String, AMQPValue)]) {
    const ROOM: usize = 48 * 1024;
    let mut taken = 0;
    for (name, value) in attributes {
        let bytes = match value {
            AMQPValue::LongString(text) => text.as_bytes().len(),
            AMQPValue::ByteArray(bytes) => bytes.len(),
            _ => 0,
        };
        taken += name.len() + bytes + 16;
        if taken <= ROOM {
            headers.insert(format!("ce-{name}").into(), value.clone());
        }
    }
}

pub(super) fn put_wire_version(headers: &mut FieldTable) {
    headers.insert(WIRE.into(), AMQPValue::LongLongInt(WIRE_VERSION));
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

    /// Checks that the message has a form that this relay reads.
    ///
    /// # Errors
    /// It was published by another version of the relay, or by somebody else.
    pub(crate) fn check_wire_version(&self) -> Result<(), Invalid> {
        let problem = match self.integer(WIRE) {
            Some(WIRE_VERSION) => return Ok(()),
            Some(other) => {
                format!("is {other}; this relay reads {WIRE_VERSION}: is another version running?")
            }
            None => format!("is missing; this relay reads {WIRE_VERSION}"),
        };
        Err(Invalid::new(format!("header {WIRE}"), problem))
    }

    /// The endpoint that the message is addressed to.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn endpoint(&self) -> Result<EndpointId, Invalid> {
        let named = |problem| Invalid::new(format!("header {ENDPOINT}"), problem);
        let id = self
            .text(ENDPOINT)
            .ok_or_else(|| named("is missing".to_owned()))?;
        id.parse().map_err(|refused: Invalid| named(refused.problem))
    }

    pub(super) fn count(&self, name: &str) -> u32 {
        let count = self.integer(name).and_then(|count| u32::try_from(count).ok());
        count.unwrap_or(0)
    }

    pub(super) fn history(&self) -> History {
        History {
            attempts: self.count(ATTEMPTS),
            first_attempt: self.time(FIRST_ATTEMPT),
            last_attempt: self.time(LAST_ATTEMPT),
            last_status: self
                .integer(LAST_STATUS)
                .and_then(|status| u16::try_from(status).ok()),
            last_error: self.text(LAST_ERROR).map(str::to_owned),
            run: self.time(RUN),
            version: self.text(VERSION).and_then(|version| version.parse().ok()),
        }
    }

    /// The end that the delivery had before it was begun anew, if it was.
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
                run: None,
                version: None,
            },
            dead_at: self.time(EARLIER_DEAD_AT),
        })
    }

    /// The parts that are missing of the message.
    pub(crate) fn cut(&self) -> Cut {
        self.text(MARKER).and_then(Cut::parse).unwrap_or_default()
    }

    /// The headers that are CloudEvents attributes, with their names in full and without the prefix.
    fn prefixed(&self) -> impl Iterator<Item = (&'a str, &'a str, &'a AMQPValue)> {
        let headers = self.0.into_iter().flatten();
        headers.filter_map(|(name, value)| {
            let name = name.as_str();
            let bare = ATTRIBUTE_PREFIXES
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix))?;
            Some((name, bare, value))
        })
    }

    /// The attributes of an event in binary mode. One whose header is void is not set.
    ///
    /// # Errors
    /// The first header that no attribute can be made of.
    pub(super) fn event_attributes(&self) -> Result<Vec<(String, String)>, Invalid> {
        let attribute = |(name, bare, value): (&str, &str, &AMQPValue)| match attribute(value) {
            Ok(text) => Ok(text.map(|text| (bare.to_owned(), text))),
            Err(problem) => Err(Invalid::new(format!("header {name}"), problem)),
        };
        let attributes = self.prefixed().map(attribute);
        attributes.filter_map(Result::transpose).collect()
    }

    /// The attributes that can be read, of a message that need not be an event.
    pub(crate) fn attributes(&self) -> Vec<(String, String)> {
        let readable = |(_, bare, value): (_, &str, _)| Some((bare.to_owned(), attribute(value).ok()??));
        self.prefixed().filter_map(readable).collect()
    }

    /// The attributes for a dead letter, from which the same is read again: tables and lists are empty.
    pub(super) fn kept_attributes(&self) -> Vec<(String, AMQPValue)> {
        let kept = |(_, bare, value): (_, &str, &AMQPValue)| {
            let value = match value {
                AMQPValue::FieldTable(_) => AMQPValue::FieldTable(FieldTable::default()),
                AMQPValue::FieldArray(_) => AMQPValue::FieldArray(FieldArray::default()),
                simple => simple.clone(),
            };
            (bare.to_owned(), value)
        };
        self.prefixed().map(kept).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn attribute(&self, name: &str) -> Option<String> {
        self.attributes()
            .into_iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value)
    }

    pub(super) fn death(&self) -> Option<Died<'a>> {
        let AMQPValue::FieldArray(deaths) = self.get(X_DEATH)? else {
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

/// An attribute as the text it has in binary mode (CloudEvents 1.0, section 3.1, the type system; AMQP binding,
/// section 3.1.3.2). Integers are passed on as the text they are, beyond 32 bits too.
fn attribute(value: &AMQPValue) -> Result<Option<String>, &'static str> {
    const BEYOND: &str = "is a timestamp beyond the year 9999; AMQP counts seconds, not milliseconds";
    match value {
        AMQPValue::Void => Ok(None),
        AMQPValue::Boolean(truth) => Ok(Some(truth.to_string())),
        AMQPValue::ByteArray(bytes) => Ok(Some(STANDARD.encode(bytes.as_slice()))),
        AMQPValue::Timestamp(seconds) => {
            let millis = i64::try_from(*seconds).ok().and_then(|s| s.checked_mul(1000));
            let time = millis.and_then(Timestamp::from_millis).ok_or(BEYOND)?;
            Ok(Some(time.to_string()))
        }
        AMQPValue::Float(_) => Err("is a float; CloudEvents has no such type: send a string"),
        AMQPValue::Double(_) => Err("is a double; CloudEvents has no such type: send a string"),
        AMQPValue::DecimalValue(_) => Err("is a decimal; CloudEvents has no such type: send a string"),
        AMQPValue::FieldTable(_) => Err("is a table; CloudEvents has no such type: send a string"),
        AMQPValue::FieldArray(_) => Err("is a list; CloudEvents has no such type: send a string"),
        other => text(other)
            .map(str::to_owned)
            .or_else(|| integer(other).map(|number| number.to_string()))
            .map(Some)
            .ok_or("is a text that is not UTF-8"),
    }
}
