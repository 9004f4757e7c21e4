use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use relay_broker::PublishError;
use relay_event::{Event, EventId, Fill, Timestamp};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    body,
    gateway::Gateway,
    metrics::Refusal,
    problem::{Kind, Problem},
};

/// `POST /v1/events`: answers only when the broker has confirmed.
pub(crate) async fn publish(State(gateway): State<Gateway>, request: Request) -> Result<Response, Problem> {
    let published = match read(&gateway, request).await {
        Ok(event) => confirm(&gateway, &event).await.map(|()| event),
        Err(problem) => Err(problem),
    };
    match published {
        Ok(event) => {
            gateway.metrics.published.inc();
            tracing::debug!(event = %event.id(), "published");
            Ok((StatusCode::ACCEPTED, Json(json!({ "id": event.id() }))).into_response())
        }
        Err(problem) => {
            gateway.metrics.refused(reason(&problem));
            Err(problem)
        }
    }
}

/// Reads an event: a whole CloudEvent, or one whose missing attributes are filled in.
async fn read(gateway: &Gateway, request: Request) -> Result<Event, Problem> {
    let (head, body) = request.into_parts();
    let media_type = body::media_type(&head.headers);
    let whole = match media_type.as_deref() {
        Some("application/cloudevents+json") => true,
        Some("application/json") => false,
        _ => return Err(unsupported()),
    };
    let config = &gateway.config;
    let body = body::read(&head.headers, body, config.max_event_bytes, config.body_timeout).await?;
    if whole {
        return Ok(Event::parse(body)?);
    }
    complete(gateway, body)
}

/// What is filled in counts too: deliverers have the same limit.
fn complete(gateway: &Gateway, body: Bytes) -> Result<Event, Problem> {
    let fill = Fill {
        id: EventId::generate(),
        source: gateway.config.source.clone(),
        time: Timestamp::now(),
    };
    let event = Event::complete(body, &fill)?;
    let limit = gateway.config.max_event_bytes;
    if event.body().len() > limit {
        return Err(Problem::new(
            Kind::TooLarge,
            format!("at most {limit} bytes are allowed, with the attributes that are filled in"),
        ));
    }
    Ok(event)
}

async fn confirm(gateway: &Gateway, event: &Event) -> Result<(), Problem> {
    let publishing = gateway.broker.publish_event(event, Timestamp::now());
    match timeout(gateway.config.confirm_timeout, publishing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(PublishError::Unavailable(_))) => Err(Problem::broker_unavailable()),
        Ok(Err(PublishError::Lost | PublishError::Refused)) | Err(_) => {
            tracing::debug!(event = %event.id(), "not confirmed");
            Err(Problem::unconfirmed(event.id().clone()))
        }
    }
}

fn unsupported() -> Problem {
    Problem::new(
        Kind::UnsupportedMediaType,
        "the content type must be application/cloudevents+json (a whole event) or application/json (what is missing of id, source, time and specversion is filled in), in UTF-8",
    )
}

fn reason(problem: &Problem) -> Refusal {
    match problem.kind {
        Kind::TooLarge => Refusal::TooLarge,
        Kind::BrokerUnavailable => Refusal::Unavailable,
        Kind::Unconfirmed => Refusal::Unconfirmed,
        _ => Refusal::Invalid,
    }
}
