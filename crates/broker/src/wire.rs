//! How events look on the wire. Properties of everything the relay publishes are built afresh:
//! nothing a producer put on a message (`CC`, `x-death`, `expiration` …) travels on.

mod headers;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{FieldTable, ShortString},
};
use relay_event::{
    DeadLetter, DeadReason, Death, Delay, DeliveryState, EndpointId, Event, History, Invalid, Standing,
    Timestamp,
};

use self::headers::{
    DEAD_AT, DETAIL, Died, ENDPOINT, PUBLISHED_AT, REASON, put_attributes, put_history, put_text, put_time,
};
use crate::{publisher::Outgoing, topology::Topology};

pub(crate) use self::headers::Headers;

const STRUCTURED: &str = "application/cloudevents+json";
const PERSISTENT: u8 = 2;

/// An event's message, read.
#[derive(Debug)]
pub struct Received {
    /// The event, or why the message is none.
    pub event: Result<Event, Refused>,
    /// Its delivery's attempts so far.
    pub history: History,
    /// Whether it came by the exchange of events, which gave it to every endpoint that wants it.
    pub published: bool,
}

/// A message that is not what it should be, as it came.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong with it.
    pub why: Invalid,
    body: Bytes,
    content_type: Option<String>,
    attributes: Vec<(String, String)>,
}

impl Refused {
    /// An event that cannot be worked with although it is valid.
    pub fn event(event: &Event, why: Invalid) -> Self {
        Self {
            why,
            body: event.body().clone(),
            content_type: Some(STRUCTURED.to_owned()),
            attributes: Vec::new(),
        }
    }

    /// How many bytes the message has.
    pub fn size(&self) -> usize {
        self.body.len()
    }

    pub(crate) fn message(delivery: &Delivery, why: Invalid) -> Self {
        Self {
            why,
            body: Bytes::copy_from_slice(&delivery.data),
            content_type: content_type(delivery).map(str::to_owned),
            attributes: Headers::of(&delivery.properties).attributes(),
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
                published_at: published_at(&delivery.properties, &headers),
                ..History::default()
            }
        };
        let body = Bytes::from(std::mem::take(&mut delivery.data));
        let content_type = content_type(delivery).map(str::to_owned);
        let attributes = headers.attributes();
        let published = delivery.exchange.as_str() == topology.events();
        let read = if returned {
            known(&body, content_type.as_deref(), &attributes)
        } else {
            event(&body, content_type.as_deref(), &attributes, max_bytes)
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
        let event = event.map_err(|why| Refused {
            why,
            body,
            content_type,
            attributes,
        });
        delivery.properties = BasicProperties::default(); // read, and not to be held until it is settled
        Self {
            event,
            history,
            published,
        }
    }
}

fn event(
    body: &Bytes,
    content_type: Option<&str>,
    attributes: &[(String, String)],
    max_bytes: usize,
) -> Result<Event, Invalid> {
    check_size(body.len(), max_bytes)?;
    if is_structured(content_type) {
        return Event::parse(body.clone());
    }
    if attributes.is_empty() {
        let problem = format!("is neither structured (content type {STRUCTURED}) nor binary (`ce-` headers)");
        return Err(Invalid::new("event", problem));
    }
    let event = Event::from_binary(attributes.to_vec(), content_type, body)?;
    check_size(event.body().len(), max_bytes)?;
    Ok(event)
}

