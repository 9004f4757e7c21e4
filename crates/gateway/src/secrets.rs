use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use relay_event::{Endpoint, Invalid, Secret, Timestamp};
use serde::Deserialize;
use serde_json::json;

use crate::{
    body::{self, MAX_REQUEST_BYTES},
    changes,
    endpoints::{Id, find, require_json},
    gateway::Gateway,
    problem::Problem,
    view,
};

/// The longest that a replaced secret may sign on.
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rotation {
    secret: Option<Secret>,
    overlap: Option<String>,
}

impl Rotation {
    fn overlap(&self) -> Result<Duration, Invalid> {
        let Some(text) = &self.overlap else {
            return Ok(Endpoint::DEFAULT_OVERLAP);
        };
        match humantime::parse_duration(text) {
            Ok(overlap) if overlap <= MAX_OVERLAP => Ok(overlap),
            _ => Err(Invalid::new(
                "overlap",
                "must be a time such as 0s, 30m or 24h, at most 720h (30 days)",
            )),
        }
    }
}

/// `POST /v1/endpoints/{id}/rotate-secret`; the body may be empty.
pub(crate) async fn rotate(
    State(gateway): State<Gateway>,
    Id(id): Id,
    request: Request,
) -> Result<Response, Problem> {
    let rotation = read(&gateway, request).await?;
    let overlap = rotation.overlap()?;
    let secret = rotation.secret.unwrap_or_else(Secret::generate);
    let work = {
        let gateway = gateway.clone();
        async move { changes::rotate(&gateway, id, secret, overlap).await }
    };
    let endpoint = gateway.to_the_end(work).await?;
    let newest = endpoint.secrets.first().map(|held| &held.secret);
    let previous = endpoint.secrets.get(1).and_then(|held| held.expires_at);
    Ok(unstored(
        json!({ "secret": newest, "previous_expires_at": previous }),
    ))
}

/// `GET /v1/endpoints/{id}/secrets`.
pub(crate) async fn list(State(gateway): State<Gateway>, Id(id): Id) -> Result<Response, Problem> {
    let endpoint = find(&gateway, &id).await?;
    let secrets: Vec<_> = view::active(&endpoint, Timestamp::now())
        .map(|(secret, expires_at)| json!({ "secret": secret, "expires_at": expires_at }))
        .collect();
    Ok(unstored(json!({ "secrets": secrets })))
}

async fn read(gateway: &Gateway, request: Request) -> Result<Rotation, Problem> {
    let (head, body) = request.into_parts();
    let patience = gateway.config.body_timeout;
    let body = body::read(&head.headers, body, MAX_REQUEST_BYTES, patience).await?;
    if body.is_empty() {
        return Ok(Rotation::default());
    }
    require_json(&head.headers)?;
    body::json(&body)
}

/// An answer with secrets, which nothing on its way may keep.
fn unstored(answer: serde_json::Value) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}
