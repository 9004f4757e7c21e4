//! How events look on the wire. Properties of everything the relay publishes are built afresh:
//! nothing a producer put on a message (`CC`, `x-death`, `expiration` …) travels on.

mod encoding;
mod headers;

use std::time::Duration;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};
use relay_event::{
    DeadLetter, DeadReason, Death, Delay, DeliveryState, EndpointId, Event, History, Invalid, Standing,
    Timestamp,
};

use self::encoding::decoded;
use self::headers::{
    DEAD_AT, DETAIL, ENDPOINT, Earlier, PARTIAL, PUBLISHED_AT, REASON, X_DEATH, put_attributes, put_earlier,
    put_history, put_text, put_time,
};
use crate::{publisher::Outgoing, topology::Topology};

pub(crate) use self::headers::Headers;

const STRUCTURED: &str = "application/cloudevents+json";
const PERSISTENT: u8 = 2;

/// The longest detail of a dead letter, in bytes.
const DETAIL_CAP: usize = 4 * 1024;

/// An event's message, read.
#[derive(Debug)]
pub struct Received {
    /// The event, or why the message is none.
    pub event: Result<Event, Refused>,
    /// Its delivery's attempts so far.
    pub history: History,
    /// Set if it came by the exchange of events, which gave it to every endpoint that wants it.
    pub published: bool,
    /// Set if it came by the exchange of events and claims that the broker has moved it before. Such a message is
    /// given to the archive alone.
    pub claims_death: bool,
    /// The end that a redelivered event had before; `None` for other events.
    pub(crate) earlier: Option<Box<Earlier>>,
}

/// A message that is not what it should be, as it came.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong with it.
    pub why: Invalid,
    body: Bytes,
    content_type: Option<String>,
    content_encoding: Option<String>,
    attributes: Vec<(String, AMQPValue)>,
    /// Set if headers are missing.
    headers_cut: bool,
    /// The size of the whole body in bytes, if only its beginning is here.
    cut_from: Option<u64>,
    /// Set if RabbitMQ can move the message to the dead-letter queue. Before version 4 it believes the form of
    /// `x-death`, and a producer's forged one ends the process that moves those of all queues, again and again
    /// (`rabbit_dead_letter:update_x_death_header`, seen in 3.10.8).
    can_be_moved: bool,
}

impl Refused {
    /// An event that cannot be worked with although it is valid.
    pub fn event(event: &Event, why: Invalid) -> Self {
        Self {
            why,
            body: event.body().clone(),
            content_type: Some(STRUCTURED.to_owned()),
            content_encoding: None,
            attributes: Vec::new(),
            headers_cut: false,
            cut_from: None,
            can_be_moved: true,
        }
    }

    /// How many bytes the message has.
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// Tells whether only the beginning of its body is here.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut_from.is_some()
    }

    /// Tells whether the broker is to move it to the dead-letter queue: it has all of the body.
    pub(crate) fn is_for_the_broker(&self) -> bool {
        self.is_cut() && self.can_be_moved
    }

    pub(crate) fn message(delivery: &Delivery, why: Invalid) -> Self {
        Self::of(delivery, why, Bytes::copy_from_slice(&delivery.data))
    }

    fn of(delivery: &Delivery, why: Invalid, body: Bytes) -> Self {
        let headers = Headers::of(&delivery.properties);
        Self {
            why,
            body,
            content_type: content_type(delivery).map(str::to_owned),
            content_encoding: content_encoding(delivery).map(str::to_owned),
            attributes: headers.kept_attributes(),
            headers_cut: headers.cut().headers.is_some(),
            cut_from: headers.cut().body.map(|(bytes, _)| bytes),
            can_be_moved: true,
        }
    }
}

