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
    BlindMatch, DeadLetter, DeadReason, Death, Delay, DeliveryState, EndpointId, Event, History, Hold,
    HoldReason, Invalid, Standing, Timestamp,
};

use self::encoding::decoded;
use self::headers::{
    DEAD_AT, DETAIL, ENDPOINT, Earlier, HOP, PARTIAL, PUBLISHED_AT, REASON, RUN, VERSION, X_DEATH,
    put_attributes, put_earlier, put_history, put_text, put_time, put_wire_version,
};
use crate::{
    Queue,
    batches::RECORDS_CONTENT_TYPE,
    dispatch,
    publisher::Outgoing,
    topology::{Topology, moves_to},
};

pub(crate) use self::headers::Headers;

pub(crate) const STRUCTURED: &str = "application/cloudevents+json";
const PERSISTENT: u8 = 2;

/// The content type of the record of a match that was made without the store.
pub(crate) const BLIND_MATCH: &str = "application/vnd.relay.blind-match+json";

/// The age up to which an event is surely in the log if its copy has come there: no log forgets sooner.
const NEW: Duration = Duration::from_secs(60);

/// The longest detail of a dead letter, in bytes.
const DETAIL_CAP: usize = 4 * 1024;

/// The way by which a message came to where it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// By the exchange of events: its other copy is on its way to the log, or to the endpoints.
    Published,
    /// The same, and the time to live that its producer set was over before it was taken.
    Expired,
    /// The same, and it was returned to its queue again and again, or rejected because it is too large.
    Returned,
    /// By the exchange of events, to nobody but the taker: it claims that a broker has moved it before.
    Suspect,
    /// From a delay, or by a replay or a redelivery: to one endpoint.
    Again,
    /// From the dispatcher: to one endpoint.
    Dispatch,
    /// Somebody put it into the queue by another way. It went nowhere else.
    Other,
}

impl Arrival {
    /// Tells whether the event is for all endpoints that want it, and its copy in the log or on its way there.
    pub fn is_published(self) -> bool {
        matches!(self, Self::Published | Self::Expired | Self::Returned)
    }

    fn of(queue: Queue, delivery: &Delivery, headers: &Headers<'_>, topology: &Topology) -> Self {
        let exchange = delivery.exchange.as_str();
        let by = |name: String| exchange == name;
        match queue {
            Queue::Work | Queue::Archive if by(topology.events()) => Self::Published,
            Queue::Suspects if by(topology.events()) => Self::Suspect,
            Queue::WorkLate | Queue::ArchiveLate if by(topology.queue(queue)) => match headers.death() {
                Some(died) if died.reason == "expired" => Self::Expired,
                _ => Self::Returned,
            },
            Queue::Again if by(topology.return_()) => Self::Again,
            Queue::Dispatch if by(topology.dispatch()) => Self::Dispatch,
            _ => Self::Other,
        }
    }
}

/// One event of a message, read.
#[derive(Debug)]
pub struct Received {
    /// The event, or why the message is none. Of what is addressed to an endpoint, the endpoint is known with the
    /// event.
    pub event: Result<Event, Box<Refused>>,
    /// The way by which it came.
    pub arrival: Arrival,
    /// The endpoint that it is addressed to; `None` for all that want it.
    pub endpoint: Option<EndpointId>,
    /// The time at which the event was published, if it is known.
    pub published_at: Option<Timestamp>,
    /// The number of times that the delivery was held and claimed.
    pub hop: u32,
    /// The attempts so far, and the run of the schedule that they belong to.
    pub history: History,
    /// The end that a redelivered event had before; `None` for other events.
    pub(crate) earlier: Option<Box<Earlier>>,
    /// Set if it was held because its message was returned too often; see [`crate::Dispatched::alone`].
    pub(crate) alone: bool,
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
    /// The endpoint that it was addressed to.
    endpoint: Option<EndpointId>,
    /// The time at which its event was published, if it was on its way to an endpoint and that is known.
    published_at: Option<Timestamp>,
    /// The attempts so far, if it was on its way to an endpoint.
    history: History,
    /// Set if its queue moves what is rejected, and RabbitMQ can move this message. Before version 4 it believes
    /// the form of `x-death`, and a producer's forged one ends the process that moves those of all queues, again
    /// and again (`rabbit_dead_letter:update_x_death_header`, seen in 3.10.8).
    can_be_moved: bool,
}

impl Refused {
    /// An event that cannot be worked with although it is valid.
    pub fn event(event: &Event, why: Invalid) -> Self {
        Self::plain(why, event.body().clone(), STRUCTURED)
    }

