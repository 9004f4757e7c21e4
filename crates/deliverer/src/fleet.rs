//! Which endpoints are taken from: one consumer each, kept in step with the store.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use relay_broker::{Broker, Changes, Error, Session};
use relay_event::{Endpoint, EndpointId, EndpointState, Timestamp};
use relay_service::Component;
use relay_store::Store;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    Config,
    consume::{Ended, Told, consume, is_consumed},
    delivery::{Line, Workshop},
    pace::Pace,
};

/// How soon a consumer that the broker ended is started again.
const CONSUME_AGAIN: Duration = Duration::from_secs(1);

/// All endpoints this process delivers to.
pub(crate) struct Fleet {
    workshop: Arc<Workshop>,
    store: Store,
    store_health: Component,
    /// As the store last had them: with it away, delivery goes on with these.
    known: Vec<Arc<Endpoint>>,
    consumers: HashMap<EndpointId, Consumer>,
    paces: HashMap<EndpointId, Pace>,
    /// Endpoints whose queues could not be taken from at the last try.
    troubled: HashSet<EndpointId>,
    ended: JoinSet<(Arc<Endpoint>, Result<Ended, Error>)>,
    deliveries: TaskTracker,
}

/// A consumer as it was started; a changed endpoint gets another one.
struct Consumer {
    endpoint: Arc<Endpoint>,
    stop: CancellationToken,
    state: Running,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    Yes,
    /// Ended by itself; to be started again at the next look.
    No,
    /// The endpoint said it is gone, and the store does not know yet.
    Gone,
}

impl Fleet {
    pub(crate) fn new(workshop: Arc<Workshop>, store: Store, store_health: Component) -> Self {
        Self {
            workshop,
            store,
            store_health,
            known: Vec::new(),
            consumers: HashMap::new(),
            paces: HashMap::new(),
            troubled: HashSet::new(),
            ended: JoinSet::new(),
            deliveries: TaskTracker::new(),
        }
    }

