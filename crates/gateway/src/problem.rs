//! Errors as the client sees them: RFC 9457, and nothing of the inside.

use std::error::Error;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use relay_event::{EventId, Invalid};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{cursor::Cursor, openapi::types};

/// What went wrong, in the ways a client's program may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Invalid,
    UnreadableJson,
    Unauthorized,
    AccessExpired,
    Forbidden,
    NotFound,
    NoSuchEvent,
    MethodNotAllowed,
    CursorExpired,
    BodyTimeout,
    UpgradeRequired,
    TooManyStreams,
    TooManyTokens,
    Busy,
    TooLarge,
    UnsupportedMediaType,
    UnsupportedContentEncoding,
    Internal,
    BrokerUnavailable,
    StoreUnavailable,
    Unconfirmed,
}

impl Kind {
    fn parts(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::Invalid => ("invalid", S::BAD_REQUEST, "Invalid input"),
            Self::UnreadableJson => ("unreadable-json", S::BAD_REQUEST, "Unreadable JSON"),
            Self::Unauthorized => ("unauthorized", S::UNAUTHORIZED, "No valid token"),
            Self::AccessExpired => ("access-expired", S::UNAUTHORIZED, "The access token has expired"),
            Self::Forbidden => ("forbidden", S::FORBIDDEN, "Not allowed"),
            Self::NotFound => ("not-found", S::NOT_FOUND, "Not found"),
            Self::NoSuchEvent => ("not-found", S::NOT_FOUND, "Not found"),
            Self::MethodNotAllowed => ("method-not-allowed", S::METHOD_NOT_ALLOWED, "Method not allowed"),
            Self::CursorExpired => ("cursor-expired", S::GONE, "The cursor is too old"),
            Self::BodyTimeout => ("body-timeout", S::REQUEST_TIMEOUT, "The body took too long"),
            Self::UpgradeRequired => ("upgrade-required", S::UPGRADE_REQUIRED, "A WebSocket is needed"),
            Self::TooManyStreams => ("too-many-streams", S::TOO_MANY_REQUESTS, "Too many streams"),
            Self::TooManyTokens => ("too-many-tokens", S::TOO_MANY_REQUESTS, "Too many wrong tokens"),
            Self::Busy => ("busy", S::SERVICE_UNAVAILABLE, relay_service::connections::BUSY),
            Self::TooLarge => ("too-large", S::PAYLOAD_TOO_LARGE, "Too large"),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported media type",
            ),
            Self::UnsupportedContentEncoding => (
                "unsupported-content-encoding",
                S::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported content encoding",
            ),
            Self::Internal => ("internal", S::INTERNAL_SERVER_ERROR, "Internal error"),
            Self::BrokerUnavailable => (
                "broker-unavailable",
                S::SERVICE_UNAVAILABLE,
                "The broker is unavailable",
            ),
            Self::StoreUnavailable => (
                "store-unavailable",
                S::SERVICE_UNAVAILABLE,
                "The store is unavailable",
            ),
            Self::Unconfirmed => (
                "unconfirmed",
                S::SERVICE_UNAVAILABLE,
                "The broker did not confirm",
            ),
        }
    }
}

/// How many events of a batch a problem names.
const MAX_IDS: usize = 100;

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) detail: String,
    pub(crate) field: Option<String>,
    id: Option<EventId>,
    ids: Vec<EventId>,
    oldest: Option<Box<Cursor>>,
}

