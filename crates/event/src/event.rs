//! CloudEvents 1.0, JSON format, with its bytes kept as they came.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>

mod batch;
mod binary;
mod callback;

use std::{borrow::Cow, collections::HashSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    EventAttributes, EventId, EventType, Timestamp, WebhookId,
    invalid::{Given, GivenJson, Invalid},
    limits::{
        MAX_ATTRIBUTE_BYTES, MAX_DEPTH, MAX_MEMBERS, MAX_MEMBERS_OF_OLD, MAX_NAME_BYTES, MAX_SUBJECT_BYTES,
        check_length,
    },
    text::{self, check_media_type, check_schema, check_source, check_source_of_old},
};

/// The size an event may have unless a process is told otherwise: 256 KiB.
pub const DEFAULT_MAX_EVENT_BYTES: usize = 256 * 1024;

/// Why an idempotency key is refused for an event with an id.
pub const KEY_BESIDE_ID: &str =
    "cannot stand beside the event's id, by which it is known when it comes again: leave one of them out";

const SPEC_VERSION: &str = "1.0";

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
    /// Reads an event in structured mode. The bytes are kept as they are, without a byte order mark.
    ///
    /// # Errors
    /// The first attribute that CloudEvents, or the relay's limits, do not allow.
    pub fn parse(body: Bytes) -> Result<Self, Invalid> {
        let body = bare(body);
        let known = Attributes::read(&body, MAX_MEMBERS)?.checked()?;
        Ok(known.with_body(body))
    }

    /// Reads an event that was let in before, from the log or on its way back from a retry. What is known
    /// of it is read, and nothing else checked: an older version of the relay may have let in what
    /// [`Event::parse`] refuses.
    ///
    /// # Errors
    /// It is no JSON object, or has no id, source or type that any version took.
    pub fn reread(body: Bytes) -> Result<Self, Invalid> {
        let known = Attributes::read(&body, MAX_MEMBERS_OF_OLD)?.known()?;
        Ok(known.with_body(body))
    }

    /// Reads an event whose `specversion`, `id`, `source` and `time` may be missing or null, and puts
    /// those in front. Other values are kept byte for byte.
    ///
    /// # Errors
    /// As [`Event::parse`].
    pub fn complete(body: Bytes, fill: &Fill) -> Result<Self, Invalid> {
        let body = bare(body);
        let attributes = Attributes::read(&body, MAX_MEMBERS)?;
        Self::filled(&body, &attributes, fill)
    }

    fn filled(body: &Bytes, attributes: &Attributes<'_>, fill: &Fill) -> Result<Self, Invalid> {
        let filled = [
            ("specversion", SPEC_VERSION.to_owned()),
            ("id", fill.id.to_string()),
            ("source", fill.source.clone()),
            ("time", fill.time.to_string()),
        ];
        let missing: Vec<_> = filled
            .into_iter()
            .filter(|(name, _)| attributes.value(name).is_none())
            .collect();
        Self::parse(in_front(body, attributes, &missing)?)
    }

    /// Puts the id of an idempotency key in front of an event that has none of its own, for
    /// [`Event::parse`] or [`Event::complete`] to read. An event that names no source is taken for one
    /// of `source`.
    ///
    /// # Errors
    /// It is no JSON object, its source is not allowed, or it has an id, beside which a key says nothing.
    pub fn with_key(body: Bytes, key: &str, source: &str) -> Result<Bytes, Invalid> {
        let body = bare(body);
        let attributes = Attributes::read(&body, MAX_MEMBERS)?;
        if attributes.value("id").is_some() {
            return Err(Invalid::new("Idempotency-Key", KEY_BESIDE_ID));
        }
        let own = attributes.text("source")?;
        let id = EventId::of_key(own.as_deref().unwrap_or(source), key);
        in_front(&body, &attributes, &[("id", id.to_string())])
    }

    /// The id that receivers know it by.
    pub fn webhook_id(&self) -> WebhookId {
        WebhookId::of(&self.source, &self.id)
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

    /// The attributes that decide which endpoints want it.
    pub fn attributes(&self) -> EventAttributes<'_> {
        EventAttributes {
            event_type: &self.event_type,
            source: &self.source,
            subject: self.subject.as_deref(),
        }
    }

    /// The event in structured mode, as it is posted and signed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// JSON without a byte order mark at its beginning, which a reader may ignore (RFC 8259, section 8.1).
