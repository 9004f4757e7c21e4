//! The callback of one job: an endpoint that is added beside an event, for the event and those that follow it.

use std::time::Duration;

use relay_event::{Endpoint, EndpointId, EndpointUrl, Event, Invalid, Secret, Timestamp, TypePattern};
use relay_store::Error;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{
    body, changes,
    fields::{check_expiry, given},
    gateway::Gateway,
    openapi::types,
    problem::Problem,
};

/// The time after which the endpoint is removed, unless the callback says another.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The body's member that holds it, by which its fields are named in refusals.
#[derive(Deserialize)]
struct Given {
    callback: Fields,
}

/// A new endpoint for one job: it wants every event of the event's source and subject, this one too. The event must
/// have a subject.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Callback)]
pub(crate) struct Fields {
    #[schema(value_type = types::EndpointUrl)]
    url: EndpointUrl,
    /// One is made up unless it is given.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = types::Secret)]
    secret: Option<Secret>,
    /// The time after which the endpoint is removed, in the future; 24 hours from now unless it is given.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = types::Time, examples("2099-12-31T00:00:00Z"))]
    expires_at: Option<Timestamp>,
}

/// An endpoint that is to be added before an event is published.
pub(super) struct Callback {
    endpoint: Endpoint,
    is_secret_new: bool,
}

/// The endpoint of a callback.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CallbackEndpoint)]
pub(crate) struct Added {
    #[schema(value_type = types::EndpointId)]
    id: EndpointId,
    /// The time after which it is removed; null if it is removed, or has been changed to stay.
    #[schema(value_type = Option<types::Time>, required)]
    expires_at: Option<Timestamp>,
    /// True if an earlier request added the endpoint, and it is removed by now; else it is missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    removed: bool,
    /// The secret that was made up for the endpoint, in the answer of the request that added it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = types::Secret, required = false)]
    secret: Option<Secret>,
}

impl Callback {
    /// Reads the JSON object of an event's callback.
    ///
    /// The endpoint's id is always the same for one event and one URL, so that a request that is sent again adds no
    /// second endpoint.
    pub(super) fn read(json: &[u8], event: &Event, now: Timestamp) -> Result<Self, Problem> {
        let named = [br#"{"callback":"#, json, b"}"].concat();
        let Given { callback } = body::json(&named)?;
        let Some(subject) = event.subject() else {
            let problem =
                "needs a `subject` of the event: the endpoint gets the events of the same source and subject";
            return Err(Invalid::new("callback", problem).into());
        };
        if let Some(time) = callback.expires_at {
            check_expiry("callback.expires_at", time, now)?;
        }
        let is_secret_new = callback.secret.is_none();
        let secret = callback.secret.unwrap_or_else(Secret::generate);
        let id = id(event, &callback.url);
        let mut endpoint = Endpoint::new(callback.url, vec![TypePattern::any()], secret, now);
        endpoint.id = id;
        endpoint.selection.source = Some(event.source().to_owned());
        endpoint.selection.subject = Some(subject.to_owned());
        endpoint.expires_at = Some(callback.expires_at.unwrap_or(now + LIFETIME));
        Ok(Self {
            endpoint,
            is_secret_new,
        })
    }

    /// Adds the endpoint. One that is there, or was removed within the last week, is left as it is.
    pub(super) async fn add(self, gateway: &Gateway) -> Result<Added, Problem> {
        let id = self.endpoint.id.clone();
        let (endpoint, is_new) = match changes::create(gateway, self.endpoint).await {
            Ok(endpoint) => (Some(endpoint), true),
            Err(Error::Exists { .. }) => (gateway.store.endpoint(&id).await?, false),
            Err(error) => return Err(error.into()),
        };
        let is_told = is_new && self.is_secret_new;
        let newest = endpoint.as_ref().and_then(|endpoint| endpoint.secrets.first());
        Ok(Added {
            id,
            expires_at: endpoint.as_ref().and_then(|endpoint| endpoint.expires_at),
            removed: endpoint.is_none(),
            secret: newest.filter(|_| is_told).map(|newest| newest.secret.clone()),
        })
    }
}

/// The first half of SHA-256 over source, id and URL, with a zero byte between them: none of them holds one.
fn id(event: &Event, url: &EndpointUrl) -> EndpointId {
    let digest = Sha256::new()
        .chain_update(event.source())
        .chain_update([0])
        .chain_update(event.id().as_str())
        .chain_update([0])
        .chain_update(url.to_string())
        .finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    EndpointId::from_bytes(half)
}