    /// A held delivery that cannot be recorded: its event, addressed to its endpoint, or the record itself if it
    /// does not carry the event.
    pub fn hold(hold: &Hold, why: Invalid) -> Self {
        let (body, content_type) = match &hold.event {
            Some(event) => (event.clone().into_bytes(), STRUCTURED),
            None => (
                serde_json::to_vec(hold).expect("a record is plain data"),
                RECORDS_CONTENT_TYPE,
            ),
        };
        Self {
            endpoint: Some(hold.endpoint.clone()),
            published_at: hold.published_at,
            history: hold.history.clone(),
            ..Self::plain(why, body.into(), content_type)
        }
    }

    /// A body without anything beside it.
    fn plain(why: Invalid, body: Bytes, content_type: &str) -> Self {
        Self {
            why,
            body,
            content_type: Some(content_type.to_owned()),
            content_encoding: None,
            attributes: Vec::new(),
            headers_cut: false,
            cut_from: None,
            endpoint: None,
            published_at: None,
            history: History::default(),
            can_be_moved: false,
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

    /// Tells whether the broker is to move it on its way to the dead-letter queue: it has all of the body.
    pub(crate) fn is_for_the_broker(&self) -> bool {
        self.is_cut() && self.can_be_moved
    }

    pub(crate) fn message(delivery: &Delivery, why: Invalid) -> Self {
        Self::of(delivery, why, Bytes::copy_from_slice(&delivery.data))
    }

    /// A message of [`Queue::Holds`] or [`Queue::BlindMatches`] that is no record. The broker moves what is rejected there, unless somebody has
    /// published it with a death of its own, which may have a wrong form.
    pub(crate) fn record(delivery: &Delivery, why: Invalid) -> Self {
        let headers = Headers::of(&delivery.properties);
        Self {
            can_be_moved: !may_have_a_death(&headers),
            ..Self::message(delivery, why)
        }
    }

    /// A message that was addressed to an endpoint, from a queue that moves what is rejected.
    fn of_own(delivery: &Delivery, why: Invalid, body: Bytes, endpoint: Option<EndpointId>) -> Self {
        let headers = Headers::of(&delivery.properties);
        Self {
            endpoint,
            published_at: headers.time(PUBLISHED_AT),
            history: headers.history(),
            can_be_moved: true,
            ..Self::of(delivery, why, body)
        }
    }

    /// One event of a batch.
    fn part(why: Invalid, body: Bytes, endpoint: EndpointId, head: &dispatch::Head) -> Self {
        Self {
            endpoint: Some(endpoint),
            published_at: head.published_at,
            history: head.history.clone(),
            ..Self::plain(why, body, STRUCTURED)
        }
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
            endpoint: None,
            published_at: None,
            history: History::default(),
            can_be_moved: false,
        }
    }
}

/// Tells whether the message has a death, or may have had one among the headers that are missing.
fn may_have_a_death(headers: &Headers<'_>) -> bool {
    headers.cut().headers.is_some() || headers.has(X_DEATH)
}

impl Received {
    /// Reads a message that is one event.
    pub(crate) fn read(delivery: &mut Delivery, queue: Queue, topology: &Topology, max_bytes: usize) -> Self {
        let headers = Headers::of(&delivery.properties);
        let arrival = Arrival::of(queue, delivery, &headers, topology);
        if arrival == Arrival::Again {
            return Self::read_addressed(delivery, max_bytes);
        }
        // Whoever published it, no header of it is the relay's.
        let published_at = claimed_time(&delivery.properties, &headers, Timestamp::now());
        let body = Bytes::from(std::mem::take(&mut delivery.data));
        let read = event(&body, delivery, &headers, max_bytes).and_then(|event| {
            let key = delivery.routing_key.as_str();
            if arrival != Arrival::Other && key != event.event_type().as_str() {
                let problem = format!(
                    "is {:?}, but the event was published with the routing key {key:?}",
                    event.event_type().as_str()
                );
                return Err(Invalid::new("type", problem));
            }
            Ok(event)
        });
        // Only what passed the guard has no death but the broker's own.
        let may_be_forged = !arrival.is_published() && may_have_a_death(&headers);
        let refused = |why| Refused {
            can_be_moved: moves_to(queue).is_some() && !may_be_forged,
            ..Refused::of(delivery, why, body)
        };
        let event = read.map_err(|why| Box::new(refused(why)));
        delivery.properties = BasicProperties::default(); // read, and not to be held until it is settled
        Self {
            event,
            arrival,
            endpoint: None,
            published_at,
            hop: 0,
            history: History {
                run: published_at,
                ..History::default()
            },
            earlier: None,
            alone: false,
        }
    }

