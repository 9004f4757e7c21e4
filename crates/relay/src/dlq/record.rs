use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use relay_broker::DeadMessage;
use relay_event::{DeadLetter, Event, WebhookId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::output;

/// A dead letter with its event, as it is exported and shown as JSON.
#[derive(Serialize)]
pub(super) struct Record {
    #[serde(flatten)]
    pub(super) letter: DeadLetter,
    /// The id that receivers know the event by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) webhook_id: Option<WebhookId>,
    /// The event's own JSON; only line breaks between its parts become spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<Box<RawValue>>,
    /// The message's body, where it is no event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body_base64: Option<String>,
    /// The bytes of the whole body, where this is only its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_bytes: Option<u64>,
    /// That body's content type.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// The encoding of that body, such as `gzip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
    /// The attributes beside that body.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
}

impl Record {
    pub(super) fn of(message: &DeadMessage) -> Self {
        let event = message
            .event
            .as_ref()
            .ok()
            .and_then(|event| output::one_line(event.body()));
        let raw = event.is_none();
        Self {
            letter: message.letter.clone(),
            webhook_id: message.event.as_ref().ok().map(Event::webhook_id),
            body_base64: raw.then(|| STANDARD.encode(message.body())),
            body_bytes: message.cut_from,
            content_type: message.content_type().filter(|_| raw).map(str::to_owned),
            content_encoding: message.content_encoding().filter(|_| raw).map(str::to_owned),
            attributes: if raw {
                message.attributes().into_iter().collect()
            } else {
                BTreeMap::new()
            },
            event,
        }
    }
}
