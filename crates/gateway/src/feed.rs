//! The log forwards, for consumers that cannot be pushed to: in pages that wait, and in streams. One tail
//! of the log serves all that wait; the store is asked only for what is older.

pub(crate) mod consumers;
mod follow;
mod place;
pub(crate) mod poll;
mod read;
pub(crate) mod socket;
pub(crate) mod stream;
mod tail;

pub(crate) use self::{
    follow::BEAT,
    poll::Wait,
    stream::{LAST_EVENT_ID, sse},
    tail::{Tail, Watch},
};

use relay_event::WebhookId;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{cursor::Cursor, openapi::types};

/// An event, and the place to go on after it.
#[derive(Serialize, ToSchema)]
#[schema(as = FeedItem)]
struct Item<'a> {
    /// Where the feed goes on after this event.
    #[schema(value_type = types::FeedCursor)]
    cursor: Cursor,
    #[schema(value_type = types::WebhookId)]
    webhook_id: WebhookId,
    /// The event, as it was published.
    #[schema(value_type = types::CloudEvent)]
    event: &'a RawValue,
}
