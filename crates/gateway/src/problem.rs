//! Errors as the client sees them: RFC 9457, and nothing of the inside.

use std::error::Error;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use relay_event::{EventId, Invalid};
use serde::Serialize;

use crate::bindings;

/// What went wrong, in the ways a client's program may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Invalid,
    UnreadableJson,
    Unauthorized,
    NotFound,
    MethodNotAllowed,
    BodyTimeout,
    TooLarge,
    UnsupportedMediaType,
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
            Self::NotFound => ("not-found", S::NOT_FOUND, "Not found"),
            Self::MethodNotAllowed => ("method-not-allowed", S::METHOD_NOT_ALLOWED, "Method not allowed"),
            Self::BodyTimeout => ("body-timeout", S::REQUEST_TIMEOUT, "The body took too long"),
            Self::TooLarge => ("too-large", S::PAYLOAD_TOO_LARGE, "Too large"),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported media type",
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

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    detail: String,
    field: Option<String>,
    id: Option<EventId>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a EventId>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            field: None,
            id: None,
        }
    }

    pub(crate) fn unauthorized() -> Self {
        let detail = "send the relay's token as `Authorization: Bearer TOKEN`";
        Self::new(Kind::Unauthorized, detail)
    }

    pub(crate) fn no_such_endpoint() -> Self {
        Self::new(Kind::NotFound, "there is no such endpoint")
    }

    pub(crate) fn broker_unavailable() -> Self {
        Self::new(
            Kind::BrokerUnavailable,
            "the broker cannot be used at the moment; nothing was changed, send it again",
        )
    }

    /// It is not known whether the broker took the event.
    pub(crate) fn unconfirmed(id: EventId) -> Self {
        let detail = "the broker did not confirm the event, which may have been accepted: send it again with the same id";
        Self {
            id: Some(id),
            ..Self::new(Kind::Unconfirmed, detail)
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

impl From<bindings::Error> for Problem {
    fn from(error: bindings::Error) -> Self {
        match error {
            bindings::Error::Store(error) => error.into(),
            error => {
                tracing::warn!(
                    error = &error as &dyn Error,
                    "the broker did not do what a request needed"
                );
                Self::broker_unavailable()
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
        };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
