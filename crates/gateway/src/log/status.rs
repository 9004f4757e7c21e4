//! What becomes of one event: asked for, waited for, or followed until every delivery is settled.

use std::{pin::pin, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response, sse::Event as Told},
};
use futures_util::stream;
use relay_broker::Delays;
use relay_event::{EventId, Timestamp};
use relay_store::{EventFilter, LoggedDelivery, LoggedEvent};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until, timeout_at};
use utoipa::{IntoParams, ToSchema};

use super::{
    Id, Which, find, json,
    view::{DeliveryOfEvent, EventView},
};
use crate::{
    access::Scope,
    feed::{LAST_EVENT_ID, Wait, Watch, sse},
    gateway::Gateway,
    openapi::{problems, types},
    problem::{Kind, Problem},
    query::Query,
    streams::OpenStream,
    validators::{self, Validators},
};

/// How often it is looked at how an event stands, lest an announcement was missed.
const LOOK: Duration = Duration::from_secs(30);

/// How long an event that was just published may take into the log.
const RECORDING: Duration = Duration::from_secs(10);

/// Which of the events with an id, and whether to wait for what becomes of it.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asked {
    /// The event's source; needed only if several sources use the same ids. Without it, the newest. A webhook
    /// id is of one event.
    #[param(example = "/orders")]
    source: Option<String>,
    /// How long to wait until it is settled; at most 60s.
    #[param(value_type = Option<String>, example = "30s")]
    wait: Wait,
}

/// An event, and how its deliveries stand.
struct Status {
    event: LoggedEvent,
    deliveries: Vec<LoggedDelivery>,
}

/// How an event stands.
#[derive(Serialize, ToSchema)]
#[schema(as = EventStatus)]
struct View<'a> {
    #[serde(flatten)]
    event: EventView<'a>,
    /// True if every delivery has ended: it is delivered, dead, or canceled.
    settled: bool,
    /// How its deliveries stand, in the order of the endpoints' ids.
    deliveries: Vec<DeliveryOfEvent<'a>>,
}

/// An event, how its deliveries stand, and the event itself.
#[derive(Serialize, ToSchema)]
#[schema(as = EventInFull)]
struct Whole<'a> {
    #[serde(flatten)]
    status: View<'a>,
    /// The event, byte for byte as it is delivered.
    #[schema(value_type = types::CloudEvent)]
    event: &'a RawValue,
}

impl Status {
    async fn of(gateway: &Gateway, event: LoggedEvent) -> Result<Self, Problem> {
        let deliveries = gateway.store.deliveries_of(event.sequence).await?;
        Ok(Self { event, deliveries })
    }

    fn is_settled(&self) -> bool {
        self.deliveries.iter().all(is_ended)
    }

    fn view(&self) -> View<'_> {
        View {
            event: EventView::of(&self.event),
            settled: self.is_settled(),
            deliveries: self.deliveries.iter().map(DeliveryOfEvent::of).collect(),
        }
    }

    /// Says how it stands, and nothing else.
    fn tag(&self) -> HeaderValue {
        validators::tag(&format!("{} {:?}", self.event.sequence, self.deliveries))
    }

    fn validators(&self, gateway: &Gateway, now: Timestamp) -> Validators {
        let tag = self.tag();
        let name = format!("event {}", self.event.sequence);
        let date = gateway.dates.of(&name, &tag, now);
        Validators {
            tag,
            date: Some(date),
        }
    }

    /// When it is worth to ask again, in seconds: at the next attempt, or soon.
    fn pause(&self) -> Option<u64> {
        let unsettled = self.deliveries.iter().filter(|delivery| !is_ended(delivery));
        let now = Timestamp::now();
        let due = |delivery: &LoggedDelivery| {
            let next = delivery.standing.next_at;
            next.map_or(1, |next| next.since(now).as_secs() + 1)
        };
        unsettled.map(due).min().map(|pause| pause.clamp(1, 60))
    }
}

fn is_ended(delivery: &LoggedDelivery) -> bool {
    delivery.standing.state.is_end()
}

/// Show an event.
///
/// With its data, and how its deliveries stand. With `wait` it is answered once every delivery has ended, or
/// the wait is over; `Retry-After` says in how many seconds to ask again, until then.
#[utoipa::path(
    get, path = "/v1/events/{id}", operation_id = "show_event", tag = "events",
    params(
        ("id" = types::EventId, Path, description = "The event's id or its `webhook-id`, percent-encoded."),
        Asked,
        validators::Conditions,
    ),
    responses(
        (status = 200, body = Whole, description = "The event.", headers(
            ("ETag" = String, description = "For `If-None-Match`."),
            ("Last-Modified" = String, description = "For `If-Modified-Since`; not in the second of a change."),
        )),
        (status = 304, description = "It stands as the client knows."),
        problems::Refused,
        problems::NoSuchEvent,
    ),
)]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    scope: Scope,
    Id(id): Id,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = scope.impose(of_source(asked.source))?;
    let until = Instant::now() + scope.at_most(asked.wait.0);
    let _open = match asked.wait.0.is_zero() {
        true => None,
        false => Some(gateway.streams.begin(&scope.holder())?),
    };
    let event = recorded(&gateway, &id, &wanted, until).await?;
    let status = settled(&gateway, event, until).await?;
    let now = Timestamp::now();
    let validators = status.validators(&gateway, now);
    let mut response = match validators.are_known(&headers, now) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => whole(&gateway, &status).await?,
    };
    validators.say(&mut response, now);
    if let Some(pause) = status.pause() {
        response.headers_mut().insert(header::RETRY_AFTER, pause.into());
    }
    Ok(response)
}

