//! Consumers that have their place in the feed kept for them.

use std::{collections::HashSet, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Path, Request, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use relay_event::{Invalid, Timestamp};
use relay_store::{Consumer, Extent};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use utoipa::ToSchema;

use super::poll::{Asked, answer};
use crate::{
    access::Scope,
    body,
    cursor::Cursor,
    endpoints::read_json,
    gateway::Gateway,
    openapi::{problems, types},
    problem::{Kind, Problem},
    query::{Nothing, Query},
};

/// Each is a series of the metrics.
const MOST: usize = 1_000;

/// How often their lags are told.
const TELL: Duration = Duration::from_secs(5);

/// A consumer's name, as a path has it.
pub(crate) struct Name(String);

impl FromRequestParts<Gateway> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, gateway).await;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        match path {
            Ok(Path(name)) if (1..=64).contains(&name.len()) && name.bytes().all(allowed) => Ok(Self(name)),
            _ => {
                let problem = "must be 1 to 64 ASCII letters, digits, dashes, underscores and dots";
                Err(Invalid::new("consumer", problem).into())
            }
        }
    }
}

/// What a consumer is done with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Commit {
    /// A cursor of the feed: it is done with everything up to there.
    #[schema(value_type = types::FeedCursor)]
    cursor: Cursor,
    /// Whether to go back, if that is before what was committed. Otherwise such a commit changes nothing.
    #[serde(default)]
    back: bool,
}

/// A named consumer.
#[derive(Serialize, ToSchema)]
#[schema(as = Consumer)]
pub(crate) struct View {
    #[schema(value_type = types::ConsumerName)]
    name: String,
    /// It is done with everything up to here.
    #[schema(value_type = types::FeedCursor)]
    cursor: Cursor,
    /// Events of the log after it, whether the consumer wants them or not.
    #[schema(examples(12))]
    lag: i64,
    /// When it last committed.
    #[schema(value_type = types::Time)]
    committed_at: Timestamp,
}

/// All named consumers.
#[derive(Serialize, ToSchema)]
#[schema(as = Consumers)]
struct Listed {
    consumers: Vec<View>,
}

impl View {
    fn of(consumer: Consumer, extent: &Extent) -> Self {
        Self {
            cursor: Cursor::feed(&extent.log, consumer.place),
            lag: lag(&consumer, extent),
            name: consumer.name,
            committed_at: consumer.committed_at,
        }
    }
}

/// What was forgotten can no longer be consumed.
fn lag(consumer: &Consumer, extent: &Extent) -> i64 {
    (extent.last - consumer.place.max(extent.forgotten)).max(0)
}

/// Read a consumer's feed.
///
/// As the feed, but it begins after what the consumer has committed. Until it has, `after` and `since` say
/// where it begins. Reading commits nothing: what was not committed comes again.
#[utoipa::path(
    get, path = "/v1/feed/{consumer}", operation_id = "read_consumer_feed", tag = "feed",
    params(("consumer" = types::ConsumerName, Path, description = "The consumer's name.", example = "billing"), Asked),
    responses(
        (status = 200, body = super::poll::Feed<'_>, description = "A page of the feed."),
        (status = 304, description = "As the client has it."),
        problems::Refused,
        problems::CursorExpired,
    ),
)]
pub(crate) async fn read(
    State(gateway): State<Gateway>,
    scope: Scope,
    Name(name): Name,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = match gateway.store.consumer(&name).await? {
        Some(consumer) => {
            let extent = gateway.extent().await?;
            gateway
                .place_of(&Cursor::feed(&extent.log, consumer.place), "consumer")
                .await?
        }
        None => asked.begin(&gateway).await?,
    };
    // A commit moves the place.
    let question = asked.question(&scope, after)?.moving();
    answer(&gateway, &question, &headers).await
}

/// Commit what a consumer is done with.
///
/// The first commit makes the consumer.
#[utoipa::path(
    post, path = "/v1/feed/{consumer}/commit", operation_id = "commit", tag = "feed",
    params(("consumer" = types::ConsumerName, Path, description = "The consumer's name.", example = "billing")),
    request_body(content = Commit, example = json!({"cursor": "ZmVlZCAwMTIzNDU2Nzg5YWJjZGVmIDE3"})),
    responses(
        (status = 200, body = View, description = "Where the consumer is now."),
        problems::RefusedBody,
        problems::CursorExpired,
    ),
)]
pub(crate) async fn commit(
    State(gateway): State<Gateway>,
    Name(name): Name,
    Query(Nothing {}): Query<Nothing>,
    request: Request,
) -> Result<Response, Problem> {
    let commit: Commit = body::json(&read_json(&gateway, request).await?)?;
    let place = gateway.place_of(&commit.cursor, "cursor").await?;
    if gateway.store.consumer(&name).await?.is_none() && gateway.store.consumers().await?.len() >= MOST {
        let problem = format!("would be one more than the {MOST} consumers that can be kept; remove one");
        return Err(Invalid::new("consumer", problem).into());
    }
    let now = Timestamp::now();
    gateway
        .store
        .commit_consumer(&name, place, commit.back, now)
        .await?;
    let consumer = gateway.store.consumer(&name).await?;
    let consumer = consumer.ok_or_else(no_such_consumer)?;
    let extent = gateway.extent().await?;
    Ok(Json(View::of(consumer, &extent)).into_response())
}

/// List the named consumers.
#[utoipa::path(
    get, path = "/v1/consumers", operation_id = "list_consumers", tag = "feed",
    responses((status = 200, body = Listed, description = "All consumers, by name.")),
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Response, Problem> {
    let extent = gateway.extent().await?;
    let consumers = gateway.store.consumers().await?;
    let consumers = consumers
        .into_iter()
        .map(|consumer| View::of(consumer, &extent))
        .collect();
    Ok(Json(Listed { consumers }).into_response())
}

/// Remove a consumer.
///
/// Its place is forgotten; the events are not.
#[utoipa::path(
    delete, path = "/v1/feed/{consumer}", operation_id = "remove_consumer", tag = "feed",
    params(("consumer" = types::ConsumerName, Path, description = "The consumer's name.", example = "billing")),
    responses((status = 204, description = "It is removed."), problems::Refused, problems::NoSuchConsumer),
)]
pub(crate) async fn remove(
    State(gateway): State<Gateway>,
    Name(name): Name,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Response, Problem> {
    match gateway.store.remove_consumer(&name).await? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(no_such_consumer()),
    }
}

fn no_such_consumer() -> Problem {
    Problem::new(Kind::NotFound, "there is no such consumer")
}

/// Keeps the lags up to date, for ever.
pub(crate) async fn tell_lags(gateway: &Gateway) {
    let mut ticks = tokio::time::interval(TELL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = HashSet::new();
    loop {
        ticks.tick().await;
        // While the store is away they stay as they were.
        if let (Some(head), Ok(consumers)) = (gateway.tail.head(), gateway.store.consumers().await) {
            for consumer in &consumers {
                let lag = lag(consumer, &head.extent);
                gateway.metrics.lag(&consumer.name, lag);
            }
            let there = consumers.into_iter().map(|consumer| consumer.name).collect();
            for gone in told.difference(&there) {
                gateway.metrics.no_consumer(gone);
            }
            told = there;
        }
    }
}
