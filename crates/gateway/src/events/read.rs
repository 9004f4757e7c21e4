//! What a request asks to be published, read and checked before anything of it is sent.

use axum::{
    extract::Request,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use relay_event::{Event, EventId, Fill, Invalid, Timestamp, without_byte_order_mark};

use super::{batch, binary, callback::Callback, key};
use crate::{
    body,
    gateway::Gateway,
    limits::Limit,
    memory::{BodyMemory, Held},
    problem::{Kind, Problem},
};

/// The events of a request, and the memory of those that were written anew.
pub(super) struct Read {
    pub(super) incoming: Incoming,
    /// Kept until the events are published.
    pub(super) held: Option<Held>,
}

/// Events to publish.
pub(super) enum Incoming {
    /// An event that got its id just now, so that nobody can have published it before.
    New(Event),
    /// An event whose producer gave it its id.
    Named(Event),
    /// An event with the callback of its job.
    WithCallback(Event, Box<Callback>),
    /// Events with ids of their own.
    Batch(Vec<Event>),
}

/// How a request holds its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A whole CloudEvent.
    Structured,
    /// One whose missing attributes are filled in.
    Shorthand,
    /// A list of whole ones.
    Batch,
    /// One whose attributes are headers.
    Binary,
}

impl Mode {
    /// The content type decides (CloudEvents HTTP binding, section 3), and `ce-` headers count only
    /// beside one that is not CloudEvents' own.
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        match body::media_type(headers).as_deref() {
            Some("application/cloudevents+json") => Ok(Self::Structured),
            Some("application/cloudevents-batch+json") => Ok(Self::Batch),
            _ if names_cloudevents(headers) => Err(unsupported()),
            _ if binary::is_binary(headers) => Ok(Self::Binary),
            Some("application/json") => Ok(Self::Shorthand),
            _ => Err(unsupported()),
        }
    }
}

