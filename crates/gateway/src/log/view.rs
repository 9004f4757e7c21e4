//! What the log says, as everybody with the token may see it.

use relay_event::{
    Attempt, AttemptId, DeadReason, DeliveryState, EndpointId, ErrorClass, EventId, EventType, Standing,
    Timestamp, WebhookId,
};
use relay_store::{LoggedDelivery, LoggedEvent};
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::types;

/// An event of the log, without its data.
#[derive(Serialize, ToSchema)]
#[schema(as = LoggedEvent)]
pub(super) struct EventView<'a> {
    /// Its place in the log.
    #[schema(examples(17))]
    sequence: i64,
    #[schema(value_type = types::EventId)]
    id: &'a EventId,
    #[schema(value_type = types::WebhookId)]
    webhook_id: WebhookId,
    #[schema(value_type = types::Source)]
    source: &'a str,
    #[schema(value_type = types::EventType)]
    r#type: &'a EventType,
    /// What it is about, if it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, examples("42"))]
    subject: Option<&'a str>,
    /// When it was published, if its producer said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::Time, required = false)]
    published_at: Option<Timestamp>,
    /// When it was written into the log.
    #[schema(value_type = types::Time)]
    recorded_at: Timestamp,
    /// Its size in structured mode, in bytes.
    #[schema(examples(812))]
    size_bytes: u64,
}

impl<'a> EventView<'a> {
    pub(super) fn of(event: &'a LoggedEvent) -> Self {
        Self {
            sequence: event.sequence,
            id: &event.id,
            webhook_id: event.webhook_id(),
            source: &event.source,
            r#type: &event.event_type,
            subject: event.subject.as_deref(),
            published_at: event.published_at,
            recorded_at: event.recorded_at,
            size_bytes: event.size,
        }
    }
}

/// How a delivery stands.
#[derive(Serialize, ToSchema)]
#[schema(as = Standing)]
struct StandingView {
    #[schema(value_type = types::DeliveryState)]
    state: DeliveryState,
    /// Attempts made since the event was published, redelivered or replayed.
    #[schema(examples(2))]
    attempts: u32,
    /// Since when it stands so.
    #[schema(value_type = types::Time)]
    at: Timestamp,
    /// When the next attempt is due, if it is retrying.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::Time, required = false)]
    next_at: Option<Timestamp>,
    /// Why it is dead, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::DeadReason, required = false)]
    reason: Option<DeadReason>,
    /// The status the last attempt was answered with, if one came.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u16, required = false, examples(500))]
    status: Option<u16>,
    /// Why the last attempt got no usable answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::ErrorClass, required = false)]
    error: Option<ErrorClass>,
}

impl StandingView {
    fn of(standing: &Standing) -> Self {
        Self {
            state: standing.state,
            attempts: standing.attempts,
            at: standing.at,
            next_at: standing.next_at,
            reason: standing.reason,
            status: standing.status,
            error: standing.error,
        }
    }
}

/// A delivery, beside its event.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryOfEvent)]
pub(super) struct DeliveryOfEvent<'a> {
    #[schema(value_type = types::EndpointId)]
    endpoint: &'a EndpointId,
    #[serde(flatten)]
    standing: StandingView,
}

impl<'a> DeliveryOfEvent<'a> {
    pub(super) fn of(delivery: &'a LoggedDelivery) -> Self {
        Self {
            endpoint: &delivery.endpoint,
            standing: StandingView::of(&delivery.standing),
        }
    }
}

/// A delivery: one event on its way to one endpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(super) struct DeliveryView<'a> {
    #[schema(value_type = types::EventId)]
    event: &'a EventId,
    #[schema(value_type = types::WebhookId)]
    webhook_id: WebhookId,
    #[schema(value_type = types::Source)]
    source: &'a str,
    #[schema(value_type = types::EventType)]
    r#type: &'a EventType,
    #[serde(flatten)]
    delivery: DeliveryOfEvent<'a>,
}

impl<'a> DeliveryView<'a> {
    pub(super) fn of(delivery: &'a LoggedDelivery) -> Self {
        Self {
            event: &delivery.event_id,
            webhook_id: delivery.webhook_id(),
            source: &delivery.source,
            r#type: &delivery.event_type,
            delivery: DeliveryOfEvent::of(delivery),
        }
    }
}

/// One attempt to deliver an event to an endpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
pub(super) struct AttemptView<'a> {
    #[schema(value_type = types::AttemptId)]
    id: &'a AttemptId,
    #[schema(value_type = types::EndpointId)]
    endpoint: &'a EndpointId,
    /// Which attempt it was since the event was published, redelivered or replayed: 1 is the first.
    #[schema(examples(1))]
    attempt: u32,
    /// When it began.
    #[schema(value_type = types::Time)]
    at: Timestamp,
    /// How long the exchange took, in milliseconds.
    #[schema(examples(83))]
    duration_ms: u64,
    /// How long until the answer's status and headers were there, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false, examples(80))]
    first_byte_ms: Option<u64>,
    /// The status answered, if one came.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u16, required = false, examples(500))]
    status: Option<u16>,
    /// Why it got no usable answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::ErrorClass, required = false)]
    error: Option<ErrorClass>,
    /// The error in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, examples("connection refused"))]
    detail: Option<&'a str>,
    /// The beginning of the answer's body.
    #[serde(skip_serializing_if = "str::is_empty")]
    #[schema(value_type = String, examples("out of order"))]
    answer: &'a str,
    /// How the delivery stood after it.
    #[schema(value_type = types::DeliveryState)]
    state: DeliveryState,
    /// When the next attempt was due then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::Time, required = false)]
    next_at: Option<Timestamp>,
    /// Why it was given up, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::DeadReason, required = false)]
    reason: Option<DeadReason>,
    /// Which deliverer made it.
    #[schema(examples("relay-1"))]
    deliverer: &'a str,
    /// When the event was published, redelivered or replayed, if its producer said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::Time, required = false)]
    published_at: Option<Timestamp>,
}

impl<'a> AttemptView<'a> {
    pub(super) fn of(attempt: &'a Attempt) -> Self {
        Self {
            id: &attempt.id,
            endpoint: &attempt.endpoint,
            attempt: attempt.attempt,
            at: attempt.at,
            duration_ms: attempt.duration_ms,
            first_byte_ms: attempt.first_byte_ms,
            status: attempt.status,
            error: attempt.error,
            detail: attempt.detail.as_deref(),
            answer: &attempt.answer,
            state: attempt.state,
            next_at: attempt.next_at,
            reason: attempt.reason,
            deliverer: &attempt.deliverer,
            published_at: attempt.published_at,
        }
    }
}
