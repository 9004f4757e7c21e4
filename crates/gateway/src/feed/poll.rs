//! The feed in pages. A page that has nothing yet can be waited for.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use relay_event::{Timestamp, TypePattern};
use relay_store::EventFilter;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use super::{
    Item,
    place::After,
    read::{Page, Size},
};
use crate::{
    access::Scope,
    cursor::Cursor,
    gateway::Gateway,
    log::{Limit, json},
    metrics::How,
    moment::Moment,
    openapi::{problems, types},
    problem::Problem,
    query::Query,
    streams::Holder,
    validators::{self, Conditions, Date, Validators},
};

/// The bytes of events in one answer.
const BYTES: u64 = 1 << 20;

/// The longest that a client is asked to leave between two polls, in seconds.
const LONGEST_PAUSE: u64 = 60;

/// How long a request may wait for something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Wait(pub(crate) Duration);

impl TryFrom<String> for Wait {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let wait = humantime::parse_duration(&text).ok();
        wait.filter(|wait| *wait <= Duration::from_secs(60))
            .map(Self)
            .ok_or("must be a time of at most 60s, such as 30s")
    }
}

/// Which part of the feed.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asked {
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
    /// After which event: `start` (the oldest that is kept comes first), `now`, or the `next` of an answer.
    #[param(value_type = Option<String>, min_length = 1)]
    after: Option<After>,
    /// Recorded at this time or later; not beside `after`.
    #[param(value_type = Option<types::Moment>)]
    since: Option<Moment>,
    /// At most so many.
    #[param(value_type = u32, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// How long to wait for an event, if there is none yet; at most 60s.
    #[param(value_type = Option<String>, example = "30s")]
    wait: Wait,
}

impl Asked {
    /// What is asked for, from this place on.
    pub(super) fn question(self, scope: &Scope, after: i64) -> Result<Question, Problem> {
        let asked = EventFilter {
            types: self.types,
            source: self.source,
            subject: self.subject,
            ..EventFilter::default()
        };
        Ok(Question {
            filter: scope.impose(asked)?,
            after,
            limit: self.limit.get(),
            wait: scope.at_most(self.wait.0),
            moves: self.since.is_some(),
            holder: scope.holder(),
        })
    }

    /// The place it begins after.
    pub(super) async fn begin(&self, gateway: &Gateway) -> Result<i64, Problem> {
        gateway
            .first_place(self.after.clone(), self.since, After::Start)
            .await
    }
}

/// A page of the feed that is asked for.
pub(super) struct Question {
    filter: EventFilter,
    after: i64,
    limit: u32,
    wait: Duration,
    /// Set if the page may be another one though the log is as it was.
    moves: bool,
    holder: Holder,
}

/// Events in the order of the log.
#[derive(Serialize, ToSchema)]
#[schema(as = Feed)]
pub(super) struct Feed<'a> {
    /// The events, oldest first.
    events: Vec<Item<'a>>,
    /// What to ask for next, as `after`: it never skips an event, and never repeats one.
    #[schema(value_type = types::FeedCursor)]
    next: Cursor,
    /// Whether there is more at once.
    more: bool,
}

/// Read the feed.
///
/// The log forwards: begin anywhere, and go on with `next`. An answer without events is `304` to a client
/// that has it already. `Retry-After` says in how many seconds to ask again: 0 while there is more, and up
/// to 60 the longer there was nothing new.
#[utoipa::path(
    get, path = "/v1/feed", operation_id = "read_feed", tag = "feed",
    params(Asked, Conditions),
    responses(
        (status = 200, body = Feed<'_>, description = "A page of the feed.", headers(
            ("ETag" = String, description = "For `If-None-Match`."),
            ("Last-Modified" = String, description = "For `If-Modified-Since`: when the log changed last; not in that second, and not with `since`."),
        )),
        (status = 304, description = "As the client has it."),
        problems::Refused,
        problems::CursorExpired,
    ),
)]
pub(crate) async fn poll(
    State(gateway): State<Gateway>,
    scope: Scope,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = asked.begin(&gateway).await?;
    answer(&gateway, &asked.question(&scope, after)?, &headers).await
}

