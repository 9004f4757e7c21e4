//! The event log and the delivery log: what was published, what was tried, and how each delivery stands.
//!
//! Every write is one transaction, and only one of them is under way at a time, over all processes; so
//! the order of sequence numbers is the order in which events become visible. Beside the log stands which
//! events are confirmed, written without regard to that order.

mod attempts;
mod batch;
mod codes;
mod confirmed;
mod consumers;
mod deliveries;
mod early;
mod events;
mod feed;
mod forget;
mod held;
mod insert;
mod place;
mod record;
mod types;
mod undelivered;
mod walk;
mod webhook_ids;

use bytes::Bytes;
use relay_event::{
    Attempt, Death, DeliveryState, EndpointId, Event, EventAttributes, EventId, EventType, Hold, Selection,
    Standing, Timestamp, TypePattern,
};

pub use held::{
    ClaimEnds, ClaimFrom, ClaimRequest, Claimed, Claims, HeldAgain, HeldChange, HeldChanges, HeldDelivery,
    HeldFor, HeldNow, Only, ReturnedFor,
};

/// An event on its way into the log.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The event.
    pub event: Event,
    /// When it was published, if its producer said.
    pub published_at: Option<Timestamp>,
    /// The endpoints it waits for, as far as is known: each gets a pending delivery.
    pub routed_to: Vec<EndpointId>,
}

/// Something to be kept.
#[derive(Debug, Clone)]
pub enum Record {
    /// An event that was published.
    Event(NewEvent),
    /// An attempt that was made.
    Attempt(Attempt),
    /// A delivery that was given up.
    Death(Death),
    /// A delivery that waits in the log.
    Hold(Box<Hold>),
}

/// What a write added; what was there already does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Events.
    pub events: u64,
    /// Attempts.
    pub attempts: u64,
    /// The places of events of which a delivery may stand otherwise now, in order.
    pub stand_anew: Vec<i64>,
    /// Set if something was held, or a claim ended: [`crate::Store::held_changes`] tells of which endpoints.
    pub held_changed: bool,
}

/// How far the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Which log it is: 16 lower-case hexadecimal digits, made up with its tables.
    pub log: String,
    /// The place of the newest event; 0 before the first.
    pub last: i64,
    /// The last place that was forgotten: all after it is kept.
    pub forgotten: i64,
}

/// An event of the log, with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeEvent {
    /// What is known of it.
    pub event: LoggedEvent,
    /// Its bytes in structured mode.
    pub body: Bytes,
}

/// Events of the log in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPage {
    /// The events.
    pub events: Vec<WholeEvent>,
    /// The place to read on after: whatever was looked for up to here is in `events`.
    pub through: i64,
    /// How far the log went then.
    pub extent: Extent,
}

/// A consumer whose place in the log is kept for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// It is done with everything up to this place.
    pub place: i64,
    /// Since when.
    pub committed_at: Timestamp,
}

/// An event of the log, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Its place in the log: strictly increasing in the order events became visible.
    pub sequence: i64,
    /// Its id.
    pub id: EventId,
    /// Its source.
    pub source: String,
    /// Its type.
    pub event_type: EventType,
    /// What it is about.
    pub subject: Option<String>,
    /// When it was published, if its producer said.
    pub published_at: Option<Timestamp>,
    /// When it was written down. Never runs backwards along the sequence.
    pub recorded_at: Timestamp,
    /// Its size in structured mode, in bytes.
    pub size: u64,
}

impl LoggedEvent {
    /// The attributes that decide which endpoints want it.
    pub fn attributes(&self) -> EventAttributes<'_> {
        EventAttributes {
            event_type: &self.event_type,
            source: &self.source,
            subject: self.subject.as_deref(),
        }
    }
}

/// Events of the log, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<LoggedEvent>,
    /// The place before which more may follow; `None` if none does.
    pub before: Option<i64>,
}

/// Which events; what is not named does not matter.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Of a type that one of these matches; none means all.
    pub types: Vec<TypePattern>,
    /// Of this source.
    pub source: Option<String>,
    /// About this.
    pub subject: Option<String>,
    /// Recorded at this time or later.
    pub since: Option<Timestamp>,
    /// Recorded before this time.
    pub until: Option<Timestamp>,
}

/// A delivery of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedDelivery {
    /// The event's place in the log.
    pub sequence: i64,
    /// The event's id.
    pub event_id: EventId,
    /// The event's source.
    pub source: String,
    /// The event's type.
    pub event_type: EventType,
    /// Whom it is for.
    pub endpoint: EndpointId,
    /// How it stands.
    pub standing: Standing,
    /// Why it waits in the log, if it does.
    pub held: Option<HeldDelivery>,
}

/// Which deliveries; what is not named does not matter.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// To this endpoint.
    pub endpoint: Option<EndpointId>,
    /// That stand so.
    pub state: Option<DeliveryState>,
    /// Whose event was recorded at this time or later.
    pub since: Option<Timestamp>,
    /// Whose event was recorded before this time.
    pub until: Option<Timestamp>,
}

/// What came of an endpoint's attempts over some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttemptStats {
    /// Attempts that delivered.
    pub delivered: u64,
    /// Attempts that did not.
    pub failed: u64,
    /// The median of their durations, in milliseconds.
    pub p50_ms: Option<u64>,
    /// The 99th percentile of their durations, in milliseconds.
    pub p99_ms: Option<u64>,
}

/// Deliveries of an endpoint that are under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Waiting for their first attempt.
    pub pending: u64,
    /// Waiting for another attempt.
    pub retrying: u64,
}

/// Events an endpoint wants and was not delivered.
#[derive(Debug, Clone)]
pub struct Undelivered {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The events that it wants.
    pub selection: Selection,
    /// Recorded at this time or later.
    pub since: Timestamp,
    /// Recorded before this time.
    pub until: Option<Timestamp>,
    /// Also those that are pending or retrying, which are still on their way.
    pub waiting_too: bool,
}

/// What is old enough to be forgotten, each table for itself.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Events recorded before this time, with their deliveries; and that they were confirmed before it.
    pub events_before: Timestamp,
    /// Attempts of events recorded before this time. None outlives its event.
    pub attempts_before: Timestamp,
}

/// Rows of one round of forgetting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Events.
    pub events: u64,
    /// Attempts.
    pub attempts: u64,
    /// Whether more is old enough.
    pub more: bool,
}
