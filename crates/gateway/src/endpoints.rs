use std::collections::{BTreeMap, HashMap};

use axum::{
    Json,
    extract::{FromRequestParts, Path, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use relay_event::{Endpoint, EndpointId, HoldReason, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::IntoParams;

use crate::{
    body::{self, MAX_REQUEST_BYTES},
    changes,
    fields::Fields,
    gateway::Gateway,
    openapi::{problems, types},
    problem::{Kind, Problem},
    query::Query,
    validators::{self, Conditions, Validators},
    view::{Created, Listed, View},
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

/// Add an endpoint.
///
/// Answered once the store has it on disk, with its secret. It gets every event that it wants and that is published
/// after the answer, over AMQP too. The broker need not be there.
#[utoipa::path(
    post, path = "/v1/endpoints", operation_id = "create_endpoint", tag = "endpoints",
    request_body(
        content = types::NewEndpoint,
        example = json!({"url": "https://example.com/hook", "types": ["order.*"], "retry": ["30s", "5m"]}),
    ),
    responses(
        (
            status = 201, body = Created, description = "It is there.",
            headers(("Location" = String, description = "Its path.")),
        ),
        problems::RefusedBody,
    ),
)]
pub(crate) async fn create(State(gateway): State<Gateway>, request: Request) -> Result<Response, Problem> {
    let fields: Fields = body::json(&read_json(&gateway, request).await?)?;
    let endpoint = fields.create(Timestamp::now())?;
    let work = {
        let gateway = gateway.clone();
        async move { Ok(changes::create(&gateway, endpoint).await?) }
    };
    let endpoint = gateway.to_the_end(work).await?;
    let location = [(header::LOCATION, format!("/v1/endpoints/{}", endpoint.id))];
    Ok((StatusCode::CREATED, location, Json(Created::of(&endpoint))).into_response())
}

/// The facts that a list of endpoints has.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asked {
    /// Tell what is held for each endpoint. All that is held is counted: some 200 ms for a million deliveries.
    #[param(default = false)]
    held: bool,
}

/// List endpoints.
#[utoipa::path(
    get, path = "/v1/endpoints", operation_id = "list_endpoints", tag = "endpoints",
    params(Asked, Conditions),
    responses(
        (status = 200, body = Listed, description = "All endpoints.", headers(
            ("ETag" = String, description = "For `If-None-Match`."),
            ("Last-Modified" = String, description = "For `If-Modified-Since`; not in the second of a change."),
        )),
        (status = 304, description = "As the client has it."),
    ),
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stored = gateway.store.endpoints().await?;
    let mut held: HashMap<EndpointId, BTreeMap<HoldReason, u64>> = HashMap::new();
    if asked.held {
        let waiting = gateway.store.waiting_by_endpoint().await?.endpoints;
        held.extend(
            waiting
                .into_iter()
                .map(|held| (held.endpoint, held.by_reason.into_iter().collect())),
        );
    }
    let now = Timestamp::now();
    let endpoints: Vec<View<'_>> = stored
        .iter()
        .map(|endpoint| View::of(endpoint, now).with_held(held.remove(&endpoint.id).unwrap_or_default()))
        .collect();
    conditional(&gateway, &headers, "endpoints", &Listed { endpoints })
}

/// Show an endpoint.
#[utoipa::path(
    get, path = "/v1/endpoints/{id}", operation_id = "show_endpoint", tag = "endpoints",
    params(("id" = types::EndpointId, Path, description = "The endpoint's id."), Conditions),
    responses(
        (status = 200, body = View, description = "The endpoint.", headers(
            ("ETag" = String, description = "For `If-None-Match`."),
            ("Last-Modified" = String, description = "For `If-Modified-Since`; not in the second of a change."),
        )),
        (status = 304, description = "As the client has it."),
        problems::NoSuchEndpoint,
    ),
)]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let endpoint = find(&gateway, &id).await?;
    let held = gateway.store.waiting_for(&id).await?;
    let view = View::of(&endpoint, Timestamp::now()).with_held(held);
    let name = format!("endpoint {id}");
    conditional(&gateway, &headers, &name, &view)
}

