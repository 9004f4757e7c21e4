use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use relay_event::{Endpoint, EndpointId, EventId, Invalid};
use relay_store::{LoggedEvent, Only};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    endpoints::{self, read_json_if_any},
    fields::given,
    gateway::Gateway,
    log::{self, Which},
    openapi::{problems, types},
    problem::Problem,
    query::Query,
    resend,
};

/// Whom an event is sent to again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Replay)]
struct Target {
    /// This endpoint alone, which must want the event, or have been sent it before. Without it, every endpoint that wants
    /// it now.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = types::EndpointId)]
    endpoint: Option<EndpointId>,
}

/// The deliveries that were begun anew.
#[derive(Serialize, ToSchema)]
#[schema(as = Replayed)]
struct Replayed {
    #[schema(value_type = types::EventId)]
    id: EventId,
    /// The endpoints that it is sent to.
    #[schema(value_type = Vec<types::EndpointId>)]
    endpoints: Vec<EndpointId>,
}

/// Send an event again.
///
/// To every endpoint that wants it now, or to one; each delivery begins its schedule anew. Answered once the log has
/// it on disk; it is sent as soon as the endpoint has room, and delays no live event. The broker need not be there.
#[utoipa::path(
    post, path = "/v1/events/{id}/replay", operation_id = "replay_event", tag = "events",
    params(("id" = types::EventId, Path, description = "The event's id or its `webhook-id`, percent-encoded."), Which),
    request_body(content = Option<Target>, description = "May be left out.", examples(
        ("all" = (summary = "To all that want it", value = json!({}))),
        ("one" = (
            summary = "To one endpoint",
            value = json!({"endpoint": "ep_0198f2a46a5c7bb29d351f0e8f1c2a3b"}),
        )),
    )),
    responses(
        (status = 202, body = Replayed, description = "It is in the log, and will be sent."),
        problems::RefusedBody,
        problems::NoSuchEventOrEndpoint,
    ),
)]
pub(crate) async fn replay(
    State(gateway): State<Gateway>,
    log::Id(id): log::Id,
    Query(which): Query<Which>,
    request: Request,
) -> Result<Response, Problem> {
    let target: Target = read_json_if_any(&gateway, request).await?;
    let work = {
        let gateway = gateway.clone();
        async move { send(&gateway, id, which.source.as_deref(), target.endpoint).await }
    };
    let replayed = gateway.to_the_end(work).await?;
    Ok((StatusCode::ACCEPTED, Json(replayed)).into_response())
}

async fn send(
    gateway: &Gateway,
    id: EventId,
    source: Option<&str>,
    endpoint: Option<EndpointId>,
) -> Result<Replayed, Problem> {
    let logged = log::find(gateway, &id, source).await?;
    let endpoints = match endpoint {
        Some(endpoint) => vec![named(gateway, &logged, endpoint).await?],
        None => matching(gateway, &logged).await?,
    };
    let deliveries: Vec<_> = endpoints
        .iter()
        .map(|endpoint| (logged.sequence, endpoint.clone()))
        .collect();
    if resend::begin(gateway, &deliveries, Only::All).await?.is_empty() && !deliveries.is_empty() {
        return Err(Problem::no_such_event());
    }
    tracing::info!(event = %logged.webhook_id(), endpoints = endpoints.len(), "replayed");
    Ok(Replayed {
        id: logged.id,
        endpoints,
    })
}

/// Every endpoint that wants the event.
async fn matching(gateway: &Gateway, event: &LoggedEvent) -> Result<Vec<EndpointId>, Problem> {
    let endpoints = gateway.store.endpoints().await?;
    Ok(endpoints
        .into_iter()
        .filter(|endpoint| wants(endpoint, event))
        .map(|endpoint| endpoint.id)
        .collect())
}

/// The endpoint of this id, if it wants the event, or was to have it before.
async fn named(gateway: &Gateway, event: &LoggedEvent, id: EndpointId) -> Result<EndpointId, Problem> {
    let endpoint = endpoints::find(gateway, &id).await?;
    if wants(&endpoint, event) {
        return Ok(id);
    }
    let deliveries = gateway.store.deliveries_of(event.sequence).await?;
    if deliveries.iter().any(|delivery| delivery.endpoint == id) {
        return Ok(id);
    }
    let subject = match &event.subject {
        Some(subject) => format!("subject {subject}"),
        None => "no subject".to_owned(),
    };
    let problem = format!(
        "wants no event of type {}, source {} and {}, and this event was never sent to it",
        event.event_type, event.source, subject
    );
    Err(Invalid::new("endpoint", problem).into())
}

fn wants(endpoint: &Endpoint, event: &LoggedEvent) -> bool {
    endpoint.selection.matches(event.attributes())
}
