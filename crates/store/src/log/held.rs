//! Deliveries that wait in the log instead of in the broker: they are held by a record, claimed by the dispatcher
//! before they are sent on, and end with another record. All of it is written in the log's turn
//! ([`super::insert::begin`]), so nothing changes between a read and the write that follows from it.

mod begin;
mod claims;
mod duty;
mod early;
mod endpoints;
mod kept;
mod lines;
mod waiting;
mod write;

use relay_event::{EndpointId, Event, History, HoldReason, Timestamp};

pub use self::begin::Only;
pub(super) use self::{kept::make_room, waiting::held_of, write::Held};

/// The time of a claim that no record ends, because its delivery cannot be read.
const UNREADABLE: i64 = i64::MAX;

/// The lane of live deliveries.
const LIVE: i16 = 0;

/// The lane of deliveries that were begun anew, by a replay or a recovery.
const REPLAY: i16 = 1;

/// Held deliveries of an endpoint that are to be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The most deliveries to claim.
    pub limit: u32,
    /// The deliveries that are claimed, and their order.
    pub from: ClaimFrom,
}

/// Held deliveries of an endpoint. Those that are held as [`HoldReason::Returned`] are claimed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimFrom {
    /// Live deliveries, then replays.
    LiveFirst,
    /// Replays, then live deliveries.
    ReplaysFirst,
    /// Those alone that are held as [`HoldReason::Returned`].
    Returned,
}

/// Deliveries of one endpoint that were claimed by one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The deliveries, in the order of the log within each lane.
    pub deliveries: Vec<Claimed>,
    /// Set if more may wait that are not claimed.
    pub more: bool,
    /// The number of those that were claimed and cannot be read. They stay claimed for ever, and hold up nothing.
    pub unreadable: u64,
}

/// A held delivery that was claimed, to be sent on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The event.
    pub event: Event,
    /// The time at which the event was published, if it is known.
    pub published_at: Option<Timestamp>,
    /// The number of times that the delivery was claimed, this time included.
    pub hop: u32,
    /// The attempts so far, the run of the schedule that they belong to, and the version of all endpoints at which it
    /// was claimed.
    pub history: History,
}

/// The number of claims of an endpoint that ended so far, by the way in which they did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClaimEnds {
    /// By an attempt that the endpoint answered, if only to refuse this event: nothing speaks against the next one.
    pub answered: u64,
    /// By an attempt without an answer or with one of an endpoint that is away or has too much to do, or by a dead
    /// letter.
    pub failed: u64,
    /// Held again by a record.
    pub returned: u64,
    /// Held again because nothing was heard of the claim.
    pub lost: u64,
    /// Begun anew, canceled, or held again because that is in doubt. It tells nothing of the endpoint.
    pub overtaken: u64,
}

impl ClaimEnds {
    /// The number of all claims that ended.
    pub fn all(&self) -> u64 {
        self.answered + self.failed + self.returned + self.lost + self.overtaken
    }
}

/// An endpoint for which something was held, or of which a claim ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldChange {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The number of its claims that ended, since it first had something held.
    pub ends: ClaimEnds,
}

/// Endpoints that changed since some write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldChanges {
    /// The number of the last write that is told of.
    pub through: i64,
    /// The endpoints.
    pub endpoints: Vec<HeldChange>,
}

/// An endpoint for which deliveries are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFor {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The number of deliveries by reason, claimed ones included; only reasons that any has.
    pub by_reason: Vec<(HoldReason, u64)>,
    /// The number of deliveries that are claimed.
    pub claimed: u64,
    /// The number of its claims that ended, since it first had something held.
    pub ends: ClaimEnds,
}

impl HeldFor {
    /// The number of deliveries, claimed ones included.
    pub fn all(&self) -> u64 {
        self.by_reason.iter().map(|(_, count)| count).sum()
    }
}

/// All that is held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldNow {
    /// The number of the last write that is told of; see [`HeldChanges::through`].
    pub through: i64,
    /// The endpoints for which anything is held.
    pub endpoints: Vec<HeldFor>,
    /// The number of held deliveries whose event is not in the log yet. They cannot be claimed.
    pub without_event: u64,
}

/// A held delivery, as the log shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldDelivery {
    /// The reason.
    pub reason: HoldReason,
    /// The time since which it is held.
    pub since: Timestamp,
    /// Set if it is claimed: it is being sent on.
    pub is_claimed: bool,
}

/// The result of looking for claims of which nothing was heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldAgain {
    /// The number of deliveries that are held again.
    pub deliveries: u64,
    /// The number of claims of earlier epochs that are left.
    pub left: u64,
    /// The number of all claims that are left.
    pub claims: u64,
}

/// An endpoint for which deliveries are held as [`HoldReason::Returned`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnedFor {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Set if one of them is claimed.
    pub is_claimed: bool,
    /// The number of its claims that ended, since it first had something held.
    pub ends: ClaimEnds,
}
