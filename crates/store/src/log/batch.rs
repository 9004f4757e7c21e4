//! What a batch of records comes to, worked out before it is written.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
};

use relay_event::{Attempt, DeliveryState, EndpointId, Event, EventId, Hold, Standing, Timestamp};

use super::{NewEvent, Record, codes};

/// What names an event: its id and its source.
pub(super) type Key<'r> = (&'r str, Cow<'r, str>);

/// The places in the log of the events that a batch is about, as far as they are there.
pub(super) type Places<'r> = HashMap<Key<'r>, i64>;

pub(super) fn key<'r>(id: &'r EventId, source: &'r str) -> Key<'r> {
    (id.as_str(), codes::text(source))
}

pub(super) fn key_of(record: &Record) -> Key<'_> {
    match record {
        Record::Event(new) => key(new.event.id(), new.event.source()),
        Record::Attempt(attempt) => key(&attempt.event_id, &attempt.event_source),
        Record::Death(death) => key(&death.event_id, &death.event_source),
        Record::Hold(hold) => key(&hold.event_id, &hold.event_source),
    }
}

/// An event that gets a place in the log.
pub(super) struct Placed<'r> {
    pub(super) sequence: i64,
    pub(super) event: &'r Event,
    pub(super) published_at: Option<i64>,
    routed_to: &'r [EndpointId],
}

impl<'r> Placed<'r> {
    pub(super) fn key(&self) -> Key<'r> {
        key(self.event.id(), self.event.source())
    }

    pub(super) fn type_name(&self) -> &'r str {
        self.event.event_type().as_str()
    }
}

/// Gives the events that are not in the log the next places, in their order.
pub(super) fn place_new<'r>(records: &'r [Record], places: &mut Places<'r>, last: i64) -> Vec<Placed<'r>> {
    let mut new = Vec::new();
    for (sequence, event) in (last + 1..).zip(unplaced(records, places)) {
        new.push(Placed {
            sequence,
            event: &event.event,
            published_at: event.published_at.map(codes::millis),
            routed_to: &event.routed_to,
        });
    }
    for placed in &new {
        places.insert(placed.key(), placed.sequence);
    }
    new
}

fn unplaced<'r>(records: &'r [Record], places: &Places<'r>) -> Vec<&'r NewEvent> {
    let mut seen = HashSet::new();
    let new = |record: &'r Record| match record {
        Record::Event(new) => {
            let key = key_of(record);
            (!places.contains_key(&key) && seen.insert(key)).then_some(new)
        }
        Record::Attempt(_) | Record::Death(_) | Record::Hold(_) => None,
    };
    records.iter().filter_map(new).collect()
}

/// How a delivery stands, as it is stored. Its order decides which of two counts: that of
/// [`Standing::supersedes`] first, and the rest so that any two records come to the same in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stands {
    pub(super) run: i64,
    /// Not stored, for the state says so.
    is_end: bool,
    pub(super) attempts: i64,
    pub(super) state: i16,
    pub(super) at: i64,
    pub(super) next_at: Option<i64>,
    pub(super) reason: Option<i16>,
    pub(super) status: Option<i32>,
    pub(super) error: Option<i16>,
}

impl From<&Standing> for Stands {
    fn from(standing: &Standing) -> Self {
        Self {
            run: codes::millis(standing.run),
            is_end: standing.state.is_end(),
            attempts: standing.attempts.into(),
            state: codes::state_code(standing.state),
            at: codes::millis(standing.at),
            next_at: standing.next_at.map(codes::millis),
            reason: standing.reason.map(codes::reason_code),
            status: standing.status.map(i32::from),
            error: standing.error.map(codes::error_code),
        }
    }
}

impl Stands {
    /// A delivery that is held: it waits for its first attempt, or for another one.
    pub(super) fn held(run: i64, attempts: i64, at: i64, status: Option<u16>) -> Self {
        let state = match attempts {
            0 => DeliveryState::Pending,
            _ => DeliveryState::Retrying,
        };
        Self {
            run,
            is_end: false,
            attempts,
            state: codes::state_code(state),
            at,
            next_at: None,
            reason: None,
            status: status.map(i32::from),
            error: None,
        }
    }

    /// The same from its record. Of a delivery that was attempted the record of the last attempt tells more, so it
    /// counts as the later one.
    pub(super) fn of_hold(hold: &Hold) -> Self {
        let at = hold.history.last_attempt.unwrap_or(hold.at);
        Self::held(
            hold.history.run.map_or(0, codes::millis),
            hold.history.attempts.into(),
            codes::millis(at),
            hold.history.last_status,
        )
    }
}

/// Rows to be written, each once: PostgreSQL changes no row twice in a statement. In the order of
/// their keys, which is that of the pages they go to.
#[derive(Default)]
pub(super) struct Rows<'r> {
    pub(super) attempts: BTreeMap<(i64, [u8; 16]), &'r Attempt>,
    pub(super) deliveries: BTreeMap<(i64, [u8; 16]), Stands>,
}

impl<'r> Rows<'r> {
    /// The deliveries an event waits for when it is written down. They stand by run 0, which any attempt
    /// supersedes: the deliverer judges the producer's time at another moment, and may not believe it.
    pub(super) fn add_routes(&mut self, placed: &Placed<'_>, recorded_at: Timestamp) {
        let pending = Stands {
            at: placed.published_at.unwrap_or(codes::millis(recorded_at)),
            ..Stands::from(&Standing::pending(Timestamp::default()))
        };
        for endpoint in placed.routed_to {
            self.stands(placed.sequence, endpoint, pending);
        }
    }

    /// An attempt or a death of the event at this place.
    pub(super) fn add(&mut self, sequence: i64, record: &'r Record) {
        match record {
            // A hold is written with all that is held.
            Record::Event(_) | Record::Hold(_) => {}
            Record::Attempt(attempt) => {
                let key = (sequence, attempt.id.to_bytes());
                self.attempts.entry(key).or_insert(attempt);
                let standing = attempt.standing();
                self.stands(sequence, &attempt.endpoint, Stands::from(&standing));
            }
            Record::Death(death) => {
                self.stands(sequence, &death.endpoint, Stands::from(&death.standing));
            }
        }
    }

    pub(super) fn stands(&mut self, sequence: i64, endpoint: &EndpointId, standing: Stands) {
        let key = (sequence, endpoint.to_bytes());
        let known = self.deliveries.entry(key).or_insert(standing);
        *known = standing.max(*known);
    }
}