impl Received {
    /// Reads a message taken from an endpoint's queue, or from the archive.
    pub(crate) fn read(delivery: &mut Delivery, topology: &Topology, max_bytes: usize) -> Self {
        let headers = Headers::of(&delivery.properties);
        // Only what comes back from a delay is ours; anybody may publish to the events exchange.
        let returned = delivery.exchange.as_str() == topology.return_();
        let history = if returned {
            headers.history()
        } else {
            History {
                published_at: claimed_time(&delivery.properties, &headers, Timestamp::now()),
                ..History::default()
            }
        };
        let earlier = returned.then(|| headers.earlier()).flatten().map(Box::new);
        let body = Bytes::from(std::mem::take(&mut delivery.data));
        let published = delivery.exchange.as_str() == topology.events();
        let claims_death = published && headers.has(X_DEATH);
        let read = if returned {
            known(&body, delivery, &headers, max_bytes)
        } else {
            event(&body, delivery, &headers, max_bytes)
        };
        let event = read.and_then(|event| {
            let key = delivery.routing_key.as_str();
            if published && key != event.event_type().as_str() {
                let problem = format!(
                    "is {:?}, but the event was published with the routing key {key:?}",
                    event.event_type().as_str()
                );
                return Err(Invalid::new("type", problem));
            }
            Ok(event)
        });
        // On what comes back from a delay the broker has put its own.
        let may_be_forged = published && (headers.cut().headers.is_some() || headers.has(X_DEATH));
        let event = event.map_err(|why| Refused {
            can_be_moved: !may_be_forged,
            ..Refused::of(delivery, why, body)
        });
        delivery.properties = BasicProperties::default(); // read, and not to be held until it is settled
        Self {
            event,
            history,
            published,
            claims_death,
            earlier,
        }
    }
}

/// The event that a message is. Its headers are asked for attributes in binary mode only.
fn event(
    body: &Bytes,
    delivery: &Delivery,
    headers: &Headers<'_>,
    max_bytes: usize,
) -> Result<Event, Invalid> {
    if let Some(why) = headers.cut().refusal() {
        return Err(why);
    }
    check_size(body.len(), max_bytes)?;
    let body = decoded(body, content_encoding(delivery), max_bytes)?;
    let content_type = content_type(delivery);
    if is_structured(content_type) {
        return Event::parse(body);
    }
    let attributes = headers.event_attributes()?;
    if attributes.is_empty() {
        let problem = format!("is neither structured (content type {STRUCTURED}) nor binary (`ce-` headers)");
        return Err(Invalid::new("event", problem));
    }
    let event = Event::from_binary(attributes, content_type, &body)?;
    check_size(event.body().len(), max_bytes)?;
    Ok(event)
}

/// An event that was let in before, perhaps by a version with other rules or a greater limit.
fn known(
    body: &Bytes,
    delivery: &Delivery,
    headers: &Headers<'_>,
    max_bytes: usize,
) -> Result<Event, Invalid> {
    if has_our_form(delivery, headers) {
        return Event::reread(body.clone());
    }
    event(body, delivery, headers, max_bytes)
}

/// Tells whether the relay itself may have published the message: it publishes events in structured mode and
/// unpacked.
fn has_our_form(delivery: &Delivery, headers: &Headers<'_>) -> bool {
    let as_published = content_encoding(delivery).is_some() || headers.cut().refusal().is_some();
    !as_published && is_structured(content_type(delivery))
}

fn is_structured(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|given| given.to_ascii_lowercase().starts_with(STRUCTURED))
}

fn check_size(bytes: usize, max_bytes: usize) -> Result<(), Invalid> {
    if bytes <= max_bytes {
        return Ok(());
    }
    let problem = format!("is {bytes} bytes; at most {max_bytes} are allowed");
    Err(Invalid::new("event", problem))
}

/// The furthest that a time which a producer claims may be ahead of now.
const AHEAD: Duration = Duration::from_secs(60);
/// The furthest that it may be behind now.
const BEHIND: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Returns the time at which an event was published, as its producer says. A time that is more than a minute
/// ahead, or older than the log is kept by default, is ignored, as if there were no such header.
fn claimed_time(properties: &BasicProperties, headers: &Headers<'_>, now: Timestamp) -> Option<Timestamp> {
    published_at(properties, headers).filter(|at| now.since(*at) <= BEHIND && at.since(now) <= AHEAD)
}

/// The moment in a message of the relay's own.
fn published_at(properties: &BasicProperties, headers: &Headers<'_>) -> Option<Timestamp> {
    let seconds = || i64::try_from((*properties.timestamp())?).ok()?.checked_mul(1000);
    Timestamp::from_millis(headers.integer(PUBLISHED_AT).or_else(seconds)?)
}

/// An event on its way in.
pub(crate) fn publish(topology: &Topology, event: &Event, now: Timestamp) -> Outgoing {
    let mut headers = FieldTable::default();
    put_time(&mut headers, PUBLISHED_AT, Some(now));
    Outgoing {
        exchange: topology.events(),
        routing_key: event.event_type().to_string(),
        properties: event_properties(event, headers),
        body: event.body().clone(),
        mandatory: true,
    }
}

