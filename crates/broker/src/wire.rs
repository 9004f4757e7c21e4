//! How events look on the wire. Properties of everything the relay publishes are built afresh:
//! nothing a producer put on a message (`CC`, `x-death`, `expiration` …) travels on.

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};
use relay_event::{DeadLetter, DeadReason, Delay, EndpointId, Event, History, Invalid, Timestamp};

use crate::{publisher::Outgoing, topology::Topology};

const STRUCTURED: &str = "application/cloudevents+json";
const PERSISTENT: u8 = 2;

const ENDPOINT: &str = "relay-endpoint";
const ATTEMPTS: &str = "relay-attempts";
const FIRST_ATTEMPT: &str = "relay-first-attempt";
const LAST_ATTEMPT: &str = "relay-last-attempt";
const LAST_STATUS: &str = "relay-last-status";
const LAST_ERROR: &str = "relay-last-error";
const PUBLISHED_AT: &str = "relay-published-at";
const REASON: &str = "relay-reason";
const DETAIL: &str = "relay-detail";
const DEAD_AT: &str = "relay-dead-at";

/// The CloudEvents AMQP binding's prefix, and the two that older clients use.
const ATTRIBUTE_PREFIXES: [&str; 3] = ["ce-", "cloudEvents_", "cloudEvents:"];

/// A message of an endpoint's queue, read.
#[derive(Debug)]
pub struct Received {
    /// The event, or why the message is none.
    pub event: Result<Event, Refused>,
    /// Its delivery's attempts so far.
    pub history: History,
}

/// A message that is no valid event, as it came.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong with it.
    pub why: Invalid,
    body: Bytes,
    content_type: Option<String>,
    attributes: Vec<(String, String)>,
}