fn names_cloudevents(headers: &HeaderMap) -> bool {
    const PREFIX: &[u8] = b"application/cloudevents";
    let given = headers.get(header::CONTENT_TYPE);
    given
        .and_then(|given| given.as_bytes().get(..PREFIX.len()))
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// Reads what a request asks for, and refuses it whole if anything is wrong with it.
///
/// An `Idempotency-Key` is the id of an event that has none: the same key and source always give the
/// same id. An event's own id counts more than it. A batch with a key is refused: its events have ids
/// of their own already, and a client that makes new ones for every try would wait in vain for the key
/// to hold them together.
pub(super) async fn read(gateway: &Gateway, request: Request) -> Result<Read, Problem> {
    let (head, body) = request.into_parts();
    let (config, headers) = (&gateway.config, &head.headers);
    let mode = Mode::of(headers)?;
    let key = key::read(headers)?;
    if mode == Mode::Batch && key.is_some() {
        return Err(key::beside_batch().into());
    }
    let limit = match mode {
        Mode::Batch => config.max_batch_bytes,
        _ => config.max_event_bytes,
    };
    let body = body::read(gateway, headers, body, limit).await?;
    let received = body.clone();
    let incoming = match mode {
        Mode::Structured => structured(body, key, config.max_event_bytes),
        Mode::Shorthand => shorthand(body, key, &config.source, config.max_event_bytes),
        Mode::Batch => batch::read(&body, config.max_event_bytes).map(Incoming::Batch),
        Mode::Binary => {
            let event = binary::read(headers, &body, key)?;
            drop(body);
            within(event, config.max_event_bytes).map(Incoming::Named)
        }
    }?;
    let held = hold(&gateway.bodies, &incoming, received).inspect_err(|_| {
        gateway.limited.count(Limit::BODY_MEMORY);
    })?;
    Ok(Read { incoming, held })
}

/// Takes the memory of an event that was written anew; one that is a part of what was received has it already.
fn hold(bodies: &BodyMemory, incoming: &Incoming, received: Bytes) -> Result<Option<Held>, Problem> {
    let event = match incoming {
        Incoming::New(event) | Incoming::Named(event) | Incoming::WithCallback(event, _) => event.body(),
        Incoming::Batch(_) => return Ok(None),
    };
    if received.as_ptr_range().contains(&event.as_ptr()) {
        return Ok(None);
    }
    // The received body is no longer needed, and makes room.
    drop(received);
    bodies.hold(event.len()).map(Some)
}

/// Reads a batch where nothing else is expected, so that it may come as plain JSON.
pub(super) async fn batch(gateway: &Gateway, request: Request) -> Result<Vec<Event>, Problem> {
    let (head, body) = request.into_parts();
    let (config, headers) = (&gateway.config, &head.headers);
    match body::media_type(headers).as_deref() {
        Some("application/cloudevents-batch+json" | "application/json") => {}
        _ => {
            let detail =
                "the content type must be application/cloudevents-batch+json or application/json, in UTF-8";
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
    }
    if key::read(headers)?.is_some() {
        return Err(key::beside_batch().into());
    }
    let body = body::read(gateway, headers, body, config.max_batch_bytes).await?;
    batch::read(&body, config.max_event_bytes)
}

fn structured(body: Bytes, key: Option<&str>, limit: usize) -> Result<Incoming, Problem> {
    let body = match key {
        Some(key) => Event::with_key(body, key, "")?,
        None => body,
    };
    within(Event::parse(body)?, limit).map(Incoming::Named)
}

fn shorthand(body: Bytes, key: Option<&str>, source: &str, limit: usize) -> Result<Incoming, Problem> {
    if without_byte_order_mark(&body)
        .trim_ascii_start()
        .starts_with(b"[")
    {
        let problem = "must be one event: send several to POST /v1/batches, or here with the content type application/cloudevents-batch+json";
        return Err(Invalid::new("event", problem).into());
    }
    let body = match key {
        Some(key) => Event::with_key(body, key, source)?,
        None => body,
    };
    let fill = Fill {
        id: EventId::generate(),
        source: source.to_owned(),
        time: Timestamp::now(),
    };
    let (event, callback) = Event::complete_with_callback(body, &fill)?;
    let event = within(event, limit)?;
    if let Some(callback) = callback {
        let callback = Callback::read(&callback, &event, fill.time)?;
        return Ok(Incoming::WithCallback(event, Box::new(callback)));
    }
    Ok(match *event.id() == fill.id {
        true => Incoming::New(event),
        false => Incoming::Named(event),
    })
}

/// What was added counts too: deliverers have the same limit.
fn within(event: Event, limit: usize) -> Result<Event, Problem> {
    let size = event.body().len();
    if size <= limit {
        return Ok(event);
    }
    let detail = format!(
        "at most {limit} bytes are allowed, not {size}, as one JSON object with all attributes and the data"
    );
    Err(Problem::new(Kind::TooLarge, detail))
}

fn unsupported() -> Problem {
    Problem::new(
        Kind::UnsupportedMediaType,
        "the content type must be application/cloudevents+json (a whole event), application/cloudevents-batch+json (a list of them) or application/json (what is missing of id, source, time and specversion is filled in), in UTF-8; or any other, with the event's attributes as ce- headers",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(content_type: Option<&'static str>, with_attributes: bool) -> Option<Mode> {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        if with_attributes {
            headers.insert("ce-id", "1".parse().unwrap());
        }
        Mode::of(&headers).ok()
    }

    #[test]
    fn the_content_type_decides_first() {
        use Mode::{Batch, Binary, Shorthand, Structured};
        for (content_type, alone, with_attributes) in [
            ("application/cloudevents+json", Some(Structured), Some(Structured)),
            (
                "Application/CloudEvents+JSON; charset=UTF-8",
                Some(Structured),
                Some(Structured),
            ),
            ("application/cloudevents-batch+json", Some(Batch), Some(Batch)),
            ("application/json", Some(Shorthand), Some(Binary)),
            ("application/json; charset=latin1", None, Some(Binary)),
            ("text/plain", None, Some(Binary)),
            // CloudEvents' own, which must not pass for data.
            ("application/cloudevents+avro", None, None),
            ("application/cloudevents+json; charset=latin1", None, None),
            ("APPLICATION/cloudevents-batch", None, None),
        ] {
            assert_eq!(mode(Some(content_type), false), alone, "{content_type}");
            assert_eq!(mode(Some(content_type), true), with_attributes, "{content_type}");
        }
        assert_eq!((mode(None, false), mode(None, true)), (None, Some(Binary)));
    }

    #[test]
    fn an_event_that_is_written_anew_keeps_its_memory() {
        let gauge = prometheus::IntGauge::new("bytes", "Bytes.").unwrap();
        let read = |most, body: &str| {
            let memory = BodyMemory::new(most, gauge.clone());
            let mut received = memory.begin();
            received.extend(body.as_bytes()).unwrap();
            let received = received.whole();
            let incoming = shorthand(received.clone(), None, "/relay", 1_000).unwrap();
            let (Incoming::New(event) | Incoming::Named(event)) = &incoming else {
                panic!("one event");
            };
            let size = event.body().len();
            hold(&memory, &incoming, received).map(|held| (incoming, held, size))
        };
        let counted = |size: usize| gauge.get() == i64::try_from(size).unwrap();
        let new = read(1_000, r#"{"type":"a"}"#).unwrap();
        assert!(counted(new.2), "{} of {}", gauge.get(), new.2);
        drop(new);
        assert!(counted(0));
        let whole =
            r#"{"specversion":"1.0","id":"1","source":"/x","time":"2026-01-31T09:30:00Z","type":"a"}"#;
        let same = read(1_000, whole).unwrap();
        assert!(counted(whole.len()) && same.1.is_none(), "{}", gauge.get());
        drop(same);
        assert!(read(20, r#"{"type":"a"}"#).is_err());
        assert!(counted(0));
    }

    #[test]
    fn a_list_is_sent_where_lists_are_taken() {
        let Err(refused) = shorthand("\u{feff} [{}]".into(), None, "/relay", 1_000) else {
            panic!("a list");
        };
        assert!(refused.detail.contains("POST /v1/batches"), "{}", refused.detail);
    }

    #[test]
    fn only_an_id_of_the_relay_s_own_is_new() {
        let read = |body: &'static str, key| shorthand(body.into(), key, "/relay", 1_000).unwrap();
        assert!(matches!(read(r#"{"type":"a"}"#, None), Incoming::New(_)));
        let Incoming::Named(own) = read(r#"{"type":"a","id":"mine"}"#, None) else {
            panic!("an id of its own");
        };
        assert_eq!(own.id().as_str(), "mine");
        let Incoming::Named(keyed) = read(r#"{"type":"a"}"#, Some("k1")) else {
            panic!("an id by its key");
        };
        assert_eq!(keyed.id(), &EventId::of_key("/relay", "k1"));
        let whole = r#"{"specversion":"1.0","source":"/x","type":"a"}"#;
        let Ok(Incoming::Named(keyed)) = structured(whole.into(), Some("k1"), 1_000) else {
            panic!("an id by its key");
        };
        assert_eq!(keyed.id(), &EventId::of_key("/x", "k1"));
    }
}
