//! Looking over all endpoints now and then: what a crash, or a broker that was away, left undone is
//! done, and removed endpoints are forgotten once nothing is left of them.

use std::{collections::HashMap, future::ready, time::Duration};

use futures_util::{StreamExt, stream};
use relay_broker::{Broker, Session};
use relay_event::{EndpointId, EndpointState, Timestamp};
use relay_store::{KnownEndpoints, Store, StoredEndpoint};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    bindings::{Error, is_unsettled},
    gateway::Gateway,
};

/// How many looks an endpoint that was changed gets, in case a gateway ended in the middle of it.
const LOOKS_AFTER_CHANGE: u32 = 3;

/// How many endpoints are brought into step at once. Each that has no queue yet takes as long as a new
/// queue is left alone: at another broker that is all of them.
const AT_ONCE: usize = 64;

/// An endpoint, as far as it decides whether something is to be done.
#[derive(PartialEq)]
struct Known {
    state: EndpointState,
    created_at: Timestamp,
    updated_at: Timestamp,
    is_bound: bool,
    is_unsettled: bool,
}

impl Known {
    fn of(stored: StoredEndpoint) -> Option<Self> {
        let is_unsettled = is_unsettled(&stored);
        let endpoint = stored.endpoint;
        Some(Self {
            state: endpoint.state,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            is_bound: endpoint.bound_since.is_some(),
            is_unsettled,
        })
    }

    /// Returns true if somebody may be waiting until its new queue can be used: another one does not see that it is new.
    fn is_being_created(&self, wait: Duration) -> bool {
        let is_new = !self.is_bound && self.updated_at == self.created_at;
        is_new && age(self.created_at) < 2 * wait
    }

    /// Returns true if something may be undone of it.
    fn is_due(&self, every: Duration) -> bool {
        removed_at(&self.state).is_some()
            || !self.is_bound
            || self.is_unsettled
            || age(self.updated_at) < every * LOOKS_AFTER_CHANGE
    }
}

/// The task that looks.
pub(crate) struct LookOver {
    gateway: Gateway,
    broker: Broker,
    store: Store,
    known: KnownEndpoints<Known>,
    every: Duration,
    session: Option<Session>,
    /// Whether all are to be brought into step, and not only those where something may be undone.
    all: bool,
    /// Since when removed endpoints are known to be bound by nothing.
    unbound: HashMap<EndpointId, Instant>,
    failing: bool,
}

impl LookOver {
    pub(crate) fn new(gateway: &Gateway) -> Self {
        Self {
            broker: gateway.broker.clone(),
            store: gateway.store.clone(),
            known: KnownEndpoints::new(Known::of),
            every: gateway.config.recheck,
            gateway: gateway.clone(),
            session: None,
            all: false,
            unbound: HashMap::new(),
            failing: false,
        }
    }

