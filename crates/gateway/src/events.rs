//! Events come in: read and checked, then with the broker, and only then accepted.

mod batch;
mod binary;
mod callback;
mod confirmed;
mod idempotency;
mod key;
mod looks;
mod notes;
mod read;
mod send;

use std::slice;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use relay_event::{Event, EventId};
use serde::Serialize;
use serde_json::json;

use self::{
    callback::{Added, Callback},
    read::{Incoming, Read},
    send::{Sent, Unsent},
};
use crate::{
    gateway::Gateway,
    memory::Held,
    metrics::Refusal,
    openapi::{problems, types},
    problem::{Kind, Problem},
};

pub(crate) use self::{
    callback::{Added as CallbackEndpoint, Fields as CallbackFields},
    idempotency::Idempotency,
    notes::{Notes, notes},
};

const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What RFC 3986 has stay as it is in a path.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An event, and what came of it.
type Outcome = (EventId, Result<Sent, Unsent>);

/// Publish an event.
///
/// Answered when the broker has confirmed it. An event whose source and id were accepted before
/// gets the same answer and is not sent again. A batch, as `publish_batch` describes it, is taken here too.
///
/// An event in shorthand may have a `callback`, which adds an endpoint for one job: for all events of the event's
/// source and subject, over AMQP too. It is added before the event is published, so that it gets the event as well, unless
/// that was accepted before, and is removed after 24 hours or at `expires_at`. The same event with the same URL, sent again, adds no other. If the
/// event cannot be published in the end, the endpoint stays until then.
#[utoipa::path(
    post, path = "/v1/events", operation_id = "publish", tag = "events",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, example = "order-42-created",
            description = "Stands for the id of an event that has none: the same key and source are the same event."),
        ("ce-specversion" = Option<String>, Header, example = "1.0", description = "In binary mode, as all `ce-` headers."),
        ("ce-id" = Option<types::EventId>, Header, description = "In binary mode: the event's id."),
        ("ce-source" = Option<types::Source>, Header, description = "In binary mode: its source."),
        ("ce-type" = Option<types::EventType>, Header, description = "In binary mode: its type."),
        ("ce-subject" = Option<String>, Header, example = "42", description = "In binary mode: its subject."),
        ("ce-time" = Option<String>, Header, example = "2026-01-31T09:30:00Z", description = "In binary mode: when it happened."),
    ),
    request_body(
        description = "A whole CloudEvent, or one in shorthand, whose missing attributes are filled in. With \
            `ce-` headers it is the data of an event in CloudEvents' binary mode, of this or any other media type.",
        content(
            (types::EventToPublish = "application/cloudevents+json", example = json!({
                "specversion": "1.0", "id": "0198f2a4-6a5c-7bb2-9d35-1f0e8f1c2a3c", "source": "/orders",
                "type": "order.created", "subject": "42", "data": {"order_id": 42},
            })),
            (types::EventInShort = "application/json", example = json!({
                "type": "order.created", "data": {"order_id": 44},
            })),
            (types::Data = "application/octet-stream", example = "Order 45 was created."),
        ),
    ),
    responses(
        (
            status = 202, body = types::Accepted, description = "It is with the broker. A batch is answered with the `ids` of all its events, as `publish_batch` does.",
            headers(
                ("Location" = String, description = "The event's path in the log; not for the ids `.` and `..`."),
                ("Idempotent-Replayed" = String, description = "`true`, if it was published before."),
            ),
        ),
        problems::RefusedBody,
    ),
)]
pub(crate) async fn publish(State(gateway): State<Gateway>, request: Request) -> Result<Response, Problem> {
    let Read { incoming, held } = read::read(&gateway, request)
        .await
        .inspect_err(|problem| gateway.metrics.refused(reason(problem)))?;
    match incoming {
        Incoming::New(event) => {
            let sent = send::new(&gateway, &event).await;
            one((event.id().clone(), sent), None)
        }
        Incoming::Named(event) => {
            let mut outcomes = once(&gateway, vec![event], held).await?;
            let outcome = outcomes.pop().ok_or_else(Problem::internal)?;
            one(outcome, None)
        }
        Incoming::WithCallback(event, callback) => {
            let (outcome, added) = with_callback(&gateway, event, *callback, held).await?;
            one(outcome, Some(&added))
        }
        Incoming::Batch(events) => all(&once(&gateway, events, held).await?),
    }
}

