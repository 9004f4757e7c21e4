//! Records, made from little.

use std::time::Duration;

use bytes::Bytes;
use relay_event::{
    Attempt, AttemptId, DeadReason, Death, DeliveryState, EndpointId, ErrorClass, Event, EventId, History,
    Hold, HoldReason, Standing, Timestamp,
};
use relay_store::{NewEvent, Record};
use serde_json::json;

/// So many seconds after a morning in 2026.
pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_780_000_000_000).unwrap() + Duration::from_secs(seconds)
}

/// The endpoint of this number; they sort by it.
pub(crate) fn endpoint(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 16])
}

/// An event from `/source` about nothing.
pub(crate) fn event(id: &str, event_type: &str) -> NewEvent {
    event_of(json!({"id": id, "source": "/source", "type": event_type}))
}

/// An event with these attributes.
pub(crate) fn event_of(mut attributes: serde_json::Value) -> NewEvent {
    attributes["specversion"] = "1.0".into();
    NewEvent {
        event: Event::parse(Bytes::from(attributes.to_string())).unwrap(),
        published_at: None,
        routed_to: Vec::new(),
    }
}

/// A failed attempt of the event of this id, with every field used.
pub(crate) fn attempt(event: &str, endpoint: EndpointId, number: u32, began: Timestamp) -> Attempt {
    Attempt {
        id: AttemptId::generate(),
        event_id: event.parse().unwrap(),
        event_source: "/source".to_owned(),
        event_type: "a.b".parse().unwrap(),
        published_at: Some(at(0)),
        endpoint,
        attempt: number,
        hop: 0,
        at: began,
        duration_ms: 40,
        first_byte_ms: Some(30),
        status: Some(503),
        error: Some(ErrorClass::Body),
        detail: Some("it broke off".to_owned()),
        answer: "no".to_owned(),
        state: DeliveryState::Retrying,
        next_at: Some(began + Duration::from_secs(30)),
        reason: None,
        deliverer: "host-1".to_owned(),
    }
}

/// The same attempt, if it had delivered.
pub(crate) fn delivered(attempt: Attempt) -> Attempt {
    Attempt {
        status: Some(200),
        error: None,
        detail: None,
        state: DeliveryState::Delivered,
        next_at: None,
        ..attempt
    }
}

pub(crate) fn death(event: &str, endpoint: EndpointId, attempts: u32, died: Timestamp) -> Death {
    Death {
        event_id: event.parse().unwrap(),
        event_source: "/source".to_owned(),
        endpoint,
        standing: Standing {
            attempts,
            state: DeliveryState::Dead,
            at: died,
            reason: Some(DeadReason::DeliveryLimit),
            ..Standing::pending(at(0))
        },
    }
}

/// A delivery of the event of this id that waits for its first attempt.
pub(crate) fn hold(event: &str, endpoint: EndpointId) -> Hold {
    Hold {
        endpoint,
        event_id: event.parse().unwrap(),
        event_source: "/source".to_owned(),
        event_type: "a.b".parse().unwrap(),
        published_at: Some(at(0)),
        hop: 0,
        history: History {
            run: Some(at(0)),
            ..History::default()
        },
        reason: HoldReason::Paused,
        at: at(1),
        event: None,
    }
}

pub(crate) fn id(text: &str) -> EventId {
    text.parse().unwrap()
}

pub(crate) fn events<const N: usize>(events: [NewEvent; N]) -> Vec<Record> {
    events.into_iter().map(Record::Event).collect()
}

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `sides` - 1 (xorshift).
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % sides
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())].clone()
    }

    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for end in (1..all.len()).rev() {
            all.swap(end, self.roll(end + 1));
        }
    }
}