pub fn without_byte_order_mark(json: &[u8]) -> &[u8] {
    json.strip_prefix("\u{feff}".as_bytes()).unwrap_or(json)
}

fn bare(body: Bytes) -> Bytes {
    body.slice_ref(without_byte_order_mark(&body))
}

/// The members of an event's JSON object, in their order, values unread.
struct Attributes<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// The part of an event that the relay must know.
struct Known {
    id: EventId,
    source: String,
    event_type: EventType,
    subject: Option<String>,
}

impl Known {
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
    /// Reads an object of at most so many members.
    fn read(body: &'a [u8], most: usize) -> Result<Self, Invalid> {
        let mut reader = serde_json::Deserializer::from_slice(body);
        let attributes = Members { most }
            .deserialize(&mut reader)
            .and_then(|attributes| reader.end().map(|()| attributes))
            .map_err(|error| {
                Invalid::new(
                    "event",
                    format!("must be a JSON object holding a CloudEvent: {error}"),
                )
            })?;
        if attributes.0.len() > most {
            return Err(Invalid::new("event", format!("has more than {most} members")));
        }
        let mut seen = HashSet::with_capacity(attributes.0.len());
        for (name, _) in &attributes.0 {
            // Two readers could see two different events.
            if !seen.insert(name) {
                return Err(Invalid::new(name.as_ref(), "is given twice"));
            }
        }
        Ok(attributes)
    }

    /// A member's value. Null is none: the JSON format (section 2.2) has null attributes treated as unset.
    fn value(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| *value)
            .filter(|value| !is_null(value))
    }

    fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Invalid> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match serde_json::from_str::<Text>(value.get()) {
            Ok(Text(text)) if !text.is_empty() => Ok(Some(text)),
            Ok(Text(_)) => Err(Invalid::new(name, "must be a non-empty string, not \"\"")),
            Err(_) => Err(Invalid::new(
                name,
                format!("must be a non-empty string, not {}", GivenJson(value.get())),
            )),
        }
    }

    fn required(&self, name: &str) -> Result<Cow<'a, str>, Invalid> {
        self.text(name)?.ok_or_else(|| Invalid::new(name, "is missing"))
    }

    /// The part that the relay must know, by the rules of every version.
    fn known(&self) -> Result<Known, Invalid> {
        let known = Known {
            id: self.required("id")?.parse()?,
            source: self.required("source")?.into_owned(),
            event_type: self.required("type")?.parse()?,
            subject: self.text("subject")?.map(Cow::into_owned),
        };
        check_source_of_old(&known.source)?;
        if let Some(subject) = &known.subject {
            check_length("subject", subject, MAX_SUBJECT_BYTES)?;
        }
        Ok(known)
    }

    fn checked(&self) -> Result<Known, Invalid> {
        let version = self.required("specversion")?;
        if version != SPEC_VERSION {
            return Err(Invalid::new(
                "specversion",
                format!("must be \"1.0\", not {}", Given(&version)),
            ));
        }
        if let Some(source) = self.text("source")? {
            check_source(&source)?;
        }
        let known = self.known()?;
        if let Some(time) = self.text("time")? {
            Timestamp::check(&time)?;
        }
        if let Some(content_type) = self.text("datacontenttype")? {
            check_media_type(&content_type)?;
        }
        if let Some(schema) = self.text("dataschema")? {
            check_schema(&schema)?;
        }
        self.check_data()?;
        self.check_members()?;
        Ok(known)
    }

    fn check_data(&self) -> Result<(), Invalid> {
        let data = self.value("data");
        if data.is_some_and(|data| nests_deeper(data.get(), MAX_DEPTH)) {
            return Err(Invalid::new("data", format!("nests deeper than {MAX_DEPTH}")));
        }
        let Some(encoded) = self.value("data_base64") else {
            return Ok(());
        };
        if data.is_some() {
            return Err(Invalid::new("data_base64", "cannot stand beside `data`"));
        }
        match serde_json::from_str::<Text>(encoded.get()) {
            Ok(Text(text)) if STANDARD.decode(text.as_bytes()).is_ok() => Ok(()),
            _ => Err(Invalid::new("data_base64", "must be a string in padded base64")),
        }
    }

    fn check_members(&self) -> Result<(), Invalid> {
        for (name, value) in &self.0 {
            if !matches!(name.as_ref(), "data" | "data_base64") {
                check_name(name)?;
                check_attribute(name, value)?;
            }
        }
        Ok(())
    }
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// Section 2.2 of the JSON format: a Boolean is one of JSON, an Integer a number without fraction and
/// exponent, and everything else a string. Section 3.1 of the specification: an Integer has 32 bits.
fn check_attribute(name: &str, value: &RawValue) -> Result<(), Invalid> {
    let json = value.get();
    if is_null(value) || matches!(json, "true" | "false") {
        return Ok(());
    }
    if json.starts_with('"') {
        let Ok(Text(text)) = serde_json::from_str(json) else {
            let problem = format!("must be a string of Unicode characters, not {}", Given(json));
            return Err(Invalid::new(name, problem));
        };
        text::check(name, &text)?;
        return check_length(name, &text, MAX_ATTRIBUTE_BYTES);
    }
    let problem = if name == callback::NAME && json.starts_with('{') {
        callback::IN_WHOLE_EVENT.to_owned()
    } else if json.starts_with(['{', '[']) {
        "must be a string, a whole number or a boolean; objects and lists belong into `data`".to_owned()
    } else if json.parse::<i32>().is_err() {
        format!(
            "must be a string, a boolean or a whole number from {} to {}, not {}",
            i32::MIN,
            i32::MAX,
            Given(json)
        )
    } else {
        return Ok(());
    };
    Err(Invalid::new(name, problem))
}