/// An event on its way to wait for its next attempt.
pub(crate) fn retry(
    topology: &Topology,
    delay: Delay,
    endpoint: &EndpointId,
    event: &Event,
    history: &History,
) -> Outgoing {
    let mut headers = FieldTable::default();
    put_history(&mut headers, history);
    Outgoing {
        exchange: topology.retry(delay),
        routing_key: endpoint.to_string(),
        properties: event_properties(event, headers),
        body: event.body().clone(),
        mandatory: true,
    }
}

/// A message that is given up.
pub(crate) fn dead(
    topology: &Topology,
    endpoint: &EndpointId,
    message: &Received,
    history: &History,
    reason: DeadReason,
    now: Timestamp,
) -> Outgoing {
    let mut headers = FieldTable::default();
    put_history(&mut headers, history);
    if let Some(earlier) = &message.earlier {
        put_earlier(&mut headers, earlier);
    }
    put_text(&mut headers, ENDPOINT, endpoint.as_str());
    put_text(&mut headers, REASON, reason.as_str());
    put_time(&mut headers, DEAD_AT, Some(now));
    match &message.event {
        Ok(event) => to_dead(topology, event_properties(event, headers), event.body()),
        Err(refused) => refused_to_dead(topology, refused, headers),
    }
}

/// A message to the log that is none.
pub(crate) fn set_aside(
    topology: &Topology,
    refused: &Refused,
    reason: DeadReason,
    now: Timestamp,
) -> Outgoing {
    let mut headers = FieldTable::default();
    put_text(&mut headers, REASON, reason.as_str());
    put_time(&mut headers, DEAD_AT, Some(now));
    refused_to_dead(topology, refused, headers)
}

fn refused_to_dead(topology: &Topology, refused: &Refused, mut headers: FieldTable) -> Outgoing {
    let mut detail = refused.why.to_string();
    if let Some(bytes) = refused.cut_from {
        let kept = refused.body.len();
        detail += &format!("; the first {kept} of its {bytes} bytes are kept here");
    }
    // In structured mode no header says anything of the event.
    let is_partial = refused.headers_cut && !is_structured(refused.content_type.as_deref());
    if refused.is_cut() || is_partial {
        headers.insert(PARTIAL.into(), AMQPValue::Boolean(true));
    }
    detail.truncate(detail.floor_char_boundary(DETAIL_CAP));
    put_text(&mut headers, DETAIL, &detail);
    put_attributes(&mut headers, &refused.attributes);
    let mut properties = properties(refused.content_type.as_deref(), headers);
    if let Some(encoding) = &refused.content_encoding {
        properties = properties.with_content_encoding(encoding.as_str().into());
    }
    to_dead(topology, properties, &refused.body)
}

fn to_dead(topology: &Topology, properties: BasicProperties, body: &Bytes) -> Outgoing {
    Outgoing {
        exchange: topology.dead(),
        routing_key: String::new(),
        properties,
        body: body.clone(),
        mandatory: true,
    }
}

/// An event on its way to one endpoint once more, with its schedule begun anew at `run`; of a dead letter,
/// with the facts of that.
pub(crate) fn redeliver(
    topology: &Topology,
    endpoint: &EndpointId,
    event: &Event,
    run: Timestamp,
    letter: Option<&DeadLetter>,
) -> Outgoing {
    let mut headers = FieldTable::default();
    put_time(&mut headers, PUBLISHED_AT, Some(run));
    if let Some(letter) = letter {
        put_earlier(&mut headers, &Earlier::of(letter));
    }
    Outgoing {
        exchange: topology.return_(),
        routing_key: endpoint.to_string(),
        properties: event_properties(event, headers),
        body: event.body().clone(),
        mandatory: true,
    }
}

/// The delivery that a dead letter ends; `None` if it is of none.
pub(crate) fn death(letter: Letter, now: Timestamp) -> Option<Death> {
    let Letter {
        facts, event, run, ..
    } = letter;
    let event = event.ok()?;
    let error = facts.last_error.as_deref();
    Some(Death {
        event_id: event.id().clone(),
        event_source: event.source().to_owned(),
        endpoint: facts.endpoint?,
        standing: Standing {
            run: run.unwrap_or_default(),
            attempts: facts.attempts,
            state: DeliveryState::Dead,
            at: facts.dead_at.unwrap_or(now),
            next_at: None,
            reason: Some(facts.reason),
            status: facts.last_status,
            // The class, and then perhaps the error in words.
            error: error.and_then(|error| error.split(':').next()?.parse().ok()),
        },
    })
}