/// Publish a batch of events.
///
/// At most 1,000, each a whole CloudEvent. Answered when the broker has confirmed all of them; events that were
/// accepted before are not sent again.
#[utoipa::path(
    post, path = "/v1/batches", operation_id = "publish_batch", tag = "events",
    request_body(
        description = "As CloudEvents' JSON format has a batch; `application/json` is taken for the same.",
        content(
            (Vec<types::CloudEvent> = "application/cloudevents-batch+json", example = json!([
                {
                    "specversion": "1.0", "id": "0198f2a4-6a5c-7bb2-9d35-1f0e8f1c2a3d", "source": "/orders",
                    "type": "order.created", "data": {"order_id": 43},
                },
                {
                    "specversion": "1.0", "id": "0198f2a4-6a5c-7bb2-9d35-1f0e8f1c2a3e", "source": "/orders",
                    "type": "invoice.sent", "data": {"order_id": 43},
                },
            ])),
        ),
    ),
    responses(
        (
            status = 202, body = types::AcceptedBatch, description = "All of it is with the broker.",
            headers(("Idempotent-Replayed" = String, description = "`true`, if all of it was published before.")),
        ),
        problems::RefusedBody,
    ),
)]
pub(crate) async fn publish_batch(
    State(gateway): State<Gateway>,
    request: Request,
) -> Result<Response, Problem> {
    let events = read::batch(&gateway, request)
        .await
        .inspect_err(|problem| gateway.metrics.refused(reason(problem)))?;
    all(&once(&gateway, events, None).await?)
}

/// Others may wait for the same events to be sent, so a client that goes away ends nothing.
async fn once(gateway: &Gateway, events: Vec<Event>, held: Option<Held>) -> Result<Vec<Outcome>, Problem> {
    let work = {
        let gateway = gateway.clone();
        async move {
            let _held = held;
            let outcomes = send::once(&gateway, &events).await;
            let ids = events.iter().map(|event| event.id().clone());
            Ok(ids.zip(outcomes).collect())
        }
    };
    gateway.to_the_end(work).await
}

/// Adds the endpoint of a callback, and publishes its event then. Goes on when the client goes away.
async fn with_callback(
    gateway: &Gateway,
    event: Event,
    callback: Callback,
    held: Option<Held>,
) -> Result<(Outcome, Added), Problem> {
    let work = {
        let gateway = gateway.clone();
        async move {
            let _held = held;
            let adding = async {
                gateway.check_broker()?;
                callback.add(&gateway).await
            };
            let added = adding
                .await
                .inspect_err(|_| gateway.metrics.refused(Refusal::Unavailable))?;
            let sent = send::once(&gateway, slice::from_ref(&event)).await.pop();
            let sent = sent.ok_or_else(Problem::internal)?;
            Ok(((event.id().clone(), sent), added))
        }
    };
    gateway.to_the_end(work).await
}

/// The answer to an event that was accepted.
#[derive(Serialize)]
struct Accepted<'a> {
    id: &'a EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<&'a Added>,
}

