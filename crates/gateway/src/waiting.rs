//! Deliveries that wait are tried now, or canceled.

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use relay_event::{DeliveryState, EndpointId, EventId};
use relay_store::{DeliveryFilter, Only};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    cursor::Cursor,
    endpoints::{self, Id, read_json_if_any},
    fields::given,
    gateway::Gateway,
    log::{self, Which},
    openapi::{problems, types},
    problem::Problem,
    query::{Nothing, Query},
    resend::{self, Named},
};

/// The most deliveries of one request.
const MOST: u32 = 1_000;

/// The deliveries of an event that are meant.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OfEndpoint)]
struct Target {
    /// The endpoint of the only delivery that is meant; without it, all are.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = types::EndpointId)]
    endpoint: Option<EndpointId>,
}

/// The deliveries of an event that waited.
#[derive(Serialize, ToSchema)]
#[schema(as = Changed)]
struct Changed {
    #[schema(value_type = types::EventId)]
    id: EventId,
    /// Their endpoints. A delivery that has ended is not among them.
    #[schema(value_type = Vec<types::EndpointId>)]
    endpoints: Vec<EndpointId>,
}

/// Try an event's waiting deliveries now.
///
/// Those that are held or retrying begin their schedule anew; they are sent as soon as the dispatcher comes to them,
/// whatever they waited for but for a paused or disabled endpoint. The retry that was due later does not come any more.
/// Answered once the log has it on disk. The broker need not be there.
#[utoipa::path(
    post, path = "/v1/events/{id}/retry", operation_id = "retry_event", tag = "events",
    params(("id" = types::EventId, Path, description = "The event's id or its `webhook-id`, percent-encoded."), Which),
    request_body(content = Option<Target>, description = "May be left out."),
    responses(
        (status = 202, body = Changed, description = "They are tried now."),
        problems::RefusedBody,
        problems::NoSuchEventOrEndpoint,
    ),
)]
pub(crate) async fn retry_event(
    State(gateway): State<Gateway>,
    log::Id(id): log::Id,
    Query(which): Query<Which>,
    request: Request,
) -> Result<Response, Problem> {
    let target: Target = read_json_if_any(&gateway, request).await?;
    let work = {
        let gateway = gateway.clone();
        async move {
            let (id, deliveries) = of_event(&gateway, &id, which.source.as_deref(), target).await?;
            let begun = resend::begin(&gateway, &deliveries, Only::Waiting).await?;
            Ok(Changed::of(id, begun))
        }
    };
    let changed = gateway.to_the_end(work).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

/// Cancel an event's waiting deliveries.
///
/// Those that are held or retrying end as `canceled`: no attempt of them begins any more. An attempt that is under way goes
/// on, and its answer is in the log. A delivery that is on its way to its first attempt does not wait, and is not canceled.
/// Answered once the log has it on disk. The broker need not be there.
#[utoipa::path(
    post, path = "/v1/events/{id}/cancel", operation_id = "cancel_event", tag = "events",
    params(("id" = types::EventId, Path, description = "The event's id or its `webhook-id`, percent-encoded."), Which),
    request_body(content = Option<Target>, description = "May be left out."),
    responses(
        (status = 200, body = Changed, description = "They are canceled."),
        problems::RefusedBody,
        problems::NoSuchEventOrEndpoint,
    ),
)]
pub(crate) async fn cancel_event(
    State(gateway): State<Gateway>,
    log::Id(id): log::Id,
    Query(which): Query<Which>,
    request: Request,
) -> Result<Response, Problem> {
    let target: Target = read_json_if_any(&gateway, request).await?;
    let work = {
        let gateway = gateway.clone();
        async move {
            let (id, deliveries) = of_event(&gateway, &id, which.source.as_deref(), target).await?;
            let canceled = resend::cancel(&gateway, &deliveries).await?;
            Ok(Changed::of(id, canceled))
        }
    };
    let changed = gateway.to_the_end(work).await?;
    Ok(Json(changed).into_response())
}

impl Changed {
    fn of(id: EventId, deliveries: Vec<Named>) -> Self {
        let endpoints = deliveries.into_iter().map(|(_, endpoint)| endpoint).collect();
        Self { id, endpoints }
    }
}

