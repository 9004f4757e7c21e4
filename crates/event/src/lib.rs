//! The relay's domain as plain values: what an event is, who wants it, what became of it and what
//! happens next. No clock, network, broker or database in here.

mod attempt;
mod dead;
mod delay;
mod delivery;
mod endpoint;
mod endpoint_url;
mod event;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod headers;
mod hold;
mod id;
mod invalid;
pub mod limits;
pub mod list;
mod matching;
mod pattern;
mod secret;
mod selection;
pub mod signature;
mod text;
mod timestamp;
mod verdict;
mod version;

pub use attempt::{ANSWER_CAP, Attempt, DELIVERER_CAP, DETAIL_CAP, ErrorClass, History};
pub use dead::{DeadLetter, DeadReason, Death};
pub use delay::{Delay, RetrySchedule};
pub use delivery::{DeliveryState, Standing};
pub use endpoint::{ActiveSecret, EarlierSelection, Endpoint, EndpointState, SignatureStyle, wants};
pub use endpoint_url::EndpointUrl;
pub use event::{DEFAULT_MAX_EVENT_BYTES, Event, Fill, KEY_BESIDE_ID, without_byte_order_mark};
pub use headers::CustomHeaders;
pub use hold::{BlindMatch, Hold, HoldReason};
pub use id::{AttemptId, DEFAULT_SOURCE, EndpointId, EventId, WebhookId};
pub use invalid::Invalid;
pub use matching::SelectionIndex;
pub use pattern::{EventType, TypePattern};
pub use secret::Secret;
pub use selection::{EventAttributes, Selection};
pub use text::check_source;
pub use timestamp::Timestamp;
pub use verdict::{Outcome, Sign, Verdict, verdict};
pub use version::EndpointsVersion;
