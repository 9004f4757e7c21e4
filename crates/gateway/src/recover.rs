use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use relay_event::{EndpointId, Invalid, Selection, Timestamp};
use relay_store::{Only, Undelivered};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    body,
    cursor::Cursor,
    endpoints::{self, Id, read_json},
    gateway::Gateway,
    moment::{Moment, period},
    openapi::{problems, types},
    problem::Problem,
    query::{Nothing, Query},
    resend,
};

/// The most events of one request.
const MOST: u32 = 1_000;

/// What an endpoint did not get.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Recover)]
struct Wanted {
    /// Events recorded at this time or later.
    #[schema(value_type = types::Moment, required)]
    since: Option<Moment>,
    /// Events recorded before this time; without it, before the request.
    #[schema(value_type = Option<types::Moment>, examples("2099-12-31T00:00:00Z"))]
    until: Option<Moment>,
    /// Also those that are pending or retrying, which are still on their way.
    #[serde(default)]
    #[schema(required = false)]
    include_waiting: bool,
    /// Only count them.
    #[serde(default)]
    #[schema(required = false)]
    dry_run: bool,
    /// Go on from the `next` of an answer; the other fields as before.
    #[schema(value_type = Option<String>, min_length = 1)]
    cursor: Option<Cursor>,
}

/// The deliveries that were begun anew.
#[derive(Serialize, ToSchema)]
#[schema(as = Recovered)]
struct Recovered {
    /// Events that this request begins to send.
    #[schema(examples(1000))]
    recovered: u32,
    /// The `cursor` to go on with, if there may be more.
    #[schema(value_type = Option<String>, required)]
    next: Option<Cursor>,
}

/// How many there are.
#[derive(Serialize, ToSchema)]
#[schema(as = Recoverable)]
struct Recoverable {
    /// Events that would be sent.
    #[schema(examples(2400))]
    events: u64,
}

/// A recovery as far as it has come.
struct Recovery {
    of: Undelivered,
    until: Timestamp,
    after: i64,
}

/// Send an endpoint what it did not get.
///
/// Events of its present types, source and subject, oldest first, whose delivery to it is dead or was never begun: at
/// most 1,000 in one request. Answered once the log has them on disk; they are sent as the endpoint has room, and delay
/// no live event. Go on with `next` as the `cursor` until it is null. The broker need not be there.
#[utoipa::path(
    post, path = "/v1/endpoints/{id}/recover", operation_id = "recover_endpoint", tag = "endpoints",
    params(("id" = types::EndpointId, Path, description = "The endpoint's id.")),
    request_body(content = Wanted, examples(
        ("count" = (summary = "Only count them", value = json!({"since": "24h", "dry_run": true}))),
        ("send" = (summary = "Send them", value = json!({"since": "24h", "include_waiting": true}))),
    )),
    responses(
        (status = 200, body = Recoverable, description = "How many there are, for `dry_run`."),
        (status = 202, body = Recovered, description = "They are in the log, and will be sent."),
        problems::RefusedBody,
        problems::NoSuchEndpoint,
    ),
)]
pub(crate) async fn recover(
    State(gateway): State<Gateway>,
    Id(id): Id,
    Query(Nothing {}): Query<Nothing>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Wanted = body::json(&read_json(&gateway, request).await?)?;
    let endpoint = endpoints::find(&gateway, &id).await?;
    let dry_run = wanted.dry_run;
    let recovery = wanted.begin(endpoint.id, endpoint.selection, Timestamp::now())?;
    if dry_run {
        let events = gateway.store.count_undelivered(&recovery.of).await?;
        return Ok(Json(Recoverable { events }).into_response());
    }
    let work = {
        let gateway = gateway.clone();
        async move { recovery.send(&gateway).await }
    };
    let recovered = gateway.to_the_end(work).await?;
    Ok((StatusCode::ACCEPTED, Json(recovered)).into_response())
}

