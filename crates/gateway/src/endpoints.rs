use axum::{
    Json,
    extract::{FromRequestParts, Path, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use relay_event::{Endpoint, EndpointId, Timestamp};
use serde_json::json;

use crate::{
    bindings::is_removed,
    body::{self, MAX_REQUEST_BYTES},
    changes,
    fields::Fields,
    gateway::Gateway,
    problem::{Kind, Problem},
    view::{Created, View},
};

/// The endpoint a path names; what is no id names none.
pub(crate) struct Id(pub(crate) EndpointId);

impl FromRequestParts<Gateway> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, gateway).await;
        path.ok()
            .and_then(|Path(id)| id.parse().ok())
            .map(Self)
            .ok_or_else(Problem::no_such_endpoint)
    }
}

/// `POST /v1/endpoints`.
pub(crate) async fn create(State(gateway): State<Gateway>, request: Request) -> Result<Response, Problem> {
    let fields: Fields = body::json(&read_json(&gateway, request).await?)?;
    let endpoint = fields.create(Timestamp::now())?;
    let work = {
        let gateway = gateway.clone();
        async move { changes::create(&gateway, endpoint).await }
    };
    let endpoint = gateway.to_the_end(work).await?;
    let headers = [
        (header::LOCATION, format!("/v1/endpoints/{}", endpoint.id)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::CREATED, headers, Json(Created::of(&endpoint))).into_response())
}

/// `GET /v1/endpoints`.
pub(crate) async fn list(State(gateway): State<Gateway>) -> Result<Response, Problem> {
    let stored = gateway.store.endpoints().await?;
    let now = Timestamp::now();
    let endpoints: Vec<View<'_>> = stored
        .iter()
        .map(|stored| &stored.endpoint)
        .filter(|endpoint| !is_removed(endpoint))
        .map(|endpoint| View::of(endpoint, now))
        .collect();
    Ok(Json(json!({ "endpoints": endpoints })).into_response())
}

/// `GET /v1/endpoints/{id}`.
pub(crate) async fn show(State(gateway): State<Gateway>, Id(id): Id) -> Result<Response, Problem> {
    let endpoint = find(&gateway, &id).await?;
    Ok(view(&endpoint))
}

/// `PATCH /v1/endpoints/{id}`.
pub(crate) async fn change(
    State(gateway): State<Gateway>,
    Id(id): Id,
    request: Request,
) -> Result<Response, Problem> {
    let fields: Fields = body::json(&read_json(&gateway, request).await?)?;
    let work = {
        let gateway = gateway.clone();
        async move { changes::change(&gateway, id, fields).await }
    };
    let endpoint = gateway.to_the_end(work).await?;
    Ok(view(&endpoint))
}

/// `DELETE /v1/endpoints/{id}`.
pub(crate) async fn remove(State(gateway): State<Gateway>, Id(id): Id) -> Result<StatusCode, Problem> {
    let work = {
        let gateway = gateway.clone();
        async move { changes::remove(&gateway, id).await }
    };
    gateway.to_the_end(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An endpoint that is there, and not being removed.
pub(crate) async fn find(gateway: &Gateway, id: &EndpointId) -> Result<Endpoint, Problem> {
    let stored = gateway.store.endpoint(id).await?;
    stored
        .map(|stored| stored.endpoint)
        .filter(|endpoint| !is_removed(endpoint))
        .ok_or_else(Problem::no_such_endpoint)
}

async fn read_json(gateway: &Gateway, request: Request) -> Result<Bytes, Problem> {
    let (head, body) = request.into_parts();
    require_json(&head.headers)?;
    let patience = gateway.config.body_timeout;
    body::read(&head.headers, body, MAX_REQUEST_BYTES, patience).await
}

pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    match body::media_type(headers).as_deref() {
        Some("application/json") => Ok(()),
        _ => Err(Problem::new(
            Kind::UnsupportedMediaType,
            "the content type must be application/json, in UTF-8",
        )),
    }
}

fn view(endpoint: &Endpoint) -> Response {
    Json(View::of(endpoint, Timestamp::now())).into_response()
}