/// Section 3.1 of the specification: lower-case letters and digits.
fn check_name(name: &str) -> Result<(), Invalid> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Invalid::new(
        name,
        format!("an attribute's name must be 1 to {MAX_NAME_BYTES} lower-case letters and digits"),
    ))
}

/// Returns true if valid JSON has more objects or lists in each other than so many. Without recursion: it may
/// nest as deep as a message is long.
fn nests_deeper(json: &str, most: usize) -> bool {
    let (mut depth, mut bytes) = (0_usize, json.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
        if depth > most {
            return true;
        }
    }
    false
}

/// Goes on after the end of a JSON string.
fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

/// The object with these members before its own, which are kept byte for byte. Where one of these stands
/// there as null, the object is put together anew without it: no member may come twice.
fn in_front(body: &Bytes, attributes: &Attributes<'_>, members: &[(&str, String)]) -> Result<Bytes, Invalid> {
    if members.is_empty() {
        return Ok(body.clone());
    }
    let mut json = String::with_capacity(body.len() + 160);
    for (name, value) in members {
        json.push(if json.is_empty() { '{' } else { ',' });
        push_member(&mut json, name, &quoted(value));
    }
    let is_filled = |given: &str| members.iter().any(|(name, _)| *name == given);
    if attributes.0.iter().any(|(given, _)| is_filled(given)) {
        for (name, value) in attributes.0.iter().filter(|(given, _)| !is_filled(given)) {
            json.push(',');
            push_given(&mut json, name, value);
        }
        json.push('}');
    } else {
        let own = text_of(body)?.trim_start().strip_prefix('{').unwrap_or_default();
        json.push_str(if attributes.0.is_empty() { "" } else { "," });
        json.push_str(own);
    }
    Ok(json.into())
}

fn text_of(body: &[u8]) -> Result<&str, Invalid> {
    std::str::from_utf8(body).map_err(|error| Invalid::new("event", format!("must be UTF-8: {error}")))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A member as it was given, whatever its name is.
fn push_given(json: &mut String, name: &str, value: &RawValue) {
    json.push_str(&quoted(name));
    json.push(':');
    json.push_str(value.get());
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

/// Reads the members of an object, and one beyond the most that are allowed: a short event can hold very many.
struct Members {
    most: usize,
}

impl<'de> DeserializeSeed<'de> for Members {
    type Value = Attributes<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Attributes<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while members.len() <= self.most {
            let Some((Text(name), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? else {
                return Ok(Attributes(members));
            };
            members.push((name, value));
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Attributes(members))
    }
}

#[cfg(test)]
mod tests;