/// A message in the dead-letter queue, read.
pub(crate) struct Letter {
    pub(crate) facts: DeadLetter,
    /// The event, or why there is none.
    pub(crate) event: Result<Event, Invalid>,
    /// The run of the schedule that ended here: when that began, if it is known.
    pub(crate) run: Option<Timestamp>,
    /// Set if the time to live that its producer set is over, which says nothing about the event.
    pub(crate) outlived: bool,
    /// The size of the event in bytes, if it is larger than is allowed and was never let in.
    pub(crate) too_large: Option<u64>,
    /// The size of the whole body in bytes, if this process has only its beginning.
    pub(crate) cut_from: Option<u64>,
}

/// The death that the broker noted by itself on a message of an endpoint's queue.
struct ByBroker {
    endpoint: EndpointId,
    reason: DeadReason,
    detail: Option<String>,
    /// Set if the message is as its producer published it, so that no header in it is the relay's. Otherwise a
    /// producer may have forged the entry.
    published: bool,
    outlived: bool,
    at: Option<Timestamp>,
}

fn by_broker(headers: &Headers<'_>, topology: &Topology, bytes: usize) -> Option<ByBroker> {
    let died = headers.death()?;
    let endpoint = topology.endpoint_of(died.queue)?;
    let outlived = died.reason == "expired";
    let (reason, detail) = match died.reason {
        // Returned to the queue more often than that allows.
        "delivery_limit" => (DeadReason::DeliveryLimit, None),
        "expired" => {
            let digits = |text: &&str| text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit());
            let expiration = died.expiration.filter(digits).unwrap_or("some");
            (
                DeadReason::Expired,
                Some(format!("its producer set an expiration of {expiration} ms")),
            )
        }
        // A deliverer wrote it that did not take the whole message.
        "rejected" => {
            let why = headers.cut().refusal().map(|why| why.to_string());
            let small = || format!("event: is {bytes} bytes, too large for the deliverer");
            (DeadReason::InvalidEvent, Some(why.unwrap_or_else(small)))
        }
        _ => return None,
    };
    Some(ByBroker {
        endpoint,
        reason,
        detail,
        // RabbitMQ up to 3.13 keeps the exchange of an entry that is there already, and a producer may have put
        // it there. The relay itself sets no expiration.
        published: outlived || died.exchange == topology.events(),
        outlived,
        at: died.at,
    })
}

/// Tells whether the event of a dead letter was let in before: its delivery was tried, or could have been.
fn was_let_in(delivery: &Delivery, topology: &Topology, by_us: Option<DeadReason>) -> bool {
    use DeadReason::{AttemptsExhausted, EndpointGone, EndpointRemoved, Expired};
    let tried = matches!(
        by_us,
        Some(AttemptsExhausted | Expired | EndpointRemoved | EndpointGone)
    );
    tried || delivery.exchange.as_str() == topology.return_()
}

/// A moment that the relay wrote, or a producer forged: within the bounds of [`claimed_time`].
fn bounded(at: Timestamp, now: Timestamp) -> Timestamp {
    let behind = i64::try_from(BEHIND.as_millis()).unwrap_or(i64::MAX);
    let earliest = Timestamp::from_millis(now.as_millis().saturating_sub(behind)).unwrap_or_default();
    at.clamp(earliest, now + AHEAD)
}

fn bounded_history(history: History, now: Timestamp) -> History {
    let bounded = |at: Option<Timestamp>| at.map(|at| bounded(at, now));
    History {
        first_attempt: bounded(history.first_attempt),
        last_attempt: bounded(history.last_attempt),
        published_at: bounded(history.published_at),
        ..history
    }
}

