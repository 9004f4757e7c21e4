use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use relay_event::EndpointId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Id, Limit, find, view::AttemptView};
use crate::{
    cursor::Cursor,
    gateway::Gateway,
    openapi::{problems, types},
    problem::Problem,
    query::Query,
};

/// Which attempts of an event.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// The event's source; needed only if several sources use the same ids. Without it, the newest. A webhook
    /// id is of one event.
    #[param(example = "/orders")]
    source: Option<String>,
    /// To this endpoint.
    #[param(value_type = Option<types::EndpointId>)]
    endpoint: Option<EndpointId>,
    /// At most so many.
    #[param(value_type = u32, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// Go on from the `next` of an answer.
    #[param(value_type = Option<String>, min_length = 1)]
    cursor: Option<Cursor>,
}

/// Attempts, oldest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempts)]
struct Page<'a> {
    attempts: Vec<AttemptView<'a>>,
    /// The `cursor` of the next page, if there is one.
    #[schema(value_type = Option<String>, required)]
    next: Option<Cursor>,
}

/// List an event's attempts.
///
/// Oldest first.
#[utoipa::path(
    get, path = "/v1/events/{id}/attempts", operation_id = "list_attempts", tag = "deliveries",
    params(("id" = types::EventId, Path, description = "The event's id or its `webhook-id`, percent-encoded."), Wanted),
    responses(
        (status = 200, body = Page, description = "A page of attempts."),
        problems::Refused,
        problems::NoSuchEvent,
    ),
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Id(id): Id,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let sequence = find(&gateway, &id, wanted.source.as_deref()).await?.sequence;
    let after = match wanted.cursor {
        None => None,
        Some(Cursor::Attempts { event, after }) if event == sequence => Some(after),
        Some(_) => return Err(Cursor::refused().into()),
    };
    let (endpoint, limit) = (wanted.endpoint.as_ref(), wanted.limit);
    let fetched = gateway
        .store
        .attempts_of(sequence, endpoint, after.as_ref(), limit.fetched())
        .await?;
    let (attempts, next) = limit.page(fetched, |attempt| Cursor::Attempts {
        event: sequence,
        after: attempt.id.clone(),
    });
    let attempts = attempts.iter().map(AttemptView::of).collect();
    Ok(Json(Page { attempts, next }).into_response())
}