    /// Reads an event of the relay's own, on its way to one endpoint.
    pub(crate) fn read_addressed(delivery: &mut Delivery, max_bytes: usize) -> Self {
        let headers = Headers::of(&delivery.properties);
        let body = Bytes::from(std::mem::take(&mut delivery.data));
        let endpoint = headers.check_wire_version().and_then(|()| headers.endpoint());
        let addressed = endpoint.as_ref().ok().cloned();
        let read = endpoint.and_then(|_| known(&body, delivery, &headers, max_bytes));
        let refused = |why| Refused::of_own(delivery, why, body, addressed.clone());
        let received = Self {
            event: read.map_err(|why| Box::new(refused(why))),
            arrival: Arrival::Again,
            endpoint: addressed,
            published_at: headers.time(PUBLISHED_AT),
            hop: headers.count(HOP),
            history: headers.history(),
            earlier: headers.earlier().map(Box::new),
            alone: false,
        };
        delivery.properties = BasicProperties::default();
        received
    }

    /// Reads a batch of held deliveries, which somebody may have put into the queue by another way.
    pub(crate) fn read_batch(
        delivery: &mut Delivery,
        queue: Queue,
        topology: &Topology,
    ) -> Result<Vec<Self>, Box<Refused>> {
        let headers = Headers::of(&delivery.properties);
        match Arrival::of(queue, delivery, &headers, topology) {
            Arrival::Dispatch => Self::read_addressed_batch(delivery),
            _ => {
                let why = Invalid::new("exchange", "is not the one of the relay's dispatcher");
                Err(Box::new(Refused::message(delivery, why)))
            }
        }
    }

    /// Reads a batch of held deliveries.
    pub(crate) fn read_addressed_batch(delivery: &mut Delivery) -> Result<Vec<Self>, Box<Refused>> {
        let headers = Headers::of(&delivery.properties);
        let body = Bytes::from(std::mem::take(&mut delivery.data));
        let endpoint = check_own(delivery).and_then(|()| headers.endpoint());
        let addressed = endpoint.as_ref().ok().cloned();
        let read = endpoint.and_then(|endpoint| Ok((endpoint, dispatch::read(&body)?)));
        let refused = |why| Refused::of_own(delivery, why, body, addressed);
        let (endpoint, events) = read.map_err(|why| Box::new(refused(why)))?;
        delivery.properties = BasicProperties::default();
        let received = |(head, body): (dispatch::Head, Bytes)| {
            let refused = |why| Refused::part(why, body.clone(), endpoint.clone(), &head);
            Self {
                event: Event::reread(body.clone()).map_err(|why| Box::new(refused(why))),
                arrival: Arrival::Dispatch,
                endpoint: Some(endpoint.clone()),
                published_at: head.published_at,
                hop: head.hop,
                history: head.history,
                earlier: None,
                alone: head.alone,
            }
        };
        Ok(events.into_iter().map(received).collect())
    }

    /// The record of its delivery to this endpoint as one that is held.
    pub(crate) fn hold(
        &self,
        event: &Event,
        endpoint: &EndpointId,
        history: &History,
        reason: HoldReason,
        at: Timestamp,
    ) -> Hold {
        Hold {
            endpoint: endpoint.clone(),
            event_id: event.id().clone(),
            event_source: event.source().to_owned(),
            event_type: event.event_type().clone(),
            published_at: self.published_at,
            hop: self.hop,
            history: history.clone(),
            // It may end its deliverers, whatever it waits for.
            reason: if self.alone { HoldReason::Returned } else { reason },
            at,
            event: self.for_the_log(event, at),
        }
    }

    /// The record of its match with these endpoints, which was made without the store.
    pub(crate) fn match_blindly(
        &self,
        event: &Event,
        endpoints: Vec<EndpointId>,
        at: Timestamp,
    ) -> BlindMatch {
        BlindMatch {
            event_id: event.id().clone(),
            event_source: event.source().to_owned(),
            event_type: event.event_type().clone(),
            event_subject: event.subject().map(str::to_owned),
            published_at: self.published_at,
            at,
            endpoints,
            after: None,
            through: None,
            event: self.for_the_log(event, at),
        }
    }

