//! Endpoints come, change and go: first in the store, then at the broker.

use std::time::Duration;

use relay_broker::Session;
use relay_event::{Endpoint, EndpointId, EndpointState, Secret, Timestamp};

use crate::{
    bindings::is_removed,
    fields::{Fields, touch},
    gateway::Gateway,
    problem::{Kind, Problem},
};

/// Adds an endpoint. When this answers, its events are kept for it.
pub(crate) async fn create(gateway: &Gateway, endpoint: Endpoint) -> Result<Endpoint, Problem> {
    let session = gateway.session()?;
    let admitted = gateway.schedules.admit(&endpoint.retry).await?;
    gateway.store.insert(&endpoint).await?;
    drop(admitted);
    gateway.metrics.moved(None, Some(&endpoint.state));
    match gateway.bindings.follow(&session, &endpoint.id).await {
        Ok(Some(_)) => {}
        Ok(None) => {
            tracing::error!(endpoint = %endpoint.id, "the store does not have the endpoint that was just added");
            return Err(Problem::internal());
        }
        Err(error) => {
            abandon(gateway, &endpoint.id).await;
            return Err(error.into());
        }
    }
    tracing::info!(endpoint = %endpoint.id, "endpoint created");
    gateway.announced(&endpoint.id).await;
    Ok(endpoint)
}

/// Takes back an endpoint whose creation failed. It is removed rather than deleted, for the broker
/// may hold a part of it, which is then cleared away like that of any other.
async fn abandon(gateway: &Gateway, id: &EndpointId) {
    if let Err(error) = mark_removed(gateway, id).await {
        tracing::warn!(
            endpoint = %id,
            error = &error as &dyn std::error::Error,
            "an endpoint that was not created stays in the store"
        );
    }
}

/// Changes an endpoint. When this answers, events of its new types are kept for it.
pub(crate) async fn change(gateway: &Gateway, id: EndpointId, fields: Fields) -> Result<Endpoint, Problem> {
    fields.check_change()?;
    let session = match fields.concern_the_broker() {
        true => Some(gateway.session()?),
        false => None,
    };
    let admitted = match &fields.retry {
        Some(retry) => Some(gateway.schedules.admit(retry).await?),
        None => None,
    };
    let now = Timestamp::now();
    let endpoint = update(gateway, &id, |endpoint| {
        fields.change(endpoint, now);
        Ok(())
    })
    .await?;
    drop(admitted);
    if let Some(session) = session {
        bind(gateway, &session, &id).await?;
        gateway.announced(&id).await;
    }
    Ok(endpoint)
}

async fn bind(gateway: &Gateway, session: &Session, id: &EndpointId) -> Result<(), Problem> {
    let followed = gateway.bindings.follow(session, id).await;
    followed.map(drop).map_err(|error| {
        let problem = Problem::from(error);
        match problem.kind {
            Kind::BrokerUnavailable => Problem::new(
                problem.kind,
                "the change is stored, and the broker will follow it; to know when, send it again",
            ),
            _ => problem,
        }
    })
}

/// Signs with `secret` from now on, and with the present ones for `overlap` yet.
pub(crate) async fn rotate(
    gateway: &Gateway,
    id: EndpointId,
    secret: Secret,
    overlap: Duration,
) -> Result<Endpoint, Problem> {
    let now = Timestamp::now();
    update(gateway, &id, |endpoint| {
        let newest = endpoint.secrets.first();
        if newest.is_some_and(|newest| newest.secret == secret) {
            return Ok(()); // It was sent again.
        }
        endpoint.rotate(secret.clone(), now, overlap)?;
        touch(endpoint, now);
        Ok(())
    })
    .await
}

/// Removes an endpoint. What waits for it goes to the dead-letter queue; if the broker is away, later.
pub(crate) async fn remove(gateway: &Gateway, id: EndpointId) -> Result<(), Problem> {
    if !mark_removed(gateway, &id).await? {
        return Err(Problem::no_such_endpoint());
    }
    tracing::info!(endpoint = %id, "endpoint removed");
    if let Some(session) = gateway.broker.current()
        && let Err(error) = gateway.bindings.follow(&session, &id).await
    {
        tracing::warn!(
            endpoint = %id,
            error = &error as &dyn std::error::Error,
            "a removed endpoint is still bound; trying again"
        );
    }
    gateway.announce(&id);
    Ok(())
}

/// Whether it was there to be removed.
async fn mark_removed(gateway: &Gateway, id: &EndpointId) -> Result<bool, relay_store::Error> {
    let now = Timestamp::now();
    let marked = gateway.store.update(id, |endpoint| {
        let before = endpoint.state.clone();
        if !is_removed(endpoint) {
            endpoint.state = EndpointState::Removed { at: now };
            touch(endpoint, now);
        }
        Ok(before)
    });
    let Some((endpoint, before)) = marked.await? else {
        return Ok(false);
    };
    gateway.metrics.moved(Some(&before), Some(&endpoint.state));
    Ok(!matches!(before, EndpointState::Removed { .. }))
}

/// Changes an endpoint in the store, and tells the others if it did.
async fn update(
    gateway: &Gateway,
    id: &EndpointId,
    mut change: impl FnMut(&mut Endpoint) -> Result<(), relay_event::Invalid>,
) -> Result<Endpoint, Problem> {
    let updated = gateway.store.update(id, |endpoint| {
        let before = endpoint.clone();
        if !is_removed(endpoint) {
            change(endpoint)?;
        }
        Ok(before)
    });
    let (endpoint, before) = updated.await?.ok_or_else(Problem::no_such_endpoint)?;
    if is_removed(&endpoint) {
        return Err(Problem::no_such_endpoint());
    }
    gateway.metrics.moved(Some(&before.state), Some(&endpoint.state));
    if endpoint != before {
        tracing::info!(endpoint = %id, state = endpoint.state.as_str(), "endpoint changed");
        gateway.announce(id);
    }
    Ok(endpoint)
}
