use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{EndpointId, EventId, EventType, Outcome, Timestamp};

/// How much of an endpoint's answer is kept, in bytes.
pub const ANSWER_CAP: usize = 1024;

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
    /// The TLS handshake failed.
    Tls,
    /// The connection ended, or what came was not HTTP, before there was an answer.
    Reset,
    /// The answer's body broke off.
    Body,
    /// A 3xx answer: redirects are not followed.
    Redirect,
}

impl ErrorClass {
    /// Every class, for metrics that report zero.
    pub const ALL: [Self; 7] = [
        Self::Timeout,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Reset,
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
            Self::Body => "body",
            Self::Redirect => "redirect",
        }
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
    /// The event's id.
    pub event_id: EventId,
    /// The event's source; with the id it names the event.
    pub event_source: String,
    /// The event's type.
    pub event_type: EventType,
    /// Whom it was sent to.
    pub endpoint: EndpointId,
    /// Which attempt of this delivery: 1 is the first.
    pub attempt: u32,
    /// When it began.
    pub at: Timestamp,
    /// How long the exchange took, in milliseconds.
    pub duration_ms: u64,
    /// The status answered, if one came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it failed without a usable answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorClass>,
    /// The error in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The beginning of the answer's body, at most [`ANSWER_CAP`] bytes.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub answer: String,
    /// What follows: `delivered`, `retry` or `dead`.
    pub verdict: String,
    /// When the retry is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Which deliverer made it.
    pub deliverer: String,
}

/// What is known of a delivery's attempts so far. It travels with the message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Attempts made.
    pub attempts: u32,
    /// When the first began.
    pub first_attempt: Option<Timestamp>,
    /// When the last began.
    pub last_attempt: Option<Timestamp>,
    /// The status the last was answered with, if one came.
    pub last_status: Option<u16>,
    /// Why the last got no usable answer.
    pub last_error: Option<String>,
    /// When the event was published, if its producer said.
    pub published_at: Option<Timestamp>,
}

impl History {
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
            published_at: self.published_at,
        }
    }
}