/// The deliveries of an event that were begun, or that to the endpoint which is meant.
async fn of_event(
    gateway: &Gateway,
    id: &EventId,
    source: Option<&str>,
    target: Target,
) -> Result<(EventId, Vec<Named>), Problem> {
    let logged = log::find(gateway, id, source).await?;
    let deliveries = gateway.store.deliveries_of(logged.sequence).await?;
    let mut endpoints: Vec<EndpointId> = deliveries.into_iter().map(|delivery| delivery.endpoint).collect();
    if let Some(endpoint) = target.endpoint {
        if !endpoints.contains(&endpoint) {
            endpoints::find(gateway, &endpoint).await?;
        }
        endpoints.retain(|id| *id == endpoint);
    }
    let named = endpoints.into_iter().map(|endpoint| (logged.sequence, endpoint));
    Ok((logged.id, named.collect()))
}

/// The place where to go on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Retry)]
struct Wanted {
    /// Go on from the `next` of an answer.
    #[schema(value_type = Option<String>, min_length = 1)]
    cursor: Option<Cursor>,
}

/// The deliveries of an endpoint that are tried now.
#[derive(Serialize, ToSchema)]
#[schema(as = Retried)]
struct Retried {
    /// Deliveries of this request.
    #[schema(examples(1000))]
    retried: usize,
    /// The `cursor` to go on with, if there may be more.
    #[schema(value_type = Option<String>, required)]
    next: Option<Cursor>,
}

/// Try an endpoint now.
///
/// Its retrying deliveries begin their schedule anew, those of the newest events first, at most 1,000 in one request; go on
/// with `next` as the `cursor` until it is null. What is held for it is tried at once too, if its circuit is open, and
/// goes on as it answers. Answered once the log has it on disk. The broker need not be there.
#[utoipa::path(
    post, path = "/v1/endpoints/{id}/retry", operation_id = "retry_endpoint", tag = "endpoints",
    params(("id" = types::EndpointId, Path, description = "The endpoint's id.")),
    request_body(content = Option<Wanted>, description = "May be left out."),
    responses(
        (status = 202, body = Retried, description = "They are tried now."),
        problems::RefusedBody,
        problems::NoSuchEndpoint,
    ),
)]
pub(crate) async fn retry_endpoint(
    State(gateway): State<Gateway>,
    Id(id): Id,
    Query(Nothing {}): Query<Nothing>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Wanted = read_json_if_any(&gateway, request).await?;
    endpoints::find(&gateway, &id).await?;
    let after = match wanted.cursor {
        None => None,
        Some(Cursor::Deliveries { event, endpoint }) if endpoint == id => Some(event),
        Some(_) => return Err(Cursor::refused().into()),
    };
    let work = {
        let gateway = gateway.clone();
        async move { retry(&gateway, &id, after).await }
    };
    let retried = gateway.to_the_end(work).await?;
    Ok((StatusCode::ACCEPTED, Json(retried)).into_response())
}

async fn retry(gateway: &Gateway, id: &EndpointId, after: Option<i64>) -> Result<Retried, Problem> {
    if after.is_none() {
        gateway.store.mark(id).await?;
        gateway.announce_changed(id);
    }
    let filter = DeliveryFilter {
        endpoint: Some(id.clone()),
        state: Some(DeliveryState::Retrying),
        since: None,
        until: None,
    };
    let after = after.map(|event| (event, id));
    let found = gateway.store.logged_deliveries(&filter, after, MOST).await?;
    let is_full = found.len() >= MOST as usize;
    let last = found.last().filter(|_| is_full).map(|delivery| delivery.sequence);
    let named = found
        .into_iter()
        .map(|delivery| (delivery.sequence, delivery.endpoint));
    let begun = resend::begin(gateway, &named.collect::<Vec<_>>(), Only::Waiting).await?;
    Ok(Retried {
        retried: begun.len(),
        next: last.map(|event| Cursor::Deliveries {
            event,
            endpoint: id.clone(),
        }),
    })
}