fn one((id, outcome): Outcome, callback: Option<&Added>) -> Result<Response, Problem> {
    match outcome {
        Ok(sent) => {
            // URLs cannot hold these two as words of a path.
            let location = (!matches!(id.as_str(), "." | "..")).then(|| {
                let path = utf8_percent_encode(id.as_str(), ENCODED);
                [(header::LOCATION, format!("/v1/events/{path}"))]
            });
            let body = Accepted { id: &id, callback };
            let accepted = (StatusCode::ACCEPTED, location, Json(body));
            Ok(replayed(accepted, sent == Sent::Before))
        }
        Err(Unsent::Unavailable) if callback.is_some() => Err(Problem::unpublished(id)),
        Err(Unsent::Unavailable) => Err(Problem::broker_unavailable()),
        Err(Unsent::Unconfirmed) => Err(Problem::unconfirmed(id)),
    }
}

/// The whole batch, or what of it is to be sent again.
fn all(outcomes: &[Outcome]) -> Result<Response, Problem> {
    let unsent = |(id, outcome): &Outcome| outcome.is_err().then(|| id.clone());
    let unsent: Vec<EventId> = outcomes.iter().filter_map(unsent).collect();
    if unsent.is_empty() {
        let ids: Vec<_> = outcomes.iter().map(|(id, _)| id).collect();
        let accepted = (StatusCode::ACCEPTED, Json(json!({ "ids": ids })));
        let before = |(_, outcome): &Outcome| *outcome == Ok(Sent::Before);
        return Ok(replayed(
            accepted,
            !outcomes.is_empty() && outcomes.iter().all(before),
        ));
    }
    let nothing_was_sent = |(_, outcome): &Outcome| *outcome == Err(Unsent::Unavailable);
    if outcomes.iter().all(nothing_was_sent) {
        return Err(Problem::broker_unavailable());
    }
    Err(Problem::unconfirmed_of_batch(unsent, outcomes.len()))
}

fn reason(refused: &Problem) -> Refusal {
    match refused.kind {
        Kind::TooLarge => Refusal::TooLarge,
        _ => Refusal::Invalid,
    }
}

fn replayed(accepted: impl IntoResponse, replayed: bool) -> Response {
    let mut response = accepted.into_response();
    if replayed {
        let value = HeaderValue::from_static("true");
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(id: &str, outcome: Result<Sent, Unsent>) -> Outcome {
        (id.parse().unwrap(), outcome)
    }

    fn is_replayed(response: &Response) -> bool {
        response.headers().contains_key(IDEMPOTENT_REPLAYED)
    }

    #[test]
    fn an_event_is_found_at_its_location() {
        let accepted = one(outcome("a/b?c=1%&~", Ok(Sent::Now)), None).unwrap();
        assert_eq!(
            accepted.headers()[header::LOCATION],
            "/v1/events/a%2Fb%3Fc%3D1%25%26~"
        );
        assert!(!is_replayed(&accepted));
        assert!(is_replayed(&one(outcome("a", Ok(Sent::Before)), None).unwrap()));
        let dots = one(outcome("..", Ok(Sent::Now)), None).unwrap();
        assert!(!dots.headers().contains_key(header::LOCATION));
    }

    #[test]
    fn a_batch_is_accepted_whole_or_not() {
        use Unsent::{Unavailable, Unconfirmed};
        let (now, before) = (|| outcome("1", Ok(Sent::Now)), || outcome("2", Ok(Sent::Before)));
        assert!(is_replayed(&all(&[before(), before()]).unwrap()));
        for accepted in [&[][..], &[now()], &[now(), before()]] {
            let accepted = all(accepted).unwrap();
            assert!(accepted.status() == StatusCode::ACCEPTED && !is_replayed(&accepted));
        }
        let away = || outcome("3", Err(Unavailable));
        let lost = || outcome("4", Err(Unconfirmed));
        let status = |outcomes: &[Outcome]| all(outcomes).unwrap_err().kind;
        assert_eq!(status(&[away(), away()]), Kind::BrokerUnavailable);
        for refused in [&[now(), away()][..], &[away(), lost()], &[before(), lost()]] {
            assert_eq!(status(refused), Kind::Unconfirmed);
        }
    }
}
