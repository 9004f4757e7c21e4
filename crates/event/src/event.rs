//! CloudEvents 1.0, JSON format, with its bytes kept as they came.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>

mod batch;
mod binary;

use std::{borrow::Cow, collections::HashSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    EventId, EventType, Timestamp,
    invalid::{Given, Invalid},
};

/// The size an event may have unless a process is told otherwise: 256 KiB.
pub const DEFAULT_MAX_EVENT_BYTES: usize = 256 * 1024;

/// Why an idempotency key is refused for an event with an id.
pub const KEY_BESIDE_ID: &str =
    "cannot stand beside the event's id, by which it is known when it comes again: leave one of them out";

const SPEC_VERSION: &str = "1.0";
const MAX_SOURCE_BYTES: usize = 1024;
const MAX_SUBJECT_BYTES: usize = 1024;

/// A valid event: what the relay must know of it, and the bytes that are posted and signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    id: EventId,
    source: String,
    event_type: EventType,
    subject: Option<String>,
    body: Bytes,
}

/// What is filled in where a producer left it out.
#[derive(Debug, Clone)]
pub struct Fill {
    /// For a missing `id`.
    pub id: EventId,
    /// For a missing `source`.
    pub source: String,
    /// For a missing `time`.
    pub time: Timestamp,
}

impl Event {
    /// Reads an event in structured mode. The bytes are kept as they are.
    ///
    /// # Errors
    /// The first attribute that CloudEvents, or the relay's limits, do not allow.
    pub fn parse(body: Bytes) -> Result<Self, Invalid> {
        let known = Attributes::read(&body)?.checked()?;
        Ok(known.with_body(body))
    }

    /// Reads an event whose `specversion`, `id`, `source` and `time` may be missing, and puts
    /// those in front. What was given is kept byte for byte.
    ///
    /// # Errors
    /// As [`Event::parse`].
    pub fn complete(body: Bytes, fill: &Fill) -> Result<Self, Invalid> {
        let attributes = Attributes::read(&body)?;
        let filled = [
            ("specversion", SPEC_VERSION.to_owned()),
            ("id", fill.id.to_string()),
            ("source", fill.source.clone()),
            ("time", fill.time.to_string()),
        ];
        let missing: Vec<_> = filled
            .into_iter()
            .filter(|(name, _)| attributes.get(name).is_none())
            .collect();
        Self::parse(in_front(&body, &attributes, &missing)?)
    }

    /// Puts the id of an idempotency key in front of an event that has none of its own, for
    /// [`Event::parse`] or [`Event::complete`] to read. An event that names no source is taken for one
    /// of `source`.
    ///
    /// # Errors
    /// It is no JSON object, its source is not allowed, or it has an id, beside which a key says nothing.
    pub fn with_key(body: Bytes, key: &str, source: &str) -> Result<Bytes, Invalid> {
        let attributes = Attributes::read(&body)?;
        if attributes.get("id").is_some() {
            return Err(Invalid::new("Idempotency-Key", KEY_BESIDE_ID));
        }
        let own = attributes.text("source")?;
        let id = EventId::of_key(own.as_deref().unwrap_or(source), key);
        in_front(&body, &attributes, &[("id", id.to_string())])
    }

    /// The event's id.
    pub fn id(&self) -> &EventId {
        &self.id
    }

    /// Its source; source and id together name an event.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Its type: the routing key.
    pub fn event_type(&self) -> &EventType {
        &self.event_type
    }

    /// What it is about, if it says.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The event in structured mode, as it is posted and signed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// The members of an event's JSON object, in their order, values unread.
struct Attributes<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// The attributes every event has, checked.
struct Required {
    id: EventId,
    source: String,
    event_type: EventType,
    subject: Option<String>,
}

impl Required {
    fn with_body(self, body: Bytes) -> Event {
        Event {
            id: self.id,
            source: self.source,
            event_type: self.event_type,
            subject: self.subject,
            body,
        }
    }
}

impl<'a> Attributes<'a> {
    fn read(body: &'a [u8]) -> Result<Self, Invalid> {
        let attributes: Self = serde_json::from_slice(body).map_err(|error| {
            Invalid::new(
                "event",
                format!("must be a JSON object holding a CloudEvent: {error}"),
            )
        })?;
        let mut seen = HashSet::with_capacity(attributes.0.len());
        for (name, _) in &attributes.0 {
            // Two readers could see two different events.
            if !seen.insert(name) {
                return Err(Invalid::new(name.as_ref(), "is given twice"));
            }
        }
        Ok(attributes)
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| *value)
    }

    fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Invalid> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match serde_json::from_str::<Text>(value.get()) {
            Ok(Text(text)) if !text.is_empty() => Ok(Some(text)),
            Ok(Text(_)) => Err(Invalid::new(name, "must be a non-empty string, not \"\"")),
            Err(_) => Err(Invalid::new(
                name,
                format!("must be a non-empty string, not {}", Given(value.get())),
            )),
        }
    }

    fn required(&self, name: &str) -> Result<Cow<'a, str>, Invalid> {
        self.text(name)?.ok_or_else(|| Invalid::new(name, "is missing"))
    }

    fn checked(&self) -> Result<Required, Invalid> {
        let version = self.required("specversion")?;
        if version != SPEC_VERSION {
            return Err(Invalid::new(
                "specversion",
                format!("must be \"1.0\", not {}", Given(&version)),
            ));
        }
        let required = Required {
            id: self.required("id")?.parse()?,
            source: source(self.required("source")?)?,
            event_type: self.required("type")?.parse()?,
            subject: self.text("subject")?.map(subject).transpose()?,
        };
        if let Some(time) = self.text("time")? {
            time.parse::<Timestamp>()?;
        }
        for name in ["datacontenttype", "dataschema"] {
            self.text(name)?;
        }
        self.check_data()?;
        self.check_extensions()?;
        Ok(required)
    }

    fn check_data(&self) -> Result<(), Invalid> {
        let Some(encoded) = self.get("data_base64") else {
            return Ok(());
        };
        if self.get("data").is_some() {
            return Err(Invalid::new("data_base64", "cannot stand beside `data`"));
        }
        match serde_json::from_str::<Text>(encoded.get()) {
            Ok(Text(text)) if STANDARD.decode(text.as_bytes()).is_ok() => Ok(()),
            _ => Err(Invalid::new("data_base64", "must be a string in padded base64")),
        }
    }

    /// Section 2.2 of the JSON format: values are strings, numbers, booleans or null.
    fn check_extensions(&self) -> Result<(), Invalid> {
        for (name, value) in &self.0 {
            if matches!(name.as_ref(), "data" | "data_base64") {
                continue;
            }
            check_name(name)?;
            if value.get().starts_with(['{', '[']) {
                return Err(Invalid::new(
                    name.as_ref(),
                    "must be a string, a number or a boolean; objects and lists belong into `data`",
                ));
            }
        }
        Ok(())
    }
}

/// Section 3.1 of the specification: lower-case letters and digits.
fn check_name(name: &str) -> Result<(), Invalid> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Ok(());
    }
    Err(Invalid::new(
        name,
        "an attribute's name must be lower-case letters and digits",
    ))
}

/// Section 3.1.1: a non-empty URI-reference.
fn source(text: Cow<'_, str>) -> Result<String, Invalid> {
    check_source(&text)?;
    Ok(text.into_owned())
}

pub(crate) fn check_source(text: &str) -> Result<(), Invalid> {
    if (1..=MAX_SOURCE_BYTES).contains(&text.len())
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Ok(());
    }
    Err(Invalid::new(
        "source",
        format!(
            "must be a URI reference of at most {MAX_SOURCE_BYTES} bytes without spaces, such as /orders, not {}",
            Given(text)
        ),
    ))
}

/// Section 3.1, the type system: strings hold no control characters. The length is the relay's limit:
/// events are looked up by it.
fn subject(text: Cow<'_, str>) -> Result<String, Invalid> {
    if text.len() <= MAX_SUBJECT_BYTES && !text.chars().any(char::is_control) {
        return Ok(text.into_owned());
    }
    Err(Invalid::new(
        "subject",
        format!(
            "must have at most {MAX_SUBJECT_BYTES} bytes and no control characters, not {}",
            Given(&text)
        ),
    ))
}

/// The object with these members before its own, which are kept byte for byte.
fn in_front(body: &Bytes, attributes: &Attributes<'_>, members: &[(&str, String)]) -> Result<Bytes, Invalid> {
    if members.is_empty() {
        return Ok(body.clone());
    }
    let own = text_of(body)?.trim_start().strip_prefix('{').unwrap_or_default();
    let mut json = String::with_capacity(body.len() + 160);
    for (name, value) in members {
        json.push(if json.is_empty() { '{' } else { ',' });
        push_member(&mut json, name, &quoted(value));
    }
    json.push_str(if attributes.0.is_empty() { "" } else { "," });
    json.push_str(own);
    Ok(json.into())
}

fn text_of(body: &[u8]) -> Result<&str, Invalid> {
    std::str::from_utf8(body).map_err(|error| Invalid::new("event", format!("must be UTF-8: {error}")))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn push_member(json: &mut String, name: &str, value: &str) {
    json.push('"');
    json.push_str(name);
    json.push_str("\":");
    json.push_str(value);
}

/// A JSON string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Attributes<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Attributes<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Attributes(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests;