/// Change an endpoint.
///
/// Answered once the store has the change on disk. It counts for every event that is published after the answer,
/// over AMQP too; one that is on its way meanwhile may be treated as before the change or as after it. Retries and
/// what is held go to the endpoint as it is when they are due, whatever it wants then. The broker need not be there.
#[utoipa::path(
    patch, path = "/v1/endpoints/{id}", operation_id = "change_endpoint", tag = "endpoints",
    params(("id" = types::EndpointId, Path, description = "The endpoint's id.")),
    request_body(content = types::EndpointChange, example = json!({"types": ["order.#"], "paused": true})),
    responses(
        (status = 200, body = View, description = "The endpoint as it is now."),
        problems::RefusedBody,
        problems::NoSuchEndpoint,
    ),
)]
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

/// Remove an endpoint.
///
/// Answered once the store has the removal on disk. Events that are published after the answer are not for it. What
/// is held for it, or waits for a retry, goes to the dead-letter queue as `endpoint_removed` when it comes due; an
/// event that no deliverer has taken yet makes no dead letter. The broker need not be there. An endpoint whose
/// `expires_at` is over is removed in the same way, by the recorder that is on duty.
#[utoipa::path(
    delete, path = "/v1/endpoints/{id}", operation_id = "remove_endpoint", tag = "endpoints",
    params(("id" = types::EndpointId, Path, description = "The endpoint's id.")),
    responses((status = 204, description = "It is removed."), problems::NoSuchEndpoint),
)]
pub(crate) async fn remove(State(gateway): State<Gateway>, Id(id): Id) -> Result<StatusCode, Problem> {
    let work = {
        let gateway = gateway.clone();
        async move { changes::remove(&gateway, id).await }
    };
    gateway.to_the_end(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the endpoint, which must be there.
pub(crate) async fn find(gateway: &Gateway, id: &EndpointId) -> Result<Endpoint, Problem> {
    let endpoint = gateway.store.endpoint(id).await?;
    endpoint.ok_or_else(Problem::no_such_endpoint)
}

pub(crate) async fn read_json(gateway: &Gateway, request: Request) -> Result<Bytes, Problem> {
    let (head, body) = request.into_parts();
    require_json(&head.headers)?;
    body::read(gateway, &head.headers, body, MAX_REQUEST_BYTES).await
}

/// A JSON object; without a body, that without fields.
pub(crate) async fn read_json_if_any<T: Default + DeserializeOwned>(
    gateway: &Gateway,
    request: Request,
) -> Result<T, Problem> {
    let (head, body) = request.into_parts();
    let body = body::read(gateway, &head.headers, body, MAX_REQUEST_BYTES).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    require_json(&head.headers)?;
    body::json(&body)
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    match body::media_type(headers).as_deref() {
        Some("application/json") => Ok(()),
        _ => Err(Problem::new(
            Kind::UnsupportedMediaType,
            "the content type must be application/json, in UTF-8",
        )),
    }
}

/// The answer of this name, unless the client has it already.
fn conditional(
    gateway: &Gateway,
    headers: &HeaderMap,
    name: &str,
    answer: &impl Serialize,
) -> Result<Response, Problem> {
    let json = serde_json::to_string(answer).map_err(|_| Problem::internal())?;
    let (now, tag) = (Timestamp::now(), validators::tag(&json));
    let date = gateway.dates.of(name, &tag, now);
    let validators = Validators {
        tag,
        date: Some(date),
    };
    let mut response = match validators.are_known(headers, now) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
    };
    validators.say(&mut response, now);
    Ok(response)
}

fn view(endpoint: &Endpoint) -> Response {
    Json(View::of(endpoint, Timestamp::now())).into_response()
}