/// An event that was let in before, perhaps by a version with other rules. The relay publishes it in
/// structured mode.
fn known(
    body: &Bytes,
    content_type: Option<&str>,
    attributes: &[(String, String)],
) -> Result<Event, Invalid> {
    if is_structured(content_type) {
        return Event::reread(body.clone());
    }
    event(body, content_type, attributes, usize::MAX)
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

pub(crate) fn published_at(properties: &BasicProperties, headers: &Headers<'_>) -> Option<Timestamp> {
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
    message: &Result<Event, Refused>,
    history: &History,
    reason: DeadReason,
    now: Timestamp,
) -> Outgoing {
    let mut headers = FieldTable::default();
    put_history(&mut headers, history);
    put_text(&mut headers, ENDPOINT, endpoint.as_str());
    put_text(&mut headers, REASON, reason.as_str());
    put_time(&mut headers, DEAD_AT, Some(now));
    match message {
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
    put_text(&mut headers, DETAIL, &refused.why.to_string());
    put_attributes(&mut headers, &refused.attributes);
    let properties = properties(refused.content_type.as_deref(), headers);
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

/// An event on its way to one endpoint once more, with its schedule begun anew at `run`.
pub(crate) fn redeliver(
    topology: &Topology,
    endpoint: &EndpointId,
    event: &Event,
    run: Timestamp,
) -> Outgoing {
    let mut headers = FieldTable::default();
    put_time(&mut headers, PUBLISHED_AT, Some(run));
    Outgoing {
        exchange: topology.return_(),
        routing_key: endpoint.to_string(),
        properties: event_properties(event, headers),
        body: event.body().clone(),
        mandatory: true,
    }
}

/// The delivery that a dead letter ends; `None` if it is of none.
pub(crate) fn death(delivery: &Delivery, topology: &Topology, now: Timestamp) -> Option<Death> {
    let letter = dead_letter(delivery, topology);
    let headers = Headers::of(&delivery.properties);
    let event = event_of_letter(delivery, &headers, topology).ok()?;
    let error = letter.last_error.as_deref();
    Some(Death {
        event_id: event.id().clone(),
        event_source: event.source().to_owned(),
        endpoint: letter.endpoint?,
        standing: Standing {
            run: published_at(&delivery.properties, &headers).unwrap_or_default(),
            attempts: letter.attempts,
            state: DeliveryState::Dead,
            at: letter.dead_at.unwrap_or(now),
            next_at: None,
            reason: Some(letter.reason),
            status: letter.last_status,
            // The class, and then perhaps the error in words.
            error: error.and_then(|error| error.split(':').next()?.parse().ok()),
        },
    })
}

/// Reads the facts of a message in the dead-letter queue, however it came there.
pub(crate) fn dead_letter(delivery: &Delivery, topology: &Topology) -> DeadLetter {
    let headers = Headers::of(&delivery.properties);
    let died = headers.death();
    let history = headers.history();
    let event = event_of_letter(delivery, &headers, topology);
    let by_us = headers.text(REASON).and_then(|reason| reason.parse().ok());
    let (reason, endpoint, detail) = match (died.as_ref(), by_us) {
        // The broker's own: returned to an endpoint's queue more often than it allows.
        (
            Some(Died {
                reason: "delivery_limit",
                queue,
                ..
            }),
            _,
        ) => (DeadReason::DeliveryLimit, topology.endpoint_of(queue), None),
        (_, Some(reason)) => {
            let endpoint = headers.text(ENDPOINT).and_then(|id| id.parse().ok());
            (reason, endpoint, headers.text(DETAIL).map(str::to_owned))
        }
        // By the return exchange's alternate: its endpoint's queue is no more.
        _ if delivery.exchange.as_str() == topology.return_() => (
            DeadReason::EndpointRemoved,
            delivery.routing_key.as_str().parse().ok(),
            None,
        ),
        _ => (
            DeadReason::InvalidEvent,
            None,
            Some("was not put here by the relay".to_owned()),
        ),
    };
    let (event_id, event_type) = match &event {
        Ok(event) => (Some(event.id().to_string()), Some(event.event_type().to_string())),
        Err(_) => (headers.attribute("id"), headers.attribute("type")),
    };
    DeadLetter {
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
        dead_at: headers.time(DEAD_AT).or(died.and_then(|death| death.at)),
    }
}

/// The event in a dead letter, whatever its size. Of a delivery that was tried, or could have been, it was
/// let in before.
pub(crate) fn event_of_letter(
    delivery: &Delivery,
    headers: &Headers<'_>,
    topology: &Topology,
) -> Result<Event, Invalid> {
    use DeadReason::{AttemptsExhausted, EndpointGone, EndpointRemoved, Expired};
    let reason = headers.text(REASON).and_then(|reason| reason.parse().ok());
    let was_let_in = matches!(
        reason,
        Some(AttemptsExhausted | Expired | EndpointRemoved | EndpointGone)
    ) || delivery.exchange.as_str() == topology.return_();
    let body = Bytes::copy_from_slice(&delivery.data);
    let (content_type, attributes) = (content_type(delivery), headers.attributes());
    if was_let_in {
        return known(&body, content_type, &attributes);
    }
    event(&body, content_type, &attributes, usize::MAX)
}

fn content_type(delivery: &Delivery) -> Option<&str> {
    let content_type = delivery.properties.content_type().as_ref();
    content_type.map(ShortString::as_str)
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
