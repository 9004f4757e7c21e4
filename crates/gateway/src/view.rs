//! Endpoints as everybody with the token may see them.

use std::collections::BTreeMap;

use relay_event::{
    Endpoint, EndpointId, EndpointState, EndpointUrl, HoldReason, RetrySchedule, Secret, SignatureStyle,
    Timestamp, TypePattern,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::types;

/// Stands for what is not shown. No header value can be this, so that sending it back is refused.
const HIDDEN: &str = "…";

/// An endpoint without its secrets and the values of its headers.
#[derive(Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(crate) struct View<'a> {
    #[schema(value_type = types::EndpointId)]
    id: &'a EndpointId,
    #[schema(value_type = types::EndpointUrl)]
    url: &'a EndpointUrl,
    /// The types of the events it wants: those that any of these patterns matches.
    #[schema(value_type = Vec<types::TypePattern>)]
    types: &'a [TypePattern],
    /// The only source that it wants events of; null is any.
    #[schema(required, examples("/imports"))]
    source: Option<&'a str>,
    /// The only subject that it wants events about; null is any.
    #[schema(required, examples("import-42"))]
    subject: Option<&'a str>,
    /// The secrets that sign now, newest first.
    secrets: Vec<Expiry>,
    /// The waits between attempts.
    #[schema(value_type = Vec<types::Delay>)]
    retry: &'a RetrySchedule,
    /// For the whole exchange of an attempt, in milliseconds.
    #[schema(examples(30_000))]
    timeout_ms: u64,
    /// The most attempts under way at once, for each deliverer.
    #[schema(examples(32))]
    max_in_flight: u16,
    /// The most attempts begun in a second, for each deliverer; null is no limit.
    #[schema(required)]
    rate_limit: Option<u32>,
    /// Headers of its own for every attempt; the values are not shown.
    #[schema(value_type = HashMap<String, String>)]
    headers: BTreeMap<&'a str, &'static str>,
    #[schema(value_type = types::SignatureStyle)]
    signature: SignatureStyle,
    #[schema(value_type = types::EndpointState)]
    state: &'static str,
    /// Why it is disabled, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, examples("answered 410 Gone"))]
    reason: Option<&'a str>,
    /// The time since which no attempt succeeded, once that has gone on for a while. New events are held meanwhile,
    /// and one of them is tried now and then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::Time, required = false)]
    failing_since: Option<Timestamp>,
    /// Since when it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::Time, required = false)]
    since: Option<Timestamp>,
    /// The time after which it is removed; null is never.
    #[schema(value_type = Option<types::Time>, required)]
    expires_at: Option<Timestamp>,
    /// The number of deliveries that are held for it, by reason. Only in answers to GET, in a list only with `held`, and
    /// only if there are any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = types::HeldByReason, required = false)]
    held: BTreeMap<HoldReason, u64>,
    #[schema(value_type = types::Time)]
    created_at: Timestamp,
    #[schema(value_type = types::Time)]
    updated_at: Timestamp,
}

/// A secret, unseen.
#[derive(Serialize, ToSchema)]
struct Expiry {
    /// After this moment it signs no more; null for the newest.
    #[schema(value_type = Option<types::Time>, required)]
    expires_at: Option<Timestamp>,
}

/// All endpoints.
#[derive(Serialize, ToSchema)]
#[schema(as = Endpoints)]
pub(crate) struct Listed<'a> {
    pub(crate) endpoints: Vec<View<'a>>,
}

/// A new endpoint: this once, its secret is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedEndpoint)]
pub(crate) struct Created<'a> {
    #[serde(flatten)]
    view: View<'a>,
    #[schema(value_type = types::Secret, required)]
    secret: Option<&'a Secret>,
}

impl<'a> View<'a> {
    pub(crate) fn of(endpoint: &'a Endpoint, now: Timestamp) -> Self {
        let (reason, since) = match &endpoint.state {
            EndpointState::Disabled { reason, at } => (Some(reason.as_str()), Some(*at)),
            _ => (None, None),
        };
        Self {
            id: &endpoint.id,
            url: &endpoint.url,
            types: &endpoint.selection.types,
            source: endpoint.selection.source.as_deref(),
            subject: endpoint.selection.subject.as_deref(),
            secrets: active(endpoint, now)
                .map(|(_, expires_at)| Expiry { expires_at })
                .collect(),
            retry: &endpoint.retry,
            timeout_ms: endpoint.timeout_ms,
            max_in_flight: endpoint.max_in_flight,
            rate_limit: endpoint.rate_limit,
            headers: endpoint.headers.names().map(|name| (name, HIDDEN)).collect(),
            signature: endpoint.signature,
            state: endpoint.state.as_str(),
            reason,
            failing_since: endpoint.failing_since,
            since,
            expires_at: endpoint.expires_at,
            held: BTreeMap::new(),
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }

    /// The same with what is held for it.
    pub(crate) fn with_held(self, held: BTreeMap<HoldReason, u64>) -> Self {
        Self { held, ..self }
    }
}

impl<'a> Created<'a> {
    pub(crate) fn of(endpoint: &'a Endpoint) -> Self {
        Self {
            view: View::of(endpoint, endpoint.created_at),
            secret: endpoint.secrets.first().map(|held| &held.secret),
        }
    }
}

/// The secrets that sign now, newest first, each with its end.
pub(crate) fn active(
    endpoint: &Endpoint,
    now: Timestamp,
) -> impl Iterator<Item = (&Secret, Option<Timestamp>)> {
    endpoint
        .secrets
        .iter()
        .map(|held| (&held.secret, held.expires_at))
        .filter(move |(_, expires_at)| expires_at.is_none_or(|end| now < end))
}
