use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    AttemptId, DeadReason, DeliveryState, EndpointId, EndpointsVersion, EventId, EventType, Invalid, Outcome,
    Standing, Timestamp, invalid::Given, text::check_source_of_old,
};

/// How much of an endpoint's answer is kept, in bytes.
pub const ANSWER_CAP: usize = 1024;

/// How long an error in words may be, in bytes.
pub const DETAIL_CAP: usize = 1024;

/// How long a deliverer's name may be, in bytes.
pub const DELIVERER_CAP: usize = 255;

/// Why an attempt got no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The whole exchange did not end within the endpoint's timeout.
    Timeout,
    /// The host's name did not resolve.
    Dns,
    /// No connection was made.
    Connect,
    /// The TLS handshake failed, or broke off.
    Tls,
    /// The connection ended before there was an answer.
    Reset,
    /// What came is no answer in HTTP/1, or its head has more than 100 headers or 64 KiB.
    Protocol,
    /// The answer's body broke off, or its chunks are none.
    Body,
    /// A 3xx answer: redirects are not followed.
    Redirect,
}

impl ErrorClass {
    /// Every class, for metrics that report zero.
    pub const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Reset,
        Self::Protocol,
        Self::Body,
        Self::Redirect,
    ];

    /// The class's name, as in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Body => "body",
            Self::Redirect => "redirect",
        }
    }
}

impl FromStr for ErrorClass {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| {
                let allowed = Self::ALL.map(Self::as_str).join(", ");
                Invalid::new("error", format!("must be one of {allowed}, not {}", Given(text)))
            })
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The record of one attempt, as it travels to the delivery log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The record's own id: a record that comes twice is one.
    pub id: AttemptId,
    /// The event's id.
    pub event_id: EventId,
    /// The event's source; with the id it names the event.
    pub event_source: String,
    /// The event's type.
    pub event_type: EventType,
    /// When the event was published, or redelivered or replayed, if its producer said: which run of
    /// the schedule this is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub published_at: Option<Timestamp>,
    /// Whom it was sent to.
    pub endpoint: EndpointId,
    /// Which attempt of this run: 1 is the first.
    pub attempt: u32,
    /// The number of times that the delivery was claimed before; 0 if it was never held. The record ends that claim.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub hop: u32,
    /// When it began.
    pub at: Timestamp,
    /// How long the exchange took, in milliseconds.
    pub duration_ms: u64,
    /// How long until the answer's status and headers were there, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_byte_ms: Option<u64>,
    /// The status answered, if one came.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<u16>,
    /// Why it failed without a usable answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ErrorClass>,
    /// The error in words, at most [`DETAIL_CAP`] bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// The beginning of the answer's body, at most [`ANSWER_CAP`] bytes.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub answer: String,
    /// How the delivery stands after it: retrying, delivered or dead.
    pub state: DeliveryState,
    /// When the retry is due.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_at: Option<Timestamp>,
    /// Why it is dead.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<DeadReason>,
    /// Which deliverer made it.
    pub deliverer: String,
}

