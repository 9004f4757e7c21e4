use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use relay_event::{DeliveryState, EndpointId, Timestamp};
use relay_store::DeliveryFilter;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Limit, view::DeliveryView};
use crate::{
    cursor::Cursor,
    gateway::Gateway,
    moment::{Moment, period},
    openapi::{problems, types},
    problem::Problem,
    query::Query,
};

/// Which deliveries.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// To this endpoint.
    #[param(value_type = Option<types::EndpointId>)]
    endpoint: Option<EndpointId>,
    /// That stand so.
    #[param(value_type = Option<types::DeliveryState>)]
    state: Option<DeliveryState>,
    /// Whose event was recorded at this time or later.
    #[param(value_type = Option<types::Moment>)]
    since: Option<Moment>,
    /// Whose event was recorded before this time.
    #[param(value_type = Option<types::Moment>, example = "2099-12-31T00:00:00Z")]
    until: Option<Moment>,
    /// At most so many.
    #[param(value_type = u32, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// Go on from the `next` of an answer.
    #[param(value_type = Option<String>, min_length = 1)]
    cursor: Option<Cursor>,
}

impl Wanted {
    fn filter(self) -> Result<DeliveryFilter, Problem> {
        let (since, until) = period(self.since, self.until, Timestamp::now())?;
        Ok(DeliveryFilter {
            endpoint: self.endpoint,
            state: self.state,
            since,
            until,
        })
    }
}

/// Deliveries, those of the newest events first.
#[derive(Serialize, ToSchema)]
#[schema(as = Deliveries)]
struct Page<'a> {
    deliveries: Vec<DeliveryView<'a>>,
    /// The `cursor` of the next page, if there is one.
    #[schema(value_type = Option<String>, required)]
    next: Option<Cursor>,
}

/// List deliveries.
///
/// Those of the newest events first.
#[utoipa::path(
    get, path = "/v1/deliveries", operation_id = "list_deliveries", tag = "deliveries",
    params(Wanted),
    responses((status = 200, body = Page, description = "A page of deliveries."), problems::Refused),
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(mut wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let after = match wanted.cursor.take() {
        None => None,
        Some(Cursor::Deliveries { event, endpoint }) => Some((event, endpoint)),
        Some(_) => return Err(Cursor::refused().into()),
    };
    let after = after.as_ref().map(|(event, endpoint)| (*event, endpoint));
    let limit = wanted.limit;
    let filter = wanted.filter()?;
    let fetched = gateway
        .store
        .logged_deliveries(&filter, after, limit.fetched())
        .await?;
    let (deliveries, next) = limit.page(fetched, |delivery| Cursor::Deliveries {
        event: delivery.sequence,
        endpoint: delivery.endpoint.clone(),
    });
    let deliveries = deliveries.iter().map(DeliveryView::of).collect();
    Ok(Json(Page { deliveries, next }).into_response())
}