/// What went wrong, as RFC 9457 has it.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    /// What kind of problem it is, for programs to tell apart.
    #[schema(format = "uri", examples("urn:event-relay:problem:invalid"))]
    r#type: String,
    /// The kind in words.
    #[schema(examples("Invalid input"))]
    title: &'a str,
    /// The answer's status.
    #[schema(examples(400))]
    status: u16,
    /// What is wrong here, and what is allowed or can be done.
    #[schema(examples("limit: must be a whole number from 1 to 1000"))]
    detail: &'a str,
    /// The parameter, or the path in the body, that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, examples("limit"))]
    field: Option<&'a str>,
    /// The id of the event to send again, which may have been accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::EventId, required = false)]
    id: Option<&'a EventId>,
    /// The ids of events of a batch that may have been accepted.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<types::EventId>, required = false)]
    ids: &'a [EventId],
    /// Where the feed goes on with the oldest event that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::FeedCursor, required = false)]
    oldest: Option<&'a Cursor>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            field: None,
            id: None,
            ids: Vec::new(),
            oldest: None,
        }
    }

    /// The problem, blamed on `field`.
    pub(crate) fn of(self, field: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..self
        }
    }

    pub(crate) fn unauthorized() -> Self {
        let detail = "send the relay's token as `Authorization: Bearer TOKEN`";
        Self::new(Kind::Unauthorized, detail)
    }

    pub(crate) fn no_such_endpoint() -> Self {
        Self::new(Kind::NotFound, "there is no such endpoint")
    }

    pub(crate) fn no_such_event() -> Self {
        let detail = "there is no such event in the log; one that was just published is there in a moment";
        Self::new(Kind::NoSuchEvent, detail)
    }

    pub(crate) fn broker_unavailable() -> Self {
        Self::new(
            Kind::BrokerUnavailable,
            "the broker cannot be used at the moment; nothing was changed, send it again",
        )
    }

    /// The endpoint of an event's callback is added, and the event is not published.
    pub(crate) fn unpublished(id: EventId) -> Self {
        let detail = "the broker cannot be used at the moment; the callback's endpoint was added, and the event was not published: send it again with the same id";
        Self {
            id: Some(id),
            ..Self::new(Kind::BrokerUnavailable, detail)
        }
    }

    /// The body is packed in a way that is not known here.
    pub(crate) fn unsupported_encoding(given: &str) -> Self {
        let problem = format!("must be gzip, or left out for a body that is not compressed, not {given:?}");
        Self {
            kind: Kind::UnsupportedContentEncoding,
            ..Invalid::new("Content-Encoding", problem).into()
        }
    }

    /// It is not known whether the broker took the event.
    pub(crate) fn unconfirmed(id: EventId) -> Self {
        let detail = "the broker did not confirm the event, which may have been accepted: send it again with the same id";
        Self {
            id: Some(id),
            ..Self::new(Kind::Unconfirmed, detail)
        }
    }

    /// It is not known whether the broker took these of a batch's events.
    pub(crate) fn unconfirmed_of_batch(mut ids: Vec<EventId>, of: usize) -> Self {
        let unconfirmed = ids.len();
        ids.truncate(MAX_IDS);
        let named = match ids.len() < unconfirmed {
            true => format!(" (the first {MAX_IDS} are named)"),
            false => String::new(),
        };
        let detail = format!(
            "the broker did not confirm {unconfirmed} of {of} events{named}, which may have been accepted: send the same batch again, and what was confirmed is not sent twice"
        );
        Self {
            ids,
            ..Self::new(Kind::Unconfirmed, detail)
        }
    }

    /// What comes after a cursor is no longer there.
    pub(crate) fn cursor_expired(oldest: Cursor) -> Self {
        let detail = "events after this cursor were forgotten, as they are after a time, so some may be missing: go on with `oldest`, the cursor before the oldest event that is kept";
        Self {
            oldest: Some(Box::new(oldest)),
            ..Self::new(Kind::CursorExpired, detail)
        }
    }

    pub(crate) fn internal() -> Self {
        Self::new(Kind::Internal, "the relay's log says more")
    }
}

impl From<Invalid> for Problem {
    fn from(refused: Invalid) -> Self {
        let detail = refused.to_string();
        Self {
            field: Some(refused.field),
            ..Self::new(Kind::Invalid, detail)
        }
    }
}

impl From<relay_store::Error> for Problem {
    fn from(error: relay_store::Error) -> Self {
        match error {
            relay_store::Error::Invalid(refused) => refused.into(),
            error if error.is_unavailable() => {
                tracing::debug!(error = &error as &dyn Error, "the store is unavailable");
                let detail = "the store cannot be used at the moment; send it again";
                Self::new(Kind::StoreUnavailable, detail)
            }
            error => {
                tracing::error!(error = &error as &dyn Error, "the store failed");
                Self::internal()
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (kind, status, title) = self.kind.parts();
        let document = Document {
            r#type: format!("urn:event-relay:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            field: self.field.as_deref(),
            id: self.id.as_ref(),
            ids: &self.ids,
            oldest: self.oldest.as_deref(),
        };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.kind == Kind::UnsupportedContentEncoding {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let retry_after = match self.kind {
            Kind::TooManyTokens => Some("60"),
            Kind::TooManyStreams => Some("5"),
            Kind::NoSuchEvent => Some("1"),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => Some("1"),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}