/// Answers with a page, once it has something or the wait is over.
pub(super) async fn answer(
    gateway: &Gateway,
    question: &Question,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let page = question.page(gateway).await?;
    let now = Timestamp::now();
    let validators = Validators {
        tag: question.tag(&page),
        date: question.date(gateway, &page),
    };
    let mut response = match validators.are_known(headers, now) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Json(view(&page)?).into_response(),
    };
    validators.say(&mut response, now);
    let pause = HeaderValue::from(pause(gateway, &page));
    response.headers_mut().insert(header::RETRY_AFTER, pause);
    Ok(response)
}

fn view(page: &Page) -> Result<Feed<'_>, Problem> {
    let cursor = |place| Cursor::feed(&page.extent.log, place);
    let items = page.events.iter().map(|whole| {
        Ok(Item {
            cursor: cursor(whole.event.sequence),
            webhook_id: whole.event.webhook_id(),
            event: json(&whole.event, &whole.body)?,
        })
    });
    Ok(Feed {
        events: items.collect::<Result<_, Problem>>()?,
        next: cursor(page.through),
        more: page.more(),
    })
}

/// The longer there was nothing new, the longer until there is.
fn pause(gateway: &Gateway, page: &Page) -> u64 {
    if page.more() {
        return 0;
    }
    let idle = gateway.tail.head().map(|head| head.grown_at.elapsed());
    (idle.unwrap_or_default().as_secs() / 10).clamp(1, LONGEST_PAUSE)
}

impl Question {
    /// The same, where more than the log decides about the page.
    pub(super) fn moving(self) -> Self {
        Self { moves: true, ..self }
    }

    async fn page(&self, gateway: &Gateway) -> Result<Page, Problem> {
        let size = Size {
            events: self.limit,
            bytes: BYTES,
        };
        let mut page = gateway.read(&self.filter, self.after, size).await?;
        if !page.events.is_empty() || self.wait.is_zero() {
            return Ok(page);
        }
        let _open = gateway.streams.begin(&self.holder)?;
        let _following = gateway.tail.follow(gateway.metrics.follower(How::Poll));
        let something = async {
            while page.events.is_empty() {
                gateway.tail.beyond(page.through).await;
                page = gateway.read(&self.filter, page.through, size).await?;
            }
            Ok::<(), Problem>(())
        };
        tokio::select! {
            () = gateway.shutdown.cancelled() => {}
            came = timeout(self.wait, something) => came.unwrap_or(Ok(()))?,
        }
        Ok(page)
    }

    /// The same question has the same page for as long as the log is as it is.
    fn date(&self, gateway: &Gateway, page: &Page) -> Option<Date> {
        let head = gateway.tail.head()?;
        let date = Date::seen_at(head.changed_at).exact();
        // Another gateway may know more than this one, unless this one has looked since.
        let is_up_to_date = head.read_at.is_some_and(|read_at| date.is_over(read_at));
        (!self.moves && head.extent == page.extent && is_up_to_date).then_some(date)
    }

    fn tag(&self, page: &Page) -> HeaderValue {
        let (log, through) = (&page.extent.log, page.through);
        validators::tag(&format!(
            "{log} {} {through} {} {} {:?}",
            self.after,
            page.more(),
            self.limit,
            self.filter
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_a_limit() {
        let wait = |text: &str| Wait::try_from(text.to_owned());
        assert_eq!(wait("30s"), Ok(Wait(Duration::from_secs(30))));
        assert_eq!(wait("0s"), Ok(Wait::default()));
        for text in ["", "30", "61s", "-1s", "soon"] {
            assert!(wait(text).is_err(), "{text}");
        }
    }
}