    /// Looks for ever: with each new session, for it may be another broker, and now and then.
    pub(crate) async fn run(mut self) {
        let mut status = self.broker.status();
        loop {
            status.mark_unchanged();
            if self.session.as_ref().is_none_or(Session::is_lost) {
                self.session = self.broker.current();
                self.all = true;
                self.unbound.clear(); // After a crash of the broker they may be bound again.
            }
            let looked = self.look().await;
            self.say(looked);
            tokio::select! {
                Ok(()) = status.changed() => {}
                () = sleep(self.every) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        self.known.refresh_all(&self.store).await?;
        let known = &self.known;
        self.gateway
            .metrics
            .count(known.iter().map(|(_, known)| &known.state));
        self.unbound.retain(|id, _| known.get(id).is_some());
        let Some(session) = self.session.clone() else {
            return Ok(()); // The broker's absence is said where it is noticed.
        };
        let mut due = Vec::new();
        let wait = self.gateway.config.new_queue_wait;
        for (id, known) in known.iter().filter(|(_, known)| !known.is_being_created(wait)) {
            if self.all || known.is_due(self.every) || !has_queue(&session, id).await? {
                due.push(id.clone());
            }
        }
        let mut looked = Ok(());
        for followed in self.follow(&session, due).await {
            let attended = match followed {
                Ok(Some(stored)) => self.attend(&session, &stored).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            looked = looked.and(attended);
        }
        self.all = looked.is_err();
        looked
    }

    /// Brings the broker into step, unless the session ends: all are looked over in the next one.
    async fn follow(
        &self,
        session: &Session,
        due: Vec<EndpointId>,
    ) -> Vec<Result<Option<StoredEndpoint>, Error>> {
        stream::iter(due)
            .take_while(|_| ready(!session.is_lost()))
            .map(async |id| self.gateway.bindings.follow(session, &id).await)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    async fn attend(&mut self, session: &Session, stored: &StoredEndpoint) -> Result<(), Error> {
        match removed_at(&stored.endpoint.state) {
            Some(at) => self.forget(session, &stored.endpoint.id, at).await,
            None => self.settle(stored).await,
        }
    }

    /// Notes that older patterns are bound no more; not before whoever was binding them has surely
    /// ended, and not while a crash of the broker would bind them again.
    async fn settle(&self, stored: &StoredEndpoint) -> Result<(), Error> {
        let endpoint = &stored.endpoint;
        let stays = endpoint.bound_since.is_some();
        if is_unsettled(stored) && stays && age(endpoint.updated_at) >= self.every {
            self.store.bindings_settled(&endpoint.id, &endpoint.types).await?;
        }
        Ok(())
    }

    /// Deletes the queue of a removed endpoint, and then its row, once the queue is empty, nobody
    /// takes from it, and all that was on its way there has arrived.
    async fn forget(&mut self, session: &Session, id: &EndpointId, removed: Timestamp) -> Result<(), Error> {
        let unbound = *self.unbound.entry(id.clone()).or_insert_with(Instant::now);
        let quiet = self.gateway.config.new_queue_wait.max(self.every / 2);
        if age(removed) < self.every || unbound.elapsed() < quiet {
            return Ok(());
        }
        let patience = self.gateway.config.confirm_timeout;
        let deleted = timeout(patience, delete_if_empty(session, id)).await;
        if deleted.map_err(|_| Error::Slow(patience))?? {
            self.store.delete(id, Timestamp::now()).await?;
            let removed = EndpointState::Removed { at: removed };
            self.gateway.metrics.moved(Some(&removed), None);
            self.unbound.remove(id);
            tracing::info!(endpoint = %id, "nothing is left of the removed endpoint, and its queue is deleted");
        }
        Ok(())
    }

    /// Says a failure once, and its end.
    fn say(&mut self, looked: Result<(), Error>) {
        match &looked {
            Err(error) if !self.failing => tracing::warn!(
                error = error as &dyn std::error::Error,
                "not all endpoints are bound as they should be; trying again"
            ),
            Ok(()) if self.failing => tracing::info!("all endpoints are bound as they should be"),
            _ => {}
        }
        self.failing = looked.is_err();
    }
}

/// Whether the endpoint has its queue; somebody may have deleted it by hand.
async fn has_queue(session: &Session, id: &EndpointId) -> Result<bool, relay_broker::Error> {
    Ok(session.depth(&session.topology().endpoint(id)).await?.is_some())
}

/// Whether the endpoint has no queue any more.
async fn delete_if_empty(session: &Session, id: &EndpointId) -> Result<bool, relay_broker::Error> {
    match session.depth(&session.topology().endpoint(id)).await? {
        Some(depth) if depth.ready > 0 || depth.consumers > 0 => return Ok(false),
        Some(_) => session.delete_endpoint(id).await?,
        None => {}
    }
    Ok(true)
}

fn removed_at(state: &EndpointState) -> Option<Timestamp> {
    match state {
        EndpointState::Removed { at } => Some(*at),
        _ => None,
    }
}

fn age(moment: Timestamp) -> Duration {
    Timestamp::now().since(moment)
}