impl Wanted {
    /// What is to be done now. A cursor brings the period it was begun with: spans back from now move
    /// on meanwhile, and what was at the edge would be left out.
    fn begin(self, endpoint: EndpointId, selection: Selection, now: Timestamp) -> Result<Recovery, Invalid> {
        let given = self.since.ok_or_else(|| Invalid::new("since", "is missing"))?;
        let (since, until, after) = match self.cursor {
            Some(_) if self.dry_run => {
                return Err(Invalid::new("cursor", "cannot stand beside `dry_run`"));
            }
            Some(Cursor::Recovery {
                endpoint: begun,
                since,
                until,
                after,
            }) if begun == endpoint => (since, until, after),
            Some(_) => return Err(Cursor::refused()),
            None => {
                let (since, until) = period(Some(given), self.until, now)?;
                (since.unwrap_or_default(), until.unwrap_or(now), 0)
            }
        };
        Ok(Recovery {
            of: Undelivered {
                endpoint,
                selection,
                since,
                until: Some(until),
                waiting_too: self.include_waiting,
            },
            until,
            after,
        })
    }
}

impl Recovery {
    async fn send(mut self, gateway: &Gateway) -> Result<Recovered, Problem> {
        let places = gateway.store.undelivered(&self.of, self.after, MOST).await?;
        let deliveries: Vec<_> = places
            .iter()
            .map(|place| (*place, self.of.endpoint.clone()))
            .collect();
        let only = if self.of.waiting_too {
            Only::All
        } else {
            Only::Undelivered
        };
        let sent = resend::begin(gateway, &deliveries, only).await?.len();
        self.after = places.last().copied().unwrap_or(self.after);
        let may_be_more = places.len() >= MOST as usize;
        let next = may_be_more.then(|| Cursor::Recovery {
            endpoint: self.of.endpoint.clone(),
            since: self.of.since,
            until: self.until,
            after: self.after,
        });
        Ok(self.said(u32::try_from(sent).unwrap_or(MOST), next))
    }

    fn said(&self, recovered: u32, next: Option<Cursor>) -> Recovered {
        tracing::info!(
            endpoint = %self.of.endpoint,
            events = recovered,
            all = next.is_none(),
            "recovered"
        );
        Recovered { recovered, next }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn begin(wanted: serde_json::Value, endpoint: &EndpointId, now: Timestamp) -> Result<Recovery, Invalid> {
        let wanted: Wanted = serde_json::from_value(wanted).unwrap();
        wanted.begin(endpoint.clone(), Selection::default(), now)
    }

    #[test]
    fn a_long_recovery_keeps_the_period_it_was_begun_with() {
        let (endpoint, now) = (EndpointId::generate(), Timestamp::now());
        let first = begin(serde_json::json!({"since": "1s"}), &endpoint, now).unwrap();
        assert_eq!((first.of.until, first.after), (Some(now), 0));
        let cursor = Cursor::Recovery {
            endpoint: endpoint.clone(),
            since: first.of.since,
            until: first.until,
            after: 17,
        };
        let later = now + Duration::from_secs(60);
        let wanted = serde_json::json!({"since": "1s", "cursor": cursor});
        let second = begin(wanted.clone(), &endpoint, later).unwrap();
        assert_eq!((second.of.since, second.of.until), (first.of.since, Some(now)));
        assert_eq!(second.after, 17);
        let other = begin(wanted, &EndpointId::generate(), later);
        assert_eq!(
            other.err().map(|refused| refused.field).as_deref(),
            Some("cursor")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let (endpoint, now) = (EndpointId::generate(), Timestamp::now());
        let cursor = Cursor::Events { before: 17 };
        for (wanted, field) in [
            (serde_json::json!({}), "since"),
            (serde_json::json!({"since": "1h", "until": "2h"}), "since"),
            (serde_json::json!({"since": "1h", "cursor": cursor}), "cursor"),
        ] {
            let refused = begin(wanted.clone(), &endpoint, now).err();
            assert_eq!(
                refused.map(|refused| refused.field).as_deref(),
                Some(field),
                "{wanted}"
            );
        }
    }
}
