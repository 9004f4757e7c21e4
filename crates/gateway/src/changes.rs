//! Endpoints are added, changed and removed. A change counts from the store's commit: a deliverer reads the version
//! of all endpoints after it has taken an event and before it looks for the endpoints that want it. So no change
//! waits for the broker, and the announcement that follows only makes it known sooner.

use std::time::Duration;

use relay_event::{Endpoint, EndpointId, Secret, Timestamp};

use crate::{
    endpoints::find,
    fields::{Fields, touch},
    gateway::Gateway,
    problem::Problem,
};

/// Adds an endpoint.
pub(crate) async fn create(gateway: &Gateway, endpoint: Endpoint) -> Result<Endpoint, relay_store::Error> {
    let admitted = gateway.schedules.admit(&endpoint.retry).await?;
    gateway.store.insert(&endpoint).await?;
    drop(admitted);
    tracing::info!(endpoint = %endpoint.id, "endpoint created");
    gateway.announced(&endpoint.id).await;
    Ok(endpoint)
}

/// Changes an endpoint.
pub(crate) async fn change(gateway: &Gateway, id: EndpointId, fields: Fields) -> Result<Endpoint, Problem> {
    let now = Timestamp::now();
    fields.check_change(now)?;
    let admitted = match &fields.retry {
        Some(retry) => Some(gateway.schedules.admit(retry).await?),
        None => None,
    };
    let changing = update(gateway, &id, |endpoint| {
        fields.change(endpoint, now);
        Ok(())
    });
    let changed = changing.await?;
    drop(admitted);
    Ok(changed.announced(gateway).await)
}

/// Signs with `secret` from now on, and with the present ones for `overlap` yet.
pub(crate) async fn rotate(
    gateway: &Gateway,
    id: EndpointId,
    secret: Secret,
    overlap: Duration,
) -> Result<Endpoint, Problem> {
    let now = Timestamp::now();
    let rotating = update(gateway, &id, |endpoint| {
        let newest = endpoint.secrets.first();
        if newest.is_some_and(|newest| newest.secret == secret) {
            return Ok(()); // It was sent again.
        }
        endpoint.rotate(secret.clone(), now, overlap)?;
        touch(endpoint, now);
        Ok(())
    });
    Ok(rotating.await?.announced(gateway).await)
}

/// Removes an endpoint.
pub(crate) async fn remove(gateway: &Gateway, id: EndpointId) -> Result<(), Problem> {
    find(gateway, &id).await?;
    gateway.store.delete(&id, Timestamp::now()).await?;
    tracing::info!(endpoint = %id, "endpoint removed");
    gateway.announced(&id).await;
    Ok(())
}

/// An endpoint as the store has it after a request to change it.
struct Updated {
    endpoint: Endpoint,
    is_changed: bool,
}

impl Updated {
    /// Tells the others of the endpoint if it changed.
    async fn announced(self, gateway: &Gateway) -> Endpoint {
        let Self { endpoint, is_changed } = self;
        if is_changed {
            tracing::info!(endpoint = %endpoint.id, state = endpoint.state.as_str(), "endpoint changed");
            gateway.announced(&endpoint.id).await;
        }
        endpoint
    }
}

/// Changes an endpoint in the store.
async fn update(
    gateway: &Gateway,
    id: &EndpointId,
    mut change: impl FnMut(&mut Endpoint) -> Result<(), relay_event::Invalid>,
) -> Result<Updated, Problem> {
    let updating = gateway.store.update(id, |endpoint| {
        let before = endpoint.clone();
        change(endpoint)?;
        Ok(before)
    });
    let (endpoint, before) = updating.await?.ok_or_else(Problem::no_such_endpoint)?;
    let is_changed = endpoint != before;
    Ok(Updated { endpoint, is_changed })
}