async fn whole(gateway: &Gateway, status: &Status) -> Result<Response, Problem> {
    let body = gateway.store.event_body(status.event.sequence).await?;
    let body = body.ok_or_else(Problem::no_such_event)?;
    let whole = Whole {
        status: status.view(),
        event: json(&status.event, &body)?,
    };
    Ok(Json(whole).into_response())
}

fn of_source(source: Option<String>) -> EventFilter {
    EventFilter {
        source,
        ..EventFilter::default()
    }
}

/// The event, once it is in the log. One that is not wanted might as well not be there.
async fn recorded(
    gateway: &Gateway,
    id: &EventId,
    wanted: &EventFilter,
    until: Instant,
) -> Result<LoggedEvent, Problem> {
    let mut delays = Delays::new();
    let source = wanted.source.as_deref();
    loop {
        let found = match find(gateway, id, source).await {
            Ok(event) if !wanted.matches(&event) => Err(Problem::no_such_event()),
            found => found,
        };
        match found {
            Err(problem) if problem.kind == Kind::NoSuchEvent => {
                let waited = tokio::select! {
                    () = gateway.shutdown.cancelled() => false,
                    waited = timeout_at(until, delays.wait()) => waited.is_ok(),
                };
                if !waited {
                    return Err(problem);
                }
            }
            found => return found,
        }
    }
}

/// How an event stands, once it is settled or the time is over.
async fn settled(gateway: &Gateway, event: LoggedEvent, until: Instant) -> Result<Status, Problem> {
    let watch = gateway.tail.watch(event.sequence);
    loop {
        let mut changed = pin!(watch.changed());
        changed.as_mut().enable();
        let status = Status::of(gateway, event.clone()).await?;
        if status.is_settled() {
            return Ok(status);
        }
        tokio::select! {
            () = changed => {}
            () = sleep_until(until.min(Instant::now() + LOOK)) => {}
            () = gateway.shutdown.cancelled() => return Ok(status),
        }
        if Instant::now() >= until {
            return Ok(status);
        }
    }
}

/// Follow what becomes of an event.
///
/// Server-Sent Events: a `status` as it is and at every change, and at last, when every delivery has ended,
/// `settled`. A client that comes back after that is answered `204`, so that a browser's `EventSource` stops.
/// An event that is not in the log may have been published just now, and a browser does not come back after a
/// `404`: so it is waited for, for 10 seconds.
#[utoipa::path(
    get, path = "/v1/events/{id}/stream", operation_id = "follow_event", tag = "events",
    params(
        ("id" = types::EventId, Path, description = "The event's id or its `webhook-id`, percent-encoded."),
        Which,
        ("Last-Event-ID" = Option<String>, Header, description = "The last `id` that came."),
    ),
    responses(
        (status = 200, body = String, content_type = "text/event-stream", description = "How it stands, at every change."),
        (status = 204, description = "It is settled, as the client knows."),
        problems::Refused,
        problems::NoSuchEvent,
    ),
)]
pub(crate) async fn follow(
    State(gateway): State<Gateway>,
    scope: Scope,
    Id(id): Id,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = scope.impose(of_source(which.source))?;
    let open = gateway.streams.begin(&scope.holder())?;
    let until = Instant::now() + scope.at_most(RECORDING);
    let event = recorded(&gateway, &id, &wanted, until).await?;
    let status = Status::of(&gateway, event).await?;
    let last = headers.get(LAST_EVENT_ID).cloned();
    if status.is_settled() && last == Some(status.tag()) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let follower = Follower {
        watch: gateway.tail.watch(status.event.sequence),
        gateway,
        scope,
        event: status.event,
        last,
        ended: false,
        _open: open,
    };
    let told = stream::unfold(follower, async |mut follower| {
        Some((follower.next().await?, follower))
    });
    Ok(sse(told))
}

/// Follows one event.
struct Follower {
    gateway: Gateway,
    scope: Scope,
    event: LoggedEvent,
    watch: Watch,
    /// What the client was told last.
    last: Option<HeaderValue>,
    ended: bool,
    _open: OpenStream,
}

impl Follower {
    /// How it stands, when it stands otherwise than told last; `None` after it was settled. A client that
    /// is told nothing for a while is sent a comment.
    async fn next(&mut self) -> Option<Told> {
        if self.ended {
            return None;
        }
        let mut delays = Delays::new();
        let beat = Instant::now() + crate::feed::BEAT;
        loop {
            let mut changed = pin!(self.watch.changed());
            changed.as_mut().enable();
            let status = Status::of(&self.gateway, self.event.clone()).await;
            let failed = status.is_err();
            if let Ok(status) = status
                && self.last.as_ref() != Some(&status.tag())
            {
                self.ended = status.is_settled();
                self.last = Some(status.tag());
                return told(&status);
            }
            tokio::select! {
                () = changed => {}
                () = delays.wait(), if failed => {}
                () = sleep_until(beat) => return Some(Told::default().comment("")),
                () = self.gateway.shutdown.cancelled() => return None,
                () = self.scope.ended() => return None,
            }
        }
    }
}

fn told(status: &Status) -> Option<Told> {
    let name = if status.is_settled() { "settled" } else { "status" };
    let tag = status.tag();
    let told = Told::default().event(name).id(tag.to_str().ok()?);
    told.json_data(status.view()).ok()
}