    /// The event as the record of a held delivery carries it; `None` if its copy is on its way to the log too, or
    /// was not long ago, so that the log has not forgotten it.
    fn for_the_log(&self, event: &Event, now: Timestamp) -> Option<String> {
        let is_new = |published_at| now.since(published_at) < NEW;
        if self.arrival == Arrival::Published && self.published_at.is_some_and(is_new) {
            return None;
        }
        // It was read as JSON, which is UTF-8.
        Some(String::from_utf8_lossy(event.body()).into_owned())
    }
}

/// Checks a message that nobody but the relay publishes.
///
/// # Errors
/// A part of it is missing, or another version of the relay published it.
pub(crate) fn check_own(delivery: &Delivery) -> Result<(), Invalid> {
    let headers = Headers::of(&delivery.properties);
    match headers.cut().refusal() {
        Some(why) => Err(why),
        None => headers.check_wire_version(),
    }
}

/// Returns true if the broker moved the message because it was returned too often, or for a reason that is not known.
pub(crate) fn was_returned(delivery: &Delivery) -> bool {
    let death = Headers::of(&delivery.properties).death();
    death.is_none_or(|died| died.reason == "delivery_limit")
}

/// The time at which the broker moved the message, if it did.
pub(crate) fn died_at(delivery: &Delivery) -> Option<Timestamp> {
    Headers::of(&delivery.properties).death()?.at
}

pub(crate) fn has_content_type(delivery: &Delivery, wanted: &str) -> bool {
    content_type(delivery) == Some(wanted)
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
    let seconds = || i64::try_from((*properties.timestamp())?).ok()?.checked_mul(1000);
    let claimed = headers.integer(PUBLISHED_AT).or_else(seconds)?;
    let believed = |at: &Timestamp| now.since(*at) <= BEHIND && at.since(now) <= AHEAD;
    Timestamp::from_millis(claimed).filter(believed)
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
    message: &Received,
    event: &Event,
    history: &History,
) -> Outgoing {
    let mut headers = FieldTable::default();
    put_text(&mut headers, ENDPOINT, endpoint.as_str());
    put_time(&mut headers, PUBLISHED_AT, message.published_at);
    if message.hop > 0 {
        headers.insert(HOP.into(), AMQPValue::LongLongInt(message.hop.into()));
    }
    put_history(&mut headers, history);
    if let Some(version) = &history.version {
        put_text(&mut headers, VERSION, &version.to_string());
    }
    own(
        topology.retry(delay),
        event_properties(event, headers),
        event.body(),
    )
}

/// A batch of held deliveries on its way to one endpoint.
pub(crate) fn dispatch(topology: &Topology, endpoint: &EndpointId, batch: &Bytes) -> Outgoing {
    let mut headers = FieldTable::default();
    put_text(&mut headers, ENDPOINT, endpoint.as_str());
    let properties = properties(Some(dispatch::CONTENT_TYPE), headers);
    own(topology.dispatch(), properties, batch)
}

/// The record of a match that was made without the store.
pub(crate) fn blind_match(topology: &Topology, record: &Bytes) -> Outgoing {
    let exchange = topology.queue(Queue::BlindMatches);
    own(exchange, own_properties(BLIND_MATCH), record)
}

/// A message to an exchange that has one queue.
fn own(exchange: String, properties: BasicProperties, body: &Bytes) -> Outgoing {
    Outgoing {
        exchange,
        routing_key: String::new(),
        properties,
        body: body.clone(),
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
    put_time(&mut headers, PUBLISHED_AT, message.published_at);
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
    if let Some(endpoint) = &refused.endpoint {
        put_text(&mut headers, ENDPOINT, endpoint.as_str());
        put_time(&mut headers, PUBLISHED_AT, refused.published_at);
        put_history(&mut headers, &refused.history);
    }
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
    own(topology.dead(), properties, body)
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
    put_text(&mut headers, ENDPOINT, endpoint.as_str());
    put_time(&mut headers, RUN, Some(run));
    if let Some(letter) = letter {
        put_earlier(&mut headers, &Earlier::of(letter));
    }
    own(topology.return_(), event_properties(event, headers), event.body())
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
    /// The size of the event in bytes, if it is larger than is allowed and was never let in.
    pub(crate) too_large: Option<u64>,
    /// The size of the whole body in bytes, if this process has only its beginning.
    pub(crate) cut_from: Option<u64>,
}

/// The death that the broker noted by itself on a message that it moved to the dead-letter queue.
struct ByBroker {
    reason: DeadReason,
    detail: Option<String>,
    /// Set if the message is as its producer published it, so that no header in it is the relay's.
    published: bool,
    at: Option<Timestamp>,
}

fn by_broker(
    headers: &Headers<'_>,
    content_type: Option<&str>,
    topology: &Topology,
    bytes: usize,
) -> Option<ByBroker> {
    let died = headers.death()?;
    let queue = [
        Queue::WorkLate,
        Queue::ArchiveLate,
        Queue::Holds,
        Queue::BlindMatches,
    ]
    .into_iter()
    .find(|queue| topology.queue(*queue) == died.queue)?;
    let (reason, detail) = match died.reason {
        // Returned to the queue more often than that allows.
        "delivery_limit" => (DeadReason::DeliveryLimit, None),
        "expired" => (DeadReason::Expired, None),
        // A process wrote it that did not take the whole message.
        "rejected" => {
            let why = headers.cut().refusal().map(|why| why.to_string());
            let small = || format!("event: is {bytes} bytes, too large for the process that took it");
            // Events on their way to an endpoint come there too.
            let reason = match queue {
                Queue::Holds | Queue::BlindMatches if !is_structured(content_type) => {
                    DeadReason::InvalidRecord
                }
                _ => DeadReason::InvalidEvent,
            };
            (reason, Some(why.unwrap_or_else(small)))
        }
        _ => return None,
    };
    Some(ByBroker {
        reason,
        detail,
        published: matches!(queue, Queue::WorkLate | Queue::ArchiveLate),
        at: died.at,
    })
}

/// Tells whether the event of a dead letter was let in before: its delivery was tried, or could have been.
fn was_let_in(by_us: Option<DeadReason>) -> bool {
    use DeadReason::{AttemptsExhausted, EndpointGone, EndpointRemoved, Expired};
    matches!(
        by_us,
        Some(AttemptsExhausted | Expired | EndpointRemoved | EndpointGone)
    )
}

/// Reads a message in the dead-letter queue, however it came there. An event of any size is read, for limits
/// may have been greater; one of more than `max_bytes` that was never let in says so.
pub(crate) fn letter(delivery: &Delivery, topology: &Topology, max_bytes: usize) -> Letter {
    let now = Timestamp::now();
    let headers = Headers::of(&delivery.properties);
    let by_broker = by_broker(&headers, content_type(delivery), topology, delivery.data.len());
    let by_us = headers.text(REASON).and_then(|reason| reason.parse().ok());
    let published = by_broker.as_ref().is_some_and(|died| died.published);
    let mut history = if published {
        History {
            run: claimed_time(&delivery.properties, &headers, now),
            ..History::default()
        }
    } else {
        headers.history()
    };
    // A delivery that was redelivered and never attempted has ended as before.
    let earlier = headers.earlier().filter(|_| !published && history.attempts == 0);
    let (mut earlier_reason, mut earlier_death) = (None, None);
    if let Some(earlier) = earlier {
        (earlier_reason, earlier_death) = (earlier.reason, earlier.dead_at);
        history = History {
            run: history.run,
            ..earlier.history
        };
    }
    let body = Bytes::copy_from_slice(&delivery.data);
    let let_in = by_broker.is_none() && was_let_in(by_us);
    let event = if !published && headers.has(PARTIAL) {
        Err(Invalid::new("event", "is kept in part only"))
    } else if let_in {
        known(&body, delivery, &headers, usize::MAX)
    } else {
        event(&body, delivery, &headers, usize::MAX)
    };
    let size = event.as_ref().map_or(0, |event| event.body().len());
    let too_large = size > max_bytes && !(let_in && has_our_form(delivery, &headers));
    let mut dead_at = headers
        .time(DEAD_AT)
        .or_else(|| headers.death()?.at)
        .or(earlier_death);
    let mut endpoint = headers.endpoint().ok().filter(|_| !published);
    let (reason, detail) = match (by_broker, by_us) {
        (Some(died), _) => {
            dead_at = died.at;
            (died.reason, died.detail)
        }
        (None, Some(reason)) => (reason, headers.text(DETAIL).map(str::to_owned)),
        _ => {
            endpoint = None;
            let why = headers.cut().refusal().map(|why| why.to_string());
            let own = || "was not put here by the relay".to_owned();
            (DeadReason::InvalidEvent, Some(why.unwrap_or_else(own)))
        }
    };
    let before = || earlier_reason.map(|reason| format!("was {reason} before it was redelivered"));
    let (event_id, event_type) = match &event {
        Ok(event) => (Some(event.id().to_string()), Some(event.event_type().to_string())),
        Err(_) => (headers.attribute("id"), headers.attribute("type")),
    };
    Letter {
        facts: DeadLetter {
            reason,
            detail: detail.or_else(before),
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
        run: history.run,
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
fn properties(content_type: Option<&str>, mut headers: FieldTable) -> BasicProperties {
    put_wire_version(&mut headers);
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
