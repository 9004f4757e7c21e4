//! What the broker binds to an endpoint's queue follows what the store says of the endpoint.
//!
//! The store is always ahead: its row names every pattern that may be bound, before it is bound and
//! until long after it was unbound. So whoever reads the row, after a crash at any point, can do the
//! rest. Following is the same whatever happened: read the row, do what it says, and read it again;
//! if somebody changed it meanwhile, do what it says now.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use relay_broker::Session;
use relay_event::{Endpoint, EndpointId, EndpointState, Timestamp, TypePattern};
use relay_store::{Store, StoredEndpoint};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

/// Endpoints are shared out among this many locks: enough that few wait for another one's new queue.
const LOCKS: usize = 1_024;

/// Why the broker may not hold what the store says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Broker(#[from] relay_broker::Error),
    #[error(transparent)]
    Store(#[from] relay_store::Error),
    #[error("the broker took more than {} to bind an endpoint", humantime::format_duration(*.0))]
    Slow(Duration),
}

/// Brings the broker into step, one endpoint at a time.
pub(crate) struct Bindings {
    store: Store,
    patience: Duration,
    locks: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

impl Bindings {
    pub(crate) fn new(store: Store, patience: Duration) -> Self {
        Self {
            store,
            patience,
            locks: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// Makes the broker hold what the store says of an endpoint, and answers with that; `None` if
    /// the store knows nothing of it. What was done when this fails is right as far as it went.
    pub(crate) async fn follow(
        &self,
        session: &Session,
        id: &EndpointId,
    ) -> Result<Option<StoredEndpoint>, Error> {
        let _alone = self.lock(id).await;
        timeout(self.patience, self.follow_until_still(session, id))
            .await
            .map_err(|_| Error::Slow(self.patience))?
    }

    /// In this process, one at a time works on an endpoint.
    async fn lock(&self, id: &EndpointId) -> MutexGuard<'_, ()> {
        let lock = self.hasher.hash_one(id) as usize % LOCKS;
        self.locks[lock].lock().await
    }

    async fn follow_until_still(
        &self,
        session: &Session,
        id: &EndpointId,
    ) -> Result<Option<StoredEndpoint>, Error> {
        let mut seen = HashSet::new();
        let mut row = self.store.endpoint(id).await?;
        while let Some(stored) = row {
            // Another process may have noted as unbound what this one has just bound by an older row.
            seen.extend(stored.bound.iter().chain(&stored.endpoint.types).cloned());
            connect(session, &stored.endpoint).await?;
            let unwanted = unwanted(&stored.endpoint, &seen);
            if !unwanted.is_empty() {
                row = self.store.endpoint(id).await?;
                if row.as_ref().is_none_or(|now| differ(now, &stored)) {
                    continue; // Somebody may want again what that row did not.
                }
                disconnect(session, &stored.endpoint, &unwanted).await?;
            }
            row = self.store.endpoint(id).await?;
            if row.as_ref().is_some_and(|now| !differ(now, &stored)) {
                if is_to_be_noted(&stored.endpoint) {
                    session.bindings_stay().await?;
                    self.note_bound(&stored.endpoint).await?;
                }
                return Ok(row);
            }
        }
        Ok(None)
    }

    /// Notes since when an endpoint is bound as it is to be.
    async fn note_bound(&self, bound: &Endpoint) -> Result<(), relay_store::Error> {
        let now = Timestamp::now();
        let noted = self.store.update(&bound.id, |endpoint| {
            if endpoint.types == bound.types {
                endpoint.bound_since.get_or_insert(now);
            }
            Ok(())
        });
        noted.await.map(drop)
    }
}

/// Whether a row asks something else of the broker than another one of the same endpoint.
fn differ(some: &StoredEndpoint, other: &StoredEndpoint) -> bool {
    let wants = |stored: &StoredEndpoint| {
        let endpoint = &stored.endpoint;
        (
            endpoint.types.clone(),
            endpoint.retry.clone(),
            is_removed(endpoint),
        )
    };
    wants(some) != wants(other)
}

/// Whether it is to be noted since when an endpoint is bound as it is to be.
fn is_to_be_noted(endpoint: &Endpoint) -> bool {
    !is_removed(endpoint) && endpoint.bound_since.is_none()
}

/// Everything an endpoint has at the broker, declared and bound.
async fn connect(session: &Session, endpoint: &Endpoint) -> Result<(), relay_broker::Error> {
    if is_removed(endpoint) {
        return Ok(());
    }
    session.declare_endpoint(&endpoint.id, endpoint.delays()).await?;
    session.bind_endpoint(&endpoint.id, &endpoint.types, &[]).await
}

async fn disconnect(
    session: &Session,
    endpoint: &Endpoint,
    unwanted: &[TypePattern],
) -> Result<(), relay_broker::Error> {
    if is_removed(endpoint) {
        return session.unbind_endpoint(&endpoint.id, unwanted).await;
    }
    session.bind_endpoint(&endpoint.id, &[], unwanted).await
}

fn unwanted(endpoint: &Endpoint, seen: &HashSet<TypePattern>) -> Vec<TypePattern> {
    let wanted = |pattern| !is_removed(endpoint) && endpoint.types.contains(pattern);
    seen.iter().filter(|pattern| !wanted(pattern)).cloned().collect()
}

pub(crate) fn is_removed(endpoint: &Endpoint) -> bool {
    matches!(endpoint.state, EndpointState::Removed { .. })
}

/// Whether the broker may bind more than the endpoint wants.
pub(crate) fn is_unsettled(stored: &StoredEndpoint) -> bool {
    let wanted: HashSet<_> = stored.endpoint.types.iter().collect();
    wanted != stored.bound.iter().collect()
}
