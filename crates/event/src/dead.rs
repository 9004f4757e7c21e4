use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    EndpointId, EventId, Standing, Timestamp,
    invalid::{Given, Invalid},
};

/// Why a delivery ended in the dead-letter queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// The schedule had no delay left.
    AttemptsExhausted,
    /// The broker removed it from a queue because the time to live was over that its producer set. Letters of older
    /// versions have this also if an event outlived its whole schedule while every attempt failed.
    Expired,
    /// The endpoint was removed while the event waited for it.
    EndpointRemoved,
    /// The endpoint answered 410 Gone.
    EndpointGone,
    /// The message is no valid event, or was published with another key than its type.
    InvalidEvent,
    /// The message was returned to its queue again and again, by deliverers that ended on it.
    DeliveryLimit,
    /// What was sent to the delivery log is no record of attempts.
    InvalidRecord,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::AttemptsExhausted,
        Self::Expired,
        Self::EndpointRemoved,
        Self::EndpointGone,
        Self::InvalidEvent,
        Self::DeliveryLimit,
        Self::InvalidRecord,
    ];

    /// The reason's name, as in JSON, headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Expired => "expired",
            Self::EndpointRemoved => "endpoint_removed",
            Self::EndpointGone => "endpoint_gone",
            Self::InvalidEvent => "invalid_event",
            Self::DeliveryLimit => "delivery_limit",
            Self::InvalidRecord => "invalid_record",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeadReason {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| {
                let allowed = Self::ALL.map(Self::as_str).join(", ");
                Invalid::new("reason", format!("must be one of {allowed}, not {}", Given(text)))
            })
    }
}

/// The facts a message carries into the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Why it is here.
    pub reason: DeadReason,
    /// The exact fault, for `invalid_event` and `invalid_record`; the expiration that the producer set, for
    /// `expired`; the reason of its death before, for what came back from a redelivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whom it could not be delivered to.
    pub endpoint: Option<EndpointId>,
    /// The event's id, where one could be read.
    pub event_id: Option<String>,
    /// The event's type, where one could be read.
    pub event_type: Option<String>,
    /// Attempts made.
    pub attempts: u32,
    /// When the first attempt began.
    pub first_attempt: Option<Timestamp>,
    /// When the last attempt began.
    pub last_attempt: Option<Timestamp>,
    /// The status the last attempt was answered with.
    pub last_status: Option<u16>,
    /// Why the last attempt got no usable answer.
    pub last_error: Option<String>,
    /// When it was given up.
    pub dead_at: Option<Timestamp>,
}

/// A dead letter as the delivery log keeps it: the delivery it ends, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The event's id.
    pub event_id: EventId,
    /// The event's source.
    pub event_source: String,
    /// Whom it could not be delivered to.
    pub endpoint: EndpointId,
    /// How the delivery stands by it.
    pub standing: Standing,
}
