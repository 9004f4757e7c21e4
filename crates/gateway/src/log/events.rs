use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use relay_event::{Timestamp, TypePattern};
use relay_store::EventFilter;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Limit, view::EventView};
use crate::{
    cursor::Cursor,
    gateway::Gateway,
    moment::{Moment, period},
    openapi::{problems, types},
    problem::Problem,
    query::Query,
};

/// Which events.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// Of a type that one of these patterns matches, separated by commas; or the parameter comes for each. Within
    /// a pattern a comma is written `\,` and a backslash `\\`, percent-encoded or not.
    #[param(
        value_type = Option<Vec<types::TypePattern>>, style = Form, explode = false,
        example = json!(["order.*", "invoice.sent"])
    )]
    types: Vec<TypePattern>,
    /// Of this source.
    #[param(example = "/orders")]
    source: Option<String>,
    /// About this.
    #[param(example = "42")]
    subject: Option<String>,
    /// Recorded at this time or later.
    #[param(value_type = Option<types::Moment>)]
    since: Option<Moment>,
    /// Recorded before this time.
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
    fn filter(self) -> Result<EventFilter, Problem> {
        let (since, until) = period(self.since, self.until, Timestamp::now())?;
        Ok(EventFilter {
            types: self.types,
            source: self.source,
            subject: self.subject,
            since,
            until,
        })
    }
}

/// Events, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Events)]
struct Page<'a> {
    events: Vec<EventView<'a>>,
    /// The `cursor` of the next page, if there is one.
    #[schema(value_type = Option<String>, required)]
    next: Option<Cursor>,
}

/// List events.
///
/// Newest first, without their data. A page may have fewer events than its limit, even none, and a next page all
/// the same: a filter that matches few of many events is answered a part of the log at a time.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "list_events", tag = "events",
    params(Wanted),
    responses((status = 200, body = Page, description = "A page of events."), problems::Refused),
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(mut wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let before = match wanted.cursor.take() {
        None => None,
        Some(Cursor::Events { before }) => Some(before),
        Some(_) => return Err(Cursor::refused().into()),
    };
    let limit = wanted.limit.get();
    let filter = wanted.filter()?;
    let page = gateway.store.logged_events(&filter, before, limit).await?;
    let events = page.events.iter().map(EventView::of).collect();
    let next = page.before.map(|before| Cursor::Events { before });
    Ok(Json(Page { events, next }).into_response())
}