    /// Delivers, session after session, until told to stop; then finishes what is under way.
    pub(crate) async fn run(mut self, broker: &Broker, config: &Config, shutdown: &CancellationToken) {
        loop {
            let session = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                session = broker.session() => session,
            };
            self.serve(&session, config, shutdown).await;
            if shutdown.is_cancelled() {
                break;
            }
            self.stop_all().await;
        }
        if timeout(config.drain_timeout, self.drain()).await.is_err() {
            tracing::warn!("attempts are still under way; their events will be delivered again");
        }
    }

    /// Keeps the consumers in step until the session is lost or the process stops.
    async fn serve(&mut self, session: &Session, config: &Config, shutdown: &CancellationToken) {
        let mut changes = listen(session).await;
        let mut look = tokio::time::interval(config.recheck);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = session.lost() => return,
                Some(Ok((endpoint, ended))) = self.ended.join_next() => {
                    if matches!(ended, Ok(Ended::Lost) | Err(_)) {
                        look.reset_after(CONSUME_AGAIN);
                    }
                    self.note(session, &endpoint, ended).await;
                    continue;
                }
                () = heard(&mut changes) => {}
                _ = look.tick() => {}
            }
            self.look(session).await;
            self.align(session);
        }
    }

    /// Reads the endpoints anew.
    async fn look(&mut self, session: &Session) {
        match self.store.endpoints().await {
            Ok(stored) => {
                self.known = stored
                    .into_iter()
                    .map(|stored| Arc::new(as_delivered_to(stored.endpoint)))
                    .collect();
                if self.store_health.ready() {
                    tracing::info!(endpoints = self.known.len(), "the endpoints are read");
                }
            }
            Err(error) => {
                if self.store_health.not_ready(error.to_string()) {
                    tracing::warn!(%error, "the endpoints cannot be read; going on with those known");
                }
            }
        }
        for consumer in self
            .consumers
            .values()
            .filter(|consumer| consumer.state == Running::Gone)
        {
            if self.known.contains(&consumer.endpoint) {
                disable(&self.store, session, &consumer.endpoint).await;
            }
        }
    }

    /// Starts, replaces and stops consumers so that they are those of the known endpoints.
    fn align(&mut self, session: &Session) {
        let consumed = self.known.iter().filter(|endpoint| is_consumed(&endpoint.state));
        let wanted: HashMap<EndpointId, Arc<Endpoint>> = consumed
            .map(|endpoint| (endpoint.id.clone(), Arc::clone(endpoint)))
            .collect();
        let mut replaced = HashMap::new();
        self.consumers.retain(|id, consumer| match wanted.get(id) {
            Some(endpoint) if *endpoint == consumer.endpoint => consumer.state != Running::No,
            Some(_) => {
                // It ends when its successor has begun, so that the queue is never without one.
                replaced.insert(id.clone(), consumer.stop.clone().drop_guard());
                false
            }
            None => {
                consumer.stop.cancel();
                false
            }
        });
        self.paces
            .retain(|id, pace| wanted.contains_key(id) || !pace.under_way.is_empty());
        for (id, endpoint) in wanted {
            if !self.consumers.contains_key(&id) {
                let replaced = replaced.remove(&id);
                self.start(session, endpoint, replaced);
            }
        }
        self.count();
    }

    fn start(&mut self, session: &Session, endpoint: Arc<Endpoint>, replaced: Option<DropGuard>) {
        let pace = self
            .paces
            .remove(&endpoint.id)
            .unwrap_or_else(|| Pace::of(&endpoint));
        let pace = pace.adapted_to(&endpoint);
        self.paces.insert(endpoint.id.clone(), pace.clone());
        let line = Line {
            workshop: Arc::clone(&self.workshop),
            session: session.clone(),
            endpoint: Arc::clone(&endpoint),
            pace,
            gone: CancellationToken::new(),
        };
        let stop = CancellationToken::new();
        let consumer = Consumer {
            endpoint: Arc::clone(&endpoint),
            stop: stop.clone(),
            state: Running::Yes,
        };
        self.consumers.insert(endpoint.id.clone(), consumer);
        let consuming = consume(line, Told { stop, replaced }, self.deliveries.clone());
        self.ended.spawn(async move {
            // A panic in here must not leave the endpoint without a consumer.
            let ended = AssertUnwindSafe(consuming).catch_unwind().await;
            (endpoint, ended.unwrap_or(Ok(Ended::Lost)))
        });
    }

    /// Takes note of a consumer that ended.
    async fn note(&mut self, session: &Session, endpoint: &Arc<Endpoint>, ended: Result<Ended, Error>) {
        let Some(consumer) = self.consumers.get_mut(&endpoint.id) else {
            return;
        };
        if !Arc::ptr_eq(&consumer.endpoint, endpoint) {
            // Replaced meanwhile; if its owner did not change it, what it answered still holds.
            if matches!(ended, Ok(Ended::Gone)) {
                disable(&self.store, session, endpoint).await;
            }
            return;
        }
        consumer.state = Running::No;
        match ended {
            Err(error) if !session.is_lost() => {
                if self.troubled.insert(endpoint.id.clone()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(endpoint = %endpoint.id, error, "its queue cannot be taken from; trying again until it can");
                }
            }
            Ok(Ended::Gone) => {
                consumer.state = Running::Gone;
                disable(&self.store, session, endpoint).await;
            }
            _ => drop(self.troubled.remove(&endpoint.id)),
        }
        self.count();
    }

    /// Ends all consumers, and waits until they have given back what they had not begun.
    async fn stop_all(&mut self) {
        for consumer in self.consumers.values() {
            consumer.stop.cancel();
        }
        self.consumers.clear();
        while self.ended.join_next().await.is_some() {}
        self.count();
    }

    async fn drain(&mut self) {
        self.stop_all().await;
        self.deliveries.close();
        self.deliveries.wait().await;
    }

    fn count(&self) {
        let running = self
            .consumers
            .values()
            .filter(|consumer| consumer.state == Running::Yes)
            .count();
        self.workshop
            .metrics
            .consuming
            .set(i64::try_from(running).unwrap_or(i64::MAX));
    }
}

/// When it was bound is nothing to its consumer, which need not be replaced for it.
fn as_delivered_to(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        bound_since: None,
        ..endpoint
    }
}

/// Announcements are a convenience: without them changes are found by looking.
async fn listen(session: &Session) -> Option<Changes> {
    match session.changes().await {
        Ok(changes) => Some(changes),
        Err(_) if session.is_lost() => None,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "changes of endpoints cannot be listened for; looking for them now and then"
            );
            None
        }
    }
}

/// Resolves when an endpoint changed. Many changes at once are one reason to look.
async fn heard(changes: &mut Option<Changes>) {
    let Some(announced) = changes else {
        return std::future::pending().await;
    };
    if announced.changed().await {
        while announced.changed().now_or_never() == Some(true) {}
    } else {
        *changes = None;
    }
}

/// Writes down that an endpoint is gone, unless it was changed since the attempt.
async fn disable(store: &Store, session: &Session, gone: &Endpoint) {
    let now = Timestamp::now();
    let changed = store.update(&gone.id, |endpoint| {
        let as_it_was = endpoint.updated_at == gone.updated_at;
        if as_it_was {
            let reason = "it answered 410 Gone".to_owned();
            endpoint.state = EndpointState::Disabled { reason, at: now };
            endpoint.updated_at = now.max(gone.updated_at + Duration::from_millis(1));
        }
        Ok(as_it_was)
    });
    match changed.await {
        Ok(Some((_, true))) => {
            tracing::warn!(endpoint = %gone.id, "disabled: it answered 410 Gone; what is waiting for it stays until it is resumed or removed");
            // The others find it by looking, should this not arrive.
            let _ = session.announce_change(&gone.id).await;
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(endpoint = %gone.id, %error, "it answered 410 Gone and is no longer sent to, but that cannot be written down yet");
        }
    }
}
