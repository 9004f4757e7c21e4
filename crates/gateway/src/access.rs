//! Access tokens, for who must not have the relay's: a page that follows one thing, until then. Such a
//! token reads what matches its filter, and nothing else.

mod token;

use std::{convert::Infallible, future::pending, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use relay_event::{Invalid, Timestamp, TypePattern};
use relay_service::connections::Peer;
use relay_store::EventFilter;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use self::token::{Access, Key};
use crate::{
    body,
    endpoints::read_json,
    gateway::Gateway,
    openapi::{problems, types},
    problem::Problem,
    query::{Nothing, Query},
    streams::{Holder, TokenDigest},
};

/// The longest that one may be good for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The longest token, in bytes: it goes into a URL.
const LARGEST: usize = 4_096;

/// What a new access token lets read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grant {
    /// Events of a type that one of these patterns matches; `["#"]` for all.
    #[serde(default)]
    #[schema(value_type = Vec<types::TypePattern>, required = false, min_items = 1)]
    types: Vec<TypePattern>,
    /// Of this source.
    #[serde(default)]
    #[schema(value_type = Option<String>, required = false, examples("/imports"))]
    source: Option<String>,
    /// About this.
    #[serde(default)]
    #[schema(value_type = Option<String>, required = false, examples("import-42"))]
    subject: Option<String>,
    /// How long it is good for, from `1s` to `24h`.
    #[schema(value_type = String, examples("1h"))]
    expires_in: Lifetime,
}

/// How long an access token is good for.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Lifetime(Duration);

impl TryFrom<String> for Lifetime {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let lifetime = humantime::parse_duration(&text).ok();
        lifetime
            .filter(|lifetime| (Duration::from_secs(1)..=LONGEST).contains(lifetime))
            .map(Self)
            .ok_or("must be a time from 1s to 24h, such as 1h")
    }
}

/// A new access token.
#[derive(Serialize, ToSchema)]
#[schema(as = AccessToken)]
struct Granted {
    /// The token, to be given as `?access_token=` or as `Authorization: Bearer`.
    access_token: String,
    /// When it ends.
    #[schema(value_type = types::Time)]
    expires_at: Timestamp,
}

impl Grant {
    fn access(self) -> Result<Access, Invalid> {
        if self.types.is_empty() && self.source.is_none() && self.subject.is_none() {
            let problem = "at least one of `types`, `source` and `subject` must be given; for all events, give `[\"#\"]`";
            return Err(Invalid::new("types", problem));
        }
        Ok(Access {
            types: self.types,
            source: self.source,
            subject: self.subject,
            expires_at: Timestamp::now() + self.expires_in.0,
        })
    }
}

/// Make an access token.
///
/// For a browser, which cannot send the relay's token to a stream and must not have it. An access token
/// reads the events that match, by the feed, the stream, the socket, and each by its id, and nothing else.
/// It is kept nowhere: it ends by its time, or when the relay's token is changed, and not before.
#[utoipa::path(
    post, path = "/v1/access-tokens", operation_id = "create_access_token", tag = "feed",
    request_body(content = types::AccessGrant, example = json!({"types": ["import.*"], "subject": "import-42", "expires_in": "1h"})),
    responses((status = 201, body = Granted, description = "The token."), problems::RefusedBody),
)]
pub(crate) async fn create(
    State(gateway): State<Gateway>,
    Query(Nothing {}): Query<Nothing>,
    request: Request,
) -> Result<Response, Problem> {
    let grant: Grant = body::json(&read_json(&gateway, request).await?)?;
    let access = grant.access()?;
    let access_token = gateway.gate.seal(&access)?;
    if access_token.len() > LARGEST {
        let problem =
            format!("would make a token longer than {LARGEST} bytes, too long for a URL: name less");
        return Err(Invalid::new("body", problem).into());
    }
    let granted = Granted {
        access_token,
        expires_at: access.expires_at,
    };
    Ok((StatusCode::CREATED, Json(granted)).into_response())
}

/// What a request may read: everything, or what its access token says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    access: Option<Access>,
    holder: Holder,
}

impl FromRequestParts<Gateway> for Scope {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Gateway) -> Result<Self, Infallible> {
        let token = parts.extensions.get::<TokenDigest>().copied();
        let peer = parts.extensions.get::<Peer>();
        Ok(Self {
            access: parts.extensions.get().cloned(),
            holder: Holder {
                token: token.unwrap_or_default(),
                connections: peer.map(Peer::most).unwrap_or_default(),
            },
        })
    }
}

impl Scope {
    /// What a request asks for. An access token's filter takes its place, and none may stand beside it.
    pub(crate) fn impose(&self, asked: EventFilter) -> Result<EventFilter, Invalid> {
        let Some(access) = &self.access else {
            return Ok(asked);
        };
        let given = [
            ("types", !asked.types.is_empty()),
            ("source", asked.source.is_some()),
            ("subject", asked.subject.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((field, _)) => Err(Invalid::new(
                *field,
                "cannot stand beside an access token, which says what is read",
            )),
            None => Ok(access.filter()),
        }
    }

    /// So long, or until it ends.
    pub(crate) fn at_most(&self, wait: Duration) -> Duration {
        self.access
            .as_ref()
            .map_or(wait, |access| wait.min(access.left()))
    }

    /// Resolves when it ends.
    pub(crate) async fn ended(&self) {
        match &self.access {
            Some(access) => {
                while !access.left().is_zero() {
                    tokio::time::sleep(access.left()).await;
                }
            }
            None => pending().await,
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.access.as_ref().is_some_and(|access| access.left().is_zero())
    }

    /// The holder of the streams that are opened by it.
    pub(crate) fn holder(&self) -> Holder {
        self.holder
    }

    /// Whether it is an access token's.
    pub(crate) fn is_granted(&self) -> bool {
        self.access.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_has_limits() {
        let lifetime = |text: &str| Lifetime::try_from(text.to_owned()).map(|lifetime| lifetime.0);
        assert_eq!(lifetime("1h"), Ok(Duration::from_secs(3_600)));
        assert_eq!(lifetime("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(lifetime("24h"), Ok(LONGEST));
        for text in ["", "1", "0s", "999ms", "25h", "-1h", "never"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }
}
