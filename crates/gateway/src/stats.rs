use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State};
use relay_event::{EndpointId, HoldReason, Timestamp};
use relay_store::AttemptStats;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    endpoints::{Id, find},
    gateway::Gateway,
    moment::Moment,
    openapi::{problems, types},
    problem::Problem,
    query::{Nothing, Query},
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How an endpoint does.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointStats)]
pub(crate) struct Stats {
    #[schema(value_type = types::EndpointId)]
    endpoint: EndpointId,
    /// The last hour.
    hour: Window,
    /// The last 24 hours.
    day: Window,
    /// Deliveries that wait for their first attempt.
    pending: u64,
    /// Deliveries that wait for another attempt.
    retrying: u64,
    /// Those of them that are held in the log, and not in the broker.
    #[schema(value_type = types::HeldByReason)]
    held: BTreeMap<HoldReason, u64>,
}

/// What came of the attempts that began in some time.
#[derive(Serialize, ToSchema)]
#[schema(as = AttemptStats)]
struct Window {
    /// Attempts that delivered.
    delivered: u64,
    /// Attempts that did not.
    failed: u64,
    /// The median of their durations, in milliseconds; null if there were none.
    #[schema(required)]
    p50_ms: Option<u64>,
    /// The 99th percentile of their durations, in milliseconds; null if there were none.
    #[schema(required)]
    p99_ms: Option<u64>,
}

impl From<AttemptStats> for Window {
    fn from(stats: AttemptStats) -> Self {
        let AttemptStats {
            delivered,
            failed,
            p50_ms,
            p99_ms,
        } = stats;
        Self {
            delivered,
            failed,
            p50_ms,
            p99_ms,
        }
    }
}

/// Show how an endpoint does.
#[utoipa::path(
    get, path = "/v1/endpoints/{id}/stats", operation_id = "show_endpoint_stats", tag = "endpoints",
    params(("id" = types::EndpointId, Path, description = "The endpoint's id.")),
    responses(
        (status = 200, body = Stats, description = "Its attempts, and what is under way."),
        problems::Refused,
        problems::NoSuchEndpoint,
    ),
)]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    Id(id): Id,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<Stats>, Problem> {
    find(&gateway, &id).await?;
    let (store, now) = (&gateway.store, Timestamp::now());
    let since = |span| Moment::Ago(span).seen_at(now);
    let hour = store.attempt_stats(&id, since(HOUR)).await?;
    let day = store.attempt_stats(&id, since(DAY)).await?;
    let under_way = store.under_way(&id).await?;
    let held = store.waiting_for(&id).await?;
    Ok(Json(Stats {
        hour: hour.into(),
        day: day.into(),
        pending: under_way.pending,
        retrying: under_way.retrying,
        held,
        endpoint: id,
    }))
}