pub(crate) fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Attempt {
    /// The outcome, as far as the record tells.
    pub fn outcome(&self) -> Outcome {
        match (self.error, self.status) {
            (None, Some(status)) => Outcome::Answered {
                status,
                retry_after: None,
            },
            (error, status) => Outcome::Failed {
                error: error.unwrap_or(ErrorClass::Protocol),
                status,
            },
        }
    }

    /// Checks what no single field can: anybody may publish records.
    ///
    /// # Errors
    /// The first field that no deliverer would write so.
    pub fn check(&self) -> Result<(), Invalid> {
        let refuse = |field: &str, problem: String| Err(Invalid::new(field, problem));
        for (field, text, most) in [
            ("answer", self.answer.as_str(), ANSWER_CAP),
            ("detail", self.detail.as_deref().unwrap_or_default(), DETAIL_CAP),
            ("deliverer", &self.deliverer, DELIVERER_CAP),
        ] {
            if text.len() > most {
                return refuse(
                    field,
                    format!("must have at most {most} bytes, not {}", text.len()),
                );
            }
        }
        check_source_of_old(&self.event_source)?;
        if self.attempt == 0 {
            return refuse("attempt", "must be 1 or more".to_owned());
        }
        if self.state == DeliveryState::Pending {
            return refuse(
                "state",
                "must be retrying, delivered or dead after an attempt".to_owned(),
            );
        }
        if self.next_at.is_some() != (self.state == DeliveryState::Retrying) {
            return refuse(
                "next_at",
                "must stand beside the state retrying, and no other".to_owned(),
            );
        }
        if self.reason.is_some() != (self.state == DeliveryState::Dead) {
            return refuse(
                "reason",
                "must stand beside the state dead, and no other".to_owned(),
            );
        }
        Ok(())
    }

    /// How the delivery stands by this attempt.
    pub fn standing(&self) -> Standing {
        Standing {
            run: self.published_at.unwrap_or_default(),
            attempts: self.attempt,
            state: self.state,
            at: self.at + Duration::from_millis(self.duration_ms),
            next_at: self.next_at,
            reason: self.reason,
            status: self.status,
            error: self.error,
        }
    }
}

/// The attempts of a delivery so far. They travel with the message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// Attempts made.
    pub attempts: u32,
    /// When the first began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_attempt: Option<Timestamp>,
    /// When the last began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<Timestamp>,
    /// The status the last was answered with, if one came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    /// Why the last got no usable answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The run of the schedule that the attempts belong to: the time at which the event was published, or
    /// replayed or redelivered; `None` if its producer did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Timestamp>,
    /// The version of all endpoints that was read before the last attempt, or before a held delivery was claimed. A
    /// later mark of the endpoint ([`Endpoint::overtaken`](crate::Endpoint::overtaken)) puts the delivery in doubt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<EndpointsVersion>,
}

impl History {
    /// Returns true if the delivery may have been begun anew, or canceled, since it was last attempted or claimed: at a
    /// `mark` of its endpoint ([`Endpoint::overtaken`](crate::Endpoint::overtaken)), in the `lineage` that is known now.
    /// One that was redelivered by hand has no version and no attempt, and is in no doubt before its first.
    pub fn is_in_doubt(&self, mark: i64, lineage: &str) -> bool {
        match &self.version {
            _ if mark == 0 => false,
            Some(version) => version.lineage != lineage || version.number < mark,
            None => self.attempts > 0,
        }
    }

    /// This history with one more attempt, begun `at` and ended so. `detail` says an error in words.
    pub fn after(&self, at: Timestamp, outcome: &Outcome, detail: Option<&str>) -> Self {
        Self {
            attempts: self.attempts.saturating_add(1),
            first_attempt: self.first_attempt.or(Some(at)),
            last_attempt: Some(at),
            last_status: outcome.status(),
            last_error: outcome.error().map(|class| match detail {
                Some(detail) => format!("{class}: {detail}"),
                None => class.to_string(),
            }),
            run: self.run,
            version: self.version.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_attempted_before_the_mark_is_in_doubt() {
        let of = |attempts, version: Option<&str>| History {
            attempts,
            version: version.map(|version| version.parse().unwrap()),
            ..History::default()
        };
        let (ours, other) = ("0123456789abcdef", "fedcba9876543210");
        let at = |number: i64| format!("{ours}:{number}");
        for (history, mark, in_doubt) in [
            (of(1, Some(&at(6))), 7, true),
            (of(1, Some(&at(7))), 7, false),
            (of(0, Some(&at(6))), 7, true),
            (of(1, Some(&format!("{other}:9"))), 7, true),
            (of(1, None), 7, true),
            (of(0, None), 7, false),
            (of(1, None), 0, false),
            (of(1, Some(&format!("{other}:9"))), 0, false),
        ] {
            assert_eq!(history.is_in_doubt(mark, ours), in_doubt, "{history:?} {mark}");
        }
    }
}