impl Received {
    /// Reads a message taken from an endpoint's queue.
    pub(crate) fn read(delivery: &mut Delivery, topology: &Topology, max_bytes: usize) -> Self {
        let headers = Headers::of(&delivery.properties);
        // Only what comes back from a delay is ours; anybody may publish to the events exchange.
        let returned = delivery.exchange.as_str() == topology.return_();
        // What was let in once is not refused for its size later.
        let max_bytes = if returned { usize::MAX } else { max_bytes };
        let history = if returned {
            headers.history()
        } else {
            History {
                published_at: published_at(&delivery.properties, &headers),
                ..History::default()
            }
        };
        let body = Bytes::from(std::mem::take(&mut delivery.data));
        let content_type = delivery
            .properties
            .content_type()
            .as_ref()
            .map(|text| text.as_str().to_owned());
        let attributes = headers.attributes();
        let event = event(&body, content_type.as_deref(), &attributes, max_bytes).and_then(|event| {
            let key = delivery.routing_key.as_str();
            let published = delivery.exchange.as_str() == topology.events();
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
        Self { event, history }
    }
}

fn event(
    body: &Bytes,
    content_type: Option<&str>,
    attributes: &[(String, String)],
    max_bytes: usize,
) -> Result<Event, Invalid> {
    check_size(body.len(), max_bytes)?;
    if content_type.is_some_and(|given| given.to_ascii_lowercase().starts_with(STRUCTURED)) {
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

fn check_size(bytes: usize, max_bytes: usize) -> Result<(), Invalid> {
    if bytes <= max_bytes {
        return Ok(());
    }
    let problem = format!("is {bytes} bytes; at most {max_bytes} are allowed");
    Err(Invalid::new("event", problem))
}

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
    let (properties, body) = match message {
        Ok(event) => (event_properties(event, headers), event.body().clone()),
        Err(refused) => {
            put_text(&mut headers, DETAIL, &refused.why.to_string());
            put_attributes(&mut headers, &refused.attributes);
            let content_type = refused.content_type.as_deref();
            (properties(content_type, headers), refused.body.clone())
        }
    };
    Outgoing {
        exchange: topology.dead(),
        routing_key: String::new(),
        properties,
        body,
        mandatory: true,
    }
}

/// A dead letter on its way back to its endpoint, with its schedule begun anew.
pub(crate) fn redeliver(
    topology: &Topology,
    endpoint: &EndpointId,
    event: &Event,
    now: Timestamp,
) -> Outgoing {
    let mut headers = FieldTable::default();
    put_time(&mut headers, PUBLISHED_AT, Some(now));
    Outgoing {
        exchange: topology.return_(),
        routing_key: endpoint.to_string(),
        properties: event_properties(event, headers),
        body: event.body().clone(),
        mandatory: true,
    }
}

/// Reads the facts of a message in the dead-letter queue, however it came there.
pub(crate) fn dead_letter(delivery: &Delivery, topology: &Topology) -> DeadLetter {
    let headers = Headers::of(&delivery.properties);
    let died = headers.death();
    let history = headers.history();
    let event = read_any(delivery, &headers);
    let by_us = headers.text(REASON).and_then(|reason| reason.parse().ok());
    let (reason, endpoint, detail) = match (died.as_ref(), by_us) {
        // The broker's own: returned to an endpoint's queue more often than it allows.
        (
            Some(Death {
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

/// The event in a dead letter, whatever its size: it was let in once.
pub(crate) fn read_any(delivery: &Delivery, headers: &Headers<'_>) -> Result<Event, Invalid> {
    let content_type = delivery
        .properties
        .content_type()
        .as_ref()
        .map(ShortString::as_str);
    let body = Bytes::copy_from_slice(&delivery.data);
    event(&body, content_type, &headers.attributes(), usize::MAX)
}

fn event_properties(event: &Event, headers: FieldTable) -> BasicProperties {
    properties(Some(STRUCTURED), headers)
        .with_message_id(event.id().as_str().into())
        .with_type(event.event_type().as_str().into())
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

fn put_history(headers: &mut FieldTable, history: &History) {
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

/// As many as are sure to fit into a frame: headers cannot be split, and RabbitMQ closes the
/// connection over a frame of more than 128 KiB.
fn put_attributes(headers: &mut FieldTable, attributes: &[(String, String)]) {
    const ROOM: usize = 64 * 1024;
    let mut taken = 0;
    for (name, value) in attributes {
        taken += name.len() + value.len() + 16;
        if taken <= ROOM {
            put_text(headers, &format!("ce-{name}"), value);
        }
    }
}

fn put_text(headers: &mut FieldTable, name: &str, value: &str) {
    headers.insert(name.into(), AMQPValue::LongString(value.into()));
}

fn put_time(headers: &mut FieldTable, name: &str, time: Option<Timestamp>) {
    if let Some(time) = time {
        headers.insert(name.into(), AMQPValue::LongLongInt(time.as_millis()));
    }
}

/// A message's headers, read forgivingly: clients write numbers and strings in many widths.
pub(crate) struct Headers<'a>(Option<&'a BTreeMap<ShortString, AMQPValue>>);

/// The newest entry of the broker's `x-death`.
struct Death<'a> {
    queue: &'a str,
    reason: &'a str,
    at: Option<Timestamp>,
}

impl<'a> Headers<'a> {
    pub(crate) fn of(properties: &'a BasicProperties) -> Self {
        Self(properties.headers().as_ref().map(FieldTable::inner))
    }

    fn get(&self, name: &str) -> Option<&'a AMQPValue> {
        self.0?.get(name)
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        text(self.get(name)?)
    }

    fn integer(&self, name: &str) -> Option<i64> {
        integer(self.get(name)?)
    }

    fn time(&self, name: &str) -> Option<Timestamp> {
        Timestamp::from_millis(self.integer(name)?)
    }

    fn history(&self) -> History {
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

    fn attribute(&self, name: &str) -> Option<String> {
        self.attributes()
            .into_iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value)
    }

    fn death(&self) -> Option<Death<'a>> {
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
        Some(Death {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        Topology::new("relay".parse().unwrap())
    }

    fn delivery(exchange: &str, key: &str, properties: BasicProperties, body: &str) -> Delivery {
        let mut delivery = Delivery::mock(1, exchange.into(), key.into(), false, body.into());
        delivery.properties = properties;
        delivery
    }

    fn event() -> Event {
        Event::parse(r#"{"specversion":"1.0","id":"1","source":"/x","type":"order.created","data":1}"#.into())
            .unwrap()
    }

    fn history() -> History {
        History {
            attempts: 3,
            first_attempt: Timestamp::from_millis(1_000),
            last_attempt: Timestamp::from_millis(2_000),
            last_status: Some(500),
            last_error: None,
            published_at: Timestamp::from_millis(900),
        }
    }

    /// What the broker would hand out of this publish once it has waited.
    fn returned(outgoing: &Outgoing) -> Delivery {
        let body = std::str::from_utf8(&outgoing.body).unwrap();
        delivery(
            "relay.return",
            &outgoing.routing_key,
            outgoing.properties.clone(),
            body,
        )
    }

    #[test]
    fn a_retry_reads_back_with_its_history_and_its_bytes() {
        let endpoint = EndpointId::generate();
        let outgoing = retry(
            &topology(),
            "5m".parse().unwrap(),
            &endpoint,
            &event(),
            &history(),
        );
        assert_eq!(
            (outgoing.exchange.as_str(), outgoing.routing_key.as_str()),
            ("relay.retry.5m", endpoint.as_str())
        );
        let received = Received::read(&mut returned(&outgoing), &topology(), 1_000);
        assert_eq!(received.event.unwrap().body(), event().body());
        assert_eq!(received.history, history());
    }

    #[test]
    fn a_producer_cannot_forge_a_history() {
        let endpoint = EndpointId::generate();
        let forged = retry(
            &topology(),
            "5m".parse().unwrap(),
            &endpoint,
            &event(),
            &history(),
        );
        let mut delivery = returned(&forged);
        delivery.exchange = "relay.events".into();
        delivery.routing_key = "order.created".into();
        assert_eq!(
            Received::read(&mut delivery, &topology(), 1_000).history.attempts,
            0
        );
    }

    #[test]
    fn another_routing_key_than_the_type_is_refused() {
        let properties = event_properties(&event(), FieldTable::default());
        let body = std::str::from_utf8(event().body()).unwrap().to_owned();
        let mut wrong = delivery("relay.events", "secret.event", properties, &body);
        let refused = Received::read(&mut wrong, &topology(), 1_000).event.unwrap_err();
        assert_eq!(refused.why.field, "type");
    }

    #[test]
    fn too_large_is_refused_before_it_is_read() {
        let mut large = delivery("relay.events", "a", BasicProperties::default(), "123456");
        let refused = Received::read(&mut large, &topology(), 5).event.unwrap_err();
        assert_eq!(
            refused.why.to_string(),
            "event: is 6 bytes; at most 5 are allowed"
        );
    }

    #[test]
    fn every_binary_prefix_is_taken() {
        for prefix in ATTRIBUTE_PREFIXES {
            let mut headers = FieldTable::default();
            for (name, value) in [
                ("id", "1"),
                ("source", "/x"),
                ("type", "a.b"),
                ("specversion", "1.0"),
            ] {
                put_text(&mut headers, &format!("{prefix}{name}"), value);
            }
            headers.insert(format!("{prefix}urgent").into(), AMQPValue::Boolean(true));
            headers.insert(format!("{prefix}time").into(), AMQPValue::Timestamp(0));
            let properties = properties(Some("application/json"), headers);
            let mut binary = delivery("relay.events", "a.b", properties, r#"{"n":1}"#);
            let event = Received::read(&mut binary, &topology(), 1_000).event.unwrap();
            let text = std::str::from_utf8(event.body()).unwrap();
            assert!(
                text.contains(r#""urgent":"true""#) && text.contains("1970-01-01"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_dead_letter_carries_its_facts() {
        let endpoint = EndpointId::generate();
        let now = Timestamp::from_millis(5_000).unwrap();
        let outgoing = dead(
            &topology(),
            &endpoint,
            &Ok(event()),
            &history(),
            DeadReason::AttemptsExhausted,
            now,
        );
        let body = std::str::from_utf8(&outgoing.body).unwrap();
        let letter = dead_letter(
            &delivery("relay.dead", "", outgoing.properties.clone(), body),
            &topology(),
        );
        assert_eq!(
            letter,
            DeadLetter {
                reason: DeadReason::AttemptsExhausted,
                detail: None,
                endpoint: Some(endpoint),
                event_id: Some("1".to_owned()),
                event_type: Some("order.created".to_owned()),
                attempts: 3,
                first_attempt: Timestamp::from_millis(1_000),
                last_attempt: Timestamp::from_millis(2_000),
                last_status: Some(500),
                last_error: None,
                dead_at: Some(now),
            }
        );
    }

    #[test]
    fn a_retry_whose_endpoint_is_gone_says_so() {
        let endpoint = EndpointId::generate();
        let outgoing = retry(
            &topology(),
            "1s".parse().unwrap(),
            &endpoint,
            &event(),
            &history(),
        );
        let letter = dead_letter(&returned(&outgoing), &topology());
        assert_eq!(
            (letter.reason, letter.endpoint),
            (DeadReason::EndpointRemoved, Some(endpoint))
        );
        assert_eq!(letter.attempts, 3);
    }
}