/// Reads a message in the dead-letter queue, however it came there. An event of any size is read, for limits
/// may have been greater; one of more than `max_bytes` that was never let in says so.
pub(crate) fn letter(delivery: &Delivery, topology: &Topology, max_bytes: usize) -> Letter {
    let now = Timestamp::now();
    let headers = Headers::of(&delivery.properties);
    let by_broker = by_broker(&headers, topology, delivery.data.len());
    let by_us = headers.text(REASON).and_then(|reason| reason.parse().ok());
    let published = by_broker.as_ref().is_some_and(|died| died.published);
    // Any of this may be forged where the broker moved it.
    let bounded_history = |history| match by_broker {
        Some(_) => bounded_history(history, now),
        None => history,
    };
    let mut history = if published {
        History {
            published_at: claimed_time(&delivery.properties, &headers, now),
            ..History::default()
        }
    } else {
        bounded_history(History {
            published_at: published_at(&delivery.properties, &headers),
            ..headers.history()
        })
    };
    // A delivery that was redelivered and never attempted has ended as before.
    let earlier = headers.earlier().filter(|_| !published && history.attempts == 0);
    let (mut earlier_reason, mut earlier_death) = (None, None);
    if let Some(earlier) = earlier {
        (earlier_reason, earlier_death) = (earlier.reason, earlier.dead_at);
        history = History {
            published_at: history.published_at,
            ..bounded_history(earlier.history)
        };
    }
    let body = Bytes::copy_from_slice(&delivery.data);
    let let_in = by_broker.is_none() && was_let_in(delivery, topology, by_us);
    let event = if !published && headers.has(PARTIAL) {
        Err(Invalid::new("event", "is kept in part only"))
    } else if let_in {
        known(&body, delivery, &headers, usize::MAX)
    } else {
        event(&body, delivery, &headers, usize::MAX)
    };
    let size = event.as_ref().map_or(0, |event| event.body().len());
    let too_large = size > max_bytes && !(let_in && has_our_form(delivery, &headers));
    let outlived = by_broker.as_ref().is_some_and(|died| died.outlived);
    let mut dead_at = headers
        .time(DEAD_AT)
        .or_else(|| headers.death()?.at)
        .or(earlier_death);
    let (reason, endpoint, detail) = match (by_broker, by_us) {
        (Some(died), _) => {
            dead_at = died.at;
            (died.reason, Some(died.endpoint), died.detail)
        }
        (None, Some(reason)) => {
            let endpoint = headers.text(ENDPOINT).and_then(|id| id.parse().ok());
            (reason, endpoint, headers.text(DETAIL).map(str::to_owned))
        }
        // By the return exchange's alternate: its endpoint's queue is no more.
        _ if delivery.exchange.as_str() == topology.return_() => (
            DeadReason::EndpointRemoved,
            delivery.routing_key.as_str().parse().ok(),
            None,
        ),
        _ => {
            let why = headers.cut().refusal().map(|why| why.to_string());
            let own = || "was not put here by the relay".to_owned();
            (DeadReason::InvalidEvent, None, Some(why.unwrap_or_else(own)))
        }
    };
    let before = || earlier_reason.map(|reason| format!("was {reason} before it was redelivered"));
    let mut detail = detail.or_else(before);
    if let (Some(detail), true, true) = (&mut detail, outlived, too_large) {
        *detail += &format!("; the event has {size} bytes; at most {max_bytes} are allowed");
    }
    let (event_id, event_type) = match &event {
        Ok(event) => (Some(event.id().to_string()), Some(event.event_type().to_string())),
        Err(_) => (headers.attribute("id"), headers.attribute("type")),
    };
    Letter {
        facts: DeadLetter {
            reason,
            detail,
            endpoint,
            event_id,
            event_type,
            attempts: history.attempts,
            first_attempt: history.first_attempt,
            last_attempt: history.last_attempt,
            last_status: history.last_status,
            last_error: history.last_error,
            dead_at,
        },
        event,
        run: history.published_at,
        outlived,
        too_large: too_large.then_some(size as u64),
        cut_from: headers.cut().body.map(|(bytes, _)| bytes),
    }
}

fn content_type(delivery: &Delivery) -> Option<&str> {
    let content_type = delivery.properties.content_type().as_ref();
    content_type.map(ShortString::as_str)
}

fn content_encoding(delivery: &Delivery) -> Option<&str> {
    let encoding = delivery.properties.content_encoding().as_ref();
    encoding.map(ShortString::as_str)
}

/// The message's id is the one that receivers know the event by, unless it is longer than AMQP allows.
fn event_properties(event: &Event, headers: FieldTable) -> BasicProperties {
    let properties = properties(Some(STRUCTURED), headers).with_type(event.event_type().as_str().into());
    match ShortString::try_new(event.webhook_id().as_str()) {
        Ok(id) => properties.with_message_id(id),
        Err(_) => properties,
    }
}

/// The allow-list: nothing else is ever set.
fn properties(content_type: Option<&str>, headers: FieldTable) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_headers(headers);
    match content_type {
        Some(content_type) => properties.with_content_type(content_type.into()),
        None => properties,
    }
}

/// A plain message of the relay's own, such as a batch of attempts.
pub(crate) fn own_properties(content_type: &str) -> BasicProperties {
    properties(Some(content_type), FieldTable::default())
}

#[cfg(test)]
mod tests;
