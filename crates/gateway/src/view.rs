//! Endpoints as everybody with the token may see them.

use std::collections::BTreeMap;

use relay_event::{
    Endpoint, EndpointId, EndpointState, EndpointUrl, RetrySchedule, Secret, SignatureStyle, Timestamp,
    TypePattern,
};
use serde::Serialize;

/// Stands for what is not shown. No header value can be this, so that sending it back is refused.
const HIDDEN: &str = "…";

/// An endpoint without its secrets and the values of its headers.
#[derive(Serialize)]
pub(crate) struct View<'a> {
    id: &'a EndpointId,
    url: &'a EndpointUrl,
    types: &'a [TypePattern],
    secrets: Vec<Expiry>,
    retry: &'a RetrySchedule,
    timeout_ms: u64,
    max_in_flight: u16,
    rate_limit: Option<u32>,
    headers: BTreeMap<&'a str, &'static str>,
    signature: SignatureStyle,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Serialize)]
struct Expiry {
    expires_at: Option<Timestamp>,
}

/// A new endpoint: this once, its secret is shown.
#[derive(Serialize)]
pub(crate) struct Created<'a> {
    #[serde(flatten)]
    view: View<'a>,
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
            types: &endpoint.types,
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
            since,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
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
