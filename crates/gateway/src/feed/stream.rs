//! The feed as Server-Sent Events (HTML, section 9.2).

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{StreamExt, stream};
use relay_event::{Invalid, TypePattern};
use relay_store::EventFilter;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    follow::{Follower, Told},
    place::After,
};
use crate::{
    access::Scope,
    cursor::Cursor,
    gateway::Gateway,
    metrics::How,
    moment::Moment,
    openapi::{problems, types},
    problem::Problem,
    query::Query,
};

/// How long a client is to wait before it comes back, when it was cut off.
const RETRY: Duration = Duration::from_secs(2);

pub(crate) const LAST_EVENT_ID: &str = "last-event-id";

/// Which part of the feed, from where on.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Followed {
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
    /// After which event: `start` (the oldest that is kept comes first), `now`, or a cursor.
    #[param(value_type = Option<String>, min_length = 1)]
    after: Option<After>,
    /// Recorded at this time or later; not beside `after`.
    #[param(value_type = Option<types::Moment>)]
    since: Option<Moment>,
}

/// Which part of the feed, and how a stream tells it.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Streamed {
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
    /// After which event: `start` (the oldest that is kept comes first), `now`, or a cursor.
    #[param(value_type = Option<String>, min_length = 1)]
    after: Option<After>,
    /// Recorded at this time or later; not beside `after`.
    #[param(value_type = Option<types::Moment>)]
    since: Option<Moment>,
    /// `off` leaves `event` out, so that a browser's `onmessage` hears events of all types.
    #[param(value_type = types::Names, default = "on")]
    names: Names,
}

impl Streamed {
    fn parts(self) -> (Followed, Names) {
        let followed = Followed {
            types: self.types,
            source: self.source,
            subject: self.subject,
            after: self.after,
            since: self.since,
        };
        (followed, self.names)
    }
}

/// Set if the messages of a stream are named by their events' types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Names {
    #[default]
    On,
    Off,
}

impl Names {
    /// The events that `EventSource` has of its own (HTML, section 9.2.2).
    const OF_BROWSERS: [&str; 3] = ["error", "message", "open"];

    /// The name of a message about an event of this type, if it has one.
    fn name(self, event_type: &str) -> Option<&str> {
        (self == Self::On && !Self::OF_BROWSERS.contains(&event_type)).then_some(event_type)
    }
}

impl Followed {
    /// A follower of it. What a client heard last counts more than where it once began.
    pub(super) async fn begin(
        self,
        gateway: &Gateway,
        how: How,
        scope: Scope,
        headers: &HeaderMap,
    ) -> Result<Follower, Problem> {
        let asked = EventFilter {
            types: self.types,
            source: self.source,
            subject: self.subject,
            ..EventFilter::default()
        };
        let filter = scope.impose(asked)?;
        let after = match headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) {
            Some(id) => gateway.place_of(&last_event_id(id)?, LAST_EVENT_ID).await?,
            None => gateway.first_place(self.after, self.since, After::Now).await?,
        };
        Follower::begin(gateway, how, scope, filter, after).await
    }
}

fn last_event_id(id: &HeaderValue) -> Result<Cursor, Invalid> {
    let cursor = id
        .to_str()
        .ok()
        .and_then(|id| Cursor::try_from(id.to_owned()).ok());
    cursor.ok_or_else(|| Invalid::new(LAST_EVENT_ID, "must be the id of an event of this stream"))
}

/// Stream the feed.
///
/// Server-Sent Events, as a browser's `EventSource` or `curl -N` reads them: `id` is the cursor, `event` the
/// type, `data` the event. Events of the types `error`, `message` and `open` come without `event`, for
/// `EventSource` has events of its own by these names. A client that was cut off goes on after its
/// `Last-Event-ID`. One that gets nothing for 15 seconds is sent an `id` alone, so that this stays young;
/// some libraries hand that on as an event without data.
#[utoipa::path(
    get, path = "/v1/stream", operation_id = "stream_feed", tag = "feed",
    params(Streamed, ("Last-Event-ID" = Option<String>, Header, description = "The last `id` that came; it counts more than `after` and `since`.")),
    responses(
        (status = 200, body = String, content_type = "text/event-stream", description = "The events, as they come."),
        problems::Refused,
        problems::CursorExpired,
    ),
)]
pub(crate) async fn stream(
    State(gateway): State<Gateway>,
    scope: Scope,
    Query(streamed): Query<Streamed>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (followed, names) = streamed.parts();
    let follower = followed.begin(&gateway, How::Stream, scope, &headers).await?;
    let begun = Event::default().retry(RETRY).id(follower.place().to_string());
    let told = stream::unfold(follower, async |mut follower| {
        Some((follower.next().await?, follower))
    });
    let events = told.map(move |told| event(told, names));
    let begun = stream::once(async { begun });
    Ok(sse(begun.chain(events)))
}

/// A stream that proxies are not to hold back.
pub(crate) fn sse(events: impl stream::Stream<Item = Event> + Send + 'static) -> Response {
    const UNBUFFERED: (HeaderName, HeaderValue) = (
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    ([UNBUFFERED], Sse::new(events.map(Ok::<_, Infallible>))).into_response()
}

fn event(told: Told, names: Names) -> Event {
    match told {
        Told::Event(cursor, whole) => {
            let message = Event::default().id(cursor.to_string());
            let message = match names.name(whole.event.event_type.as_str()) {
                Some(name) => message.event(name),
                None => message,
            };
            message.data(one_text(&whole.body))
        }
        Told::Beat(cursor) => Event::default().comment("").id(cursor.to_string()),
    }
}

/// In JSON a bare carriage return is a space; in a stream it would end a line.
fn one_text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).replace('\r', " ")
}
