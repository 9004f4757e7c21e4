use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use relay_event::{Endpoint, Invalid, Secret, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    changes,
    endpoints::{Id, find, read_json_if_any},
    gateway::Gateway,
    openapi::{problems, types},
    problem::Problem,
    view,
};

/// The longest that a replaced secret may sign on.
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);

/// A new secret.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// One is made up unless it is given.
    #[schema(value_type = Option<types::Secret>)]
    secret: Option<Secret>,
    /// How long the present secrets sign on, such as `0s` or `30m`, at most 30 days; `24h` unless it is
    /// given.
    #[schema(examples("24h"))]
    overlap: Option<String>,
}

/// The secret that signs now.
#[derive(Serialize, ToSchema)]
struct Rotated<'a> {
    #[schema(value_type = types::Secret, required)]
    secret: Option<&'a Secret>,
    /// When the secret before it stops signing; null if it has stopped.
    #[schema(value_type = Option<types::Time>, required)]
    previous_expires_at: Option<Timestamp>,
}

/// The secrets that sign now, newest first.
#[derive(Serialize, ToSchema)]
struct Secrets<'a> {
    secrets: Vec<Held<'a>>,
}

/// A secret that signs.
#[derive(Serialize, ToSchema)]
#[schema(as = ActiveSecret)]
struct Held<'a> {
    #[schema(value_type = types::Secret)]
    secret: &'a Secret,
    /// After this moment it signs no more; null for the newest.
    #[schema(value_type = Option<types::Time>, required)]
    expires_at: Option<Timestamp>,
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

/// Change an endpoint's secret.
///
/// Answered once the store has the new secret on disk. Deliveries of events that are published after the answer are
/// signed with it, and for a while with the present ones too. The broker need not be there.
#[utoipa::path(
    post, path = "/v1/endpoints/{id}/rotate-secret", operation_id = "rotate_secret", tag = "endpoints",
    params(("id" = types::EndpointId, Path, description = "The endpoint's id.")),
    request_body(content = Option<Rotation>, description = "May be left out.", example = json!({"overlap": "24h"})),
    responses(
        (status = 200, body = Rotated, description = "The new secret."),
        problems::RefusedBody,
        problems::NoSuchEndpoint,
    ),
)]
pub(crate) async fn rotate(
    State(gateway): State<Gateway>,
    Id(id): Id,
    request: Request,
) -> Result<Response, Problem> {
    let rotation: Rotation = read_json_if_any(&gateway, request).await?;
    let overlap = rotation.overlap()?;
    let secret = rotation.secret.unwrap_or_else(Secret::generate);
    let work = {
        let gateway = gateway.clone();
        async move { changes::rotate(&gateway, id, secret, overlap).await }
    };
    let endpoint = gateway.to_the_end(work).await?;
    let rotated = Rotated {
        secret: endpoint.secrets.first().map(|held| &held.secret),
        previous_expires_at: endpoint.secrets.get(1).and_then(|held| held.expires_at),
    };
    Ok(Json(rotated).into_response())
}

/// List an endpoint's secrets.
#[utoipa::path(
    get, path = "/v1/endpoints/{id}/secrets", operation_id = "list_secrets", tag = "endpoints",
    params(("id" = types::EndpointId, Path, description = "The endpoint's id.")),
    responses(
        (status = 200, body = Secrets, description = "Those that sign now."),
        problems::NoSuchEndpoint,
    ),
)]
pub(crate) async fn list(State(gateway): State<Gateway>, Id(id): Id) -> Result<Response, Problem> {
    let endpoint = find(&gateway, &id).await?;
    let secrets = view::active(&endpoint, Timestamp::now())
        .map(|(secret, expires_at)| Held { secret, expires_at })
        .collect();
    Ok(Json(Secrets { secrets }).into_response())
}
