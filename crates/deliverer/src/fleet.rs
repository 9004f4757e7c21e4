//! Which endpoints are taken from: one consumer each, kept in step with the store.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::FutureExt;
use relay_broker::{Broker, Session};
use relay_event::{Endpoint, EndpointId, EndpointState, Timestamp};
use relay_service::Component;
use relay_store::Store;
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config,
    consume::{Ended, consume, is_consumed},
    delivery::{Line, Workshop},
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
    ended: JoinSet<(EndpointId, Arc<Endpoint>, Ended)>,
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
    pub(crate) fn new(workshop: Workshop, store: Store, store_health: Component) -> Self {
        Self {
            workshop: Arc::new(workshop),
            store,
            store_health,
            known: Vec::new(),
            consumers: HashMap::new(),
            ended: JoinSet::new(),
            deliveries: TaskTracker::new(),
        }
    }

    /// What the store last had.
    pub(crate) fn workshop(&self) -> Arc<Workshop> {
        Arc::clone(&self.workshop)
    }

    /// Delivers, session after session, until told to stop; then finishes what is under way.
    pub(crate) async fn run(mut self, broker: &Broker, config: &Config, shutdown: &CancellationToken) {
        loop {
            let session = tokio::select! {
                () = shutdown.cancelled() => break,
                session = broker.session() => session,
            };
            self.serve(&session, config, shutdown).await;
            self.stop_all().await;
        }
        self.deliveries.close();
        if tokio::time::timeout(config.drain_timeout, self.deliveries.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                left = self.deliveries.len(),
                "attempts are still under way; their events will be delivered again"
            );
        }
    }

    /// Keeps the consumers in step until the session is lost or the process stops.
    async fn serve(&mut self, session: &Session, config: &Config, shutdown: &CancellationToken) {
        let Ok(mut changes) = session.changes().await else {
            return; // The session is over already.
        };
        let mut look = tokio::time::interval(config.recheck);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = session.lost() => return,
                _ = look.tick() => {}
                heard = changes.changed() => {
                    // Many changes at once are one reason to look.
                    while heard && changes.changed().now_or_never() == Some(true) {}
                    if !heard {
                        return;
                    }
                }
                Some(ended) = self.ended.join_next() => {
                    if let Ok((id, endpoint, ended)) = ended {
                        if ended == Ended::Lost {
                            look.reset_after(CONSUME_AGAIN);
                        }
                        self.note(&id, &endpoint, ended).await;
                    }
                    continue;
                }
            }
            self.look().await;
            self.align(session);
        }
    }

    /// Reads the endpoints anew.
    async fn look(&mut self) {
        match self.store.endpoints().await {
            Ok(stored) => {
                self.known = stored
                    .into_iter()
                    .map(|stored| Arc::new(stored.endpoint))
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
        let gone: Vec<Arc<Endpoint>> = self
            .consumers
            .values()
            .filter(|consumer| consumer.state == Running::Gone)
            .map(|consumer| Arc::clone(&consumer.endpoint))
            .collect();
        for endpoint in gone.iter().filter(|endpoint| self.known.contains(endpoint)) {
            disable(&self.store, endpoint).await;
        }
    }

    /// Starts, replaces and stops consumers so that they are those of the known endpoints.
    fn align(&mut self, session: &Session) {
        let wanted: HashMap<&EndpointId, &Arc<Endpoint>> = self
            .known
            .iter()
            .filter(|endpoint| is_consumed(&endpoint.state))
            .map(|endpoint| (&endpoint.id, endpoint))
            .collect();
        self.consumers.retain(|id, consumer| {
            let keep = wanted
                .get(id)
                .is_some_and(|endpoint| **endpoint == consumer.endpoint);
            if !keep {
                consumer.stop.cancel();
            }
            keep && consumer.state != Running::No
        });
        for endpoint in wanted.into_values() {
            if !self.consumers.contains_key(&endpoint.id) {
                let consumer = start(
                    &mut self.ended,
                    &self.deliveries,
                    &self.workshop,
                    session,
                    endpoint,
                );
                self.consumers.insert(endpoint.id.clone(), consumer);
            }
        }
        self.count();
    }

    /// Takes note of a consumer that ended.
    async fn note(&mut self, id: &EndpointId, endpoint: &Arc<Endpoint>, ended: Ended) {
        let Some(consumer) = self
            .consumers
            .get_mut(id)
            .filter(|consumer| Arc::ptr_eq(&consumer.endpoint, endpoint))
        else {
            return; // Replaced or stopped meanwhile.
        };
        consumer.state = if ended == Ended::Gone {
            Running::Gone
        } else {
            Running::No
        };
        if ended == Ended::Gone {
            disable(&self.store, endpoint).await;
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

fn start(
    ended: &mut JoinSet<(EndpointId, Arc<Endpoint>, Ended)>,
    deliveries: &TaskTracker,
    workshop: &Arc<Workshop>,
    session: &Session,
    endpoint: &Arc<Endpoint>,
) -> Consumer {
    let stop = CancellationToken::new();
    let line = Line {
        workshop: Arc::clone(workshop),
        session: session.clone(),
        endpoint: Arc::clone(endpoint),
        gone: CancellationToken::new(),
    };
    let (endpoint, told, deliveries) = (Arc::clone(endpoint), stop.clone(), deliveries.clone());
    let own = Arc::clone(&endpoint);
    ended.spawn(async move {
        let ended = consume(line, told, deliveries).await.unwrap_or_else(|error| {
            tracing::debug!(endpoint = %own.id, error = &error as &dyn std::error::Error, "cannot take from the endpoint's queue; trying again later");
            Ended::Lost
        });
        (own.id.clone(), own, ended)
    });
    Consumer {
        endpoint,
        stop,
        state: Running::Yes,
    }
}

/// Writes down that an endpoint is gone, unless it was changed since the attempt.
async fn disable(store: &Store, gone: &Endpoint) {
    let now = Timestamp::now();
    let changed = store.update(&gone.id, |endpoint| {
        if endpoint.updated_at == gone.updated_at {
            endpoint.state = EndpointState::Disabled {
                reason: "it answered 410 Gone".to_owned(),
                at: now,
            };
            endpoint.updated_at = now;
        }
        Ok(())
    });
    match changed.await {
        Ok(_) => {
            tracing::warn!(endpoint = %gone.id, "disabled: it answered 410 Gone; what is waiting for it stays until it is resumed or removed")
        }
        Err(error) => {
            tracing::warn!(endpoint = %gone.id, %error, "it answered 410 Gone and is no longer sent to, but that cannot be written down yet")
        }
    }
}
