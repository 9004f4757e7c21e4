//! Which endpoints are taken from: one consumer each, kept in step with the store.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use relay_broker::{Broker, Error, Session};
use relay_event::{Endpoint, EndpointId, EndpointState, Timestamp};
use relay_service::Component;
use relay_store::{ChangeReader, Changes, KnownEndpoints, Store, StoredEndpoint};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, sleep_until, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    Config, DisableAfter,
    consume::{Ended, Told, consume, is_consumed},
    delivery::{Line, Workshop},
    notes::{self, Due, Notes, ToNote},
    pace::Pace,
};

/// The time between two looks for changed endpoints, should an announcement have been missed: one row of the store.
const LOOK: Duration = Duration::from_secs(1);

/// The longest time for which a look delays consumers that are to be started or stopped.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often it is looked over which endpoints fail.
const REVIEW: Duration = Duration::from_secs(2);

const GONE: &str = "it answered 410 Gone";

/// How soon a consumer that the broker ended is started again.
const CONSUME_AGAIN: Duration = Duration::from_secs(1);

/// All endpoints this process delivers to.
pub(crate) struct Fleet {
    workshop: Arc<Workshop>,
    store: Store,
    store_health: Component,
    /// The endpoints as the store last had them: with it away, delivery goes on with these.
    known: KnownEndpoints<Known>,
    /// The ids of the known endpoints.
    ids: watch::Sender<BTreeSet<EndpointId>>,
    /// A connection on which nobody else reads.
    reader: Arc<Mutex<ChangeReader>>,
    /// The look under way, at most one: nothing waits for a store that does not answer.
    looking: JoinSet<Looked>,
    /// Set if the next look reads all endpoints (see [`KnownEndpoints::refresh_all`]).
    all: bool,
    /// Set if a change was announced during the look under way, which may have read too early.
    look_again: bool,
    notes: Notes,
    /// Endpoints of which this process wrote down something since the store was last read. Another process may
    /// have written something else meanwhile.
    written: Vec<EndpointId>,
    consumers: HashMap<EndpointId, Consumer>,
    /// Set if the consumers are those of the known endpoints.
    aligned: bool,
    /// The time at which consumers are started and stopped even if the store does not answer.
    align_at: Instant,
    paces: HashMap<EndpointId, Pace>,
    /// Endpoints whose queues could not be taken from at the last try.
    troubled: HashSet<EndpointId>,
    ended: JoinSet<(Arc<Endpoint>, Result<Ended, Error>)>,
    deliveries: TaskTracker,
    /// Endpoints that said they are gone, which the store does not know yet: they are sent nothing.
    gone: Vec<Arc<Endpoint>>,
    /// What is being written down, by one task at most: with the store away that takes long, and neither
    /// consumers nor a new session wait for it.
    writing: JoinSet<Vec<(EndpointId, Option<Timestamp>)>>,
}

/// An endpoint that has a queue. Since when it fails stands apart, and since when it is bound is left out, for a
/// consumer need not be replaced for it.
#[derive(PartialEq)]
struct Known {
    endpoint: Arc<Endpoint>,
    failing_since: Option<Timestamp>,
}

impl Known {
    fn of(stored: StoredEndpoint) -> Option<Self> {
        let mut endpoint = stored.endpoint;
        if !is_there(&endpoint) {
            return None;
        }
        let failing_since = endpoint.failing_since.take();
        endpoint.bound_since = None;
        Some(Self {
            endpoint: Arc::new(endpoint),
            failing_since,
        })
    }
}

/// An answer of the store, and the endpoints of which this process had written down something before it asked.
struct Looked {
    changes: Result<Changes, relay_store::Error>,
    written: Vec<EndpointId>,
}

/// A consumer as it was started; a changed endpoint gets another one.
struct Consumer {
    endpoint: Arc<Endpoint>,
    stop: CancellationToken,
    /// Whether it ended by itself; it is to be started again at the next look.
    ended: bool,
}

impl Fleet {
    pub(crate) fn new(workshop: Arc<Workshop>, store: Store, store_health: Component) -> Self {
        let reader = Arc::new(Mutex::new(store.change_reader()));
        Self {
            workshop,
            store,
            store_health,
            known: KnownEndpoints::new(Known::of),
            ids: watch::Sender::default(),
            reader,
            looking: JoinSet::new(),
            all: false,
            look_again: false,
            notes: Notes::default(),
            written: Vec::new(),
            consumers: HashMap::new(),
            aligned: false,
            align_at: Instant::now(),
            paces: HashMap::new(),
            troubled: HashSet::new(),
            ended: JoinSet::new(),
            deliveries: TaskTracker::new(),
            gone: Vec::new(),
            writing: JoinSet::new(),
        }
    }

    /// The ids of the endpoints that have a queue, as they are known at any time.
    pub(crate) fn ids(&self) -> watch::Receiver<BTreeSet<EndpointId>> {
        self.ids.subscribe()
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
        let mut changes = session.changes().await;
        // A look that began in the session before may not know what changed since, so no consumer begins by it.
        let mut is_stale = !self.looking.is_empty();
        self.align_at = Instant::now() + PATIENCE;
        let mut look = tokio::time::interval(LOOK.min(config.recheck));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut recheck = tokio::time::interval(config.recheck);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut review = tokio::time::interval(REVIEW);
        review.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = session.lost() => return,
                Some(Ok((endpoint, ended))) = self.ended.join_next() => {
                    match ended {
                        Ok(Ended::Lost) | Err(_) => {
                            self.aligned = false;
                            self.align_at = Instant::now() + CONSUME_AGAIN + PATIENCE;
                            look.reset_after(CONSUME_AGAIN);
                        }
                        Ok(Ended::Gone) => review.reset_immediately(),
                        Ok(_) => {}
                    }
                    self.note(session, &endpoint, ended);
                    continue;
                }
                Some(Ok(written)) = self.writing.join_next() => {
                    self.written(written);
                    continue;
                }
                Some(Ok(looked)) = self.looking.join_next() => {
                    self.looked(looked);
                    if std::mem::take(&mut is_stale) {
                        self.look();
                        continue;
                    }
                }
                () = changes.next() => {
                    self.look_again = !self.looking.is_empty();
                    self.look();
                    continue;
                }
                _ = recheck.tick() => {
                    // Where something arrives that nobody announces, as in a removed endpoint's queue.
                    self.aligned = false;
                    self.all = true;
                    self.look();
                    continue;
                }
                _ = look.tick() => {
                    self.look();
                    continue;
                }
                _ = review.tick() => {
                    self.review(session, config.disable_after);
                    continue;
                }
                () = sleep_until(self.align_at), if !self.aligned => {}
            }
            if !self.aligned {
                self.align(session);
            }
        }
    }

    /// Begins to read which endpoints changed, unless that is under way.
    fn look(&mut self) {
        if !self.looking.is_empty() {
            return;
        }
        self.align_at = self.align_at.max(Instant::now() + PATIENCE);
        let reader = Arc::clone(&self.reader);
        let version = self.known.version().filter(|_| !self.all).cloned();
        self.all = false;
        let written = std::mem::take(&mut self.written);
        self.looking.spawn(async move {
            let changes = reader.lock().await.changes_since(version.as_ref()).await;
            Looked { changes, written }
        });
    }

    /// Takes note of what was read.
    fn looked(&mut self, Looked { changes, written }: Looked) {
        match changes.map(|changes| self.known.apply(changes)) {
            Ok(changed) => {
                self.aligned &= changed.is_empty();
                let changed: Vec<_> = changed.into_iter().map(|changed| changed.id).collect();
                if !changed.is_empty() {
                    self.publish_ids(&changed);
                }
                for id in changed.into_iter().chain(written) {
                    self.learn(id);
                }
                let known = &self.known;
                self.gone.retain(|gone| {
                    let known = known.get(&gone.id);
                    known.is_some_and(|known| is_unchanged(&known.endpoint, gone))
                });
                if self.store_health.ready() {
                    tracing::info!(endpoints = self.known.iter().count(), "the endpoints are read");
                }
            }
            Err(error) => {
                self.written.extend(written);
                if self.store_health.not_ready(error.to_string()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the endpoints cannot be read; going on with those known");
                }
            }
        }
        if std::mem::take(&mut self.look_again) {
            self.look();
        }
    }

    fn publish_ids(&self, changed: &[EndpointId]) {
        self.ids.send_modify(|ids| {
            for id in changed {
                if self.known.get(id).is_some() {
                    ids.insert(id.clone());
                } else {
                    ids.remove(id);
                }
            }
        });
    }

    /// Takes note of since when an endpoint fails, as the store has it now.
    fn learn(&mut self, id: EndpointId) {
        let noted = self.known.get(&id).and_then(|known| known.failing_since);
        let before = self.notes.get(&id).copied();
        if let Some(pace) = self.paces.get(&id) {
            pace.learn(before, noted);
        }
        self.set_note(id, noted);
    }

    fn set_note(&mut self, id: EndpointId, noted: Option<Timestamp>) {
        match noted {
            Some(since) => self.notes.insert(id, since),
            None => self.notes.remove(&id),
        };
    }

    /// Has written down what was learnt of endpoints that are gone, that fail, or no longer do.
    fn review(&mut self, session: &Session, disable_after: DisableAfter) {
        self.count();
        if !self.writing.is_empty() {
            return;
        }
        let gone = self.gone.iter().map(|endpoint| ToNote {
            endpoint: Arc::clone(endpoint),
            noted: self.notes.get(&endpoint.id).copied(),
            due: Due::Disable {
                reason: GONE.to_owned(),
            },
        });
        let active = self
            .known
            .iter()
            .map(|(_, known)| &known.endpoint)
            .filter(|endpoint| endpoint.state == EndpointState::Active);
        let learnt = active.filter_map(|endpoint| {
            let noted = self.notes.get(&endpoint.id).copied();
            let failing = self.paces.get(&endpoint.id)?.failing();
            let due = notes::due(failing.as_ref(), noted, disable_after)?;
            let endpoint = Arc::clone(endpoint);
            Some(ToNote { endpoint, noted, due })
        });
        let all: Vec<ToNote> = gone.chain(learnt).collect();
        if !all.is_empty() {
            let writing = notes::write_all(self.store.clone(), session.clone(), all);
            self.writing.spawn(writing);
        }
    }

    /// Takes note of what the store knows now.
    fn written(&mut self, written: Vec<(EndpointId, Option<Timestamp>)>) {
        for (id, noted) in written {
            self.written.push(id.clone());
            self.set_note(id, noted);
        }
    }

    /// Starts, replaces and stops consumers so that they are those of the known endpoints.
    fn align(&mut self, session: &Session) {
        let is_gone = |endpoint: &Endpoint| self.gone.iter().any(|gone| is_unchanged(endpoint, gone));
        let consumed = self
            .known
            .iter()
            .map(|(_, known)| &known.endpoint)
            .filter(|endpoint| is_consumed(&endpoint.state) && !is_gone(endpoint));
        let wanted: HashMap<EndpointId, Arc<Endpoint>> = consumed
            .map(|endpoint| (endpoint.id.clone(), Arc::clone(endpoint)))
            .collect();
        let mut replaced = HashMap::new();
        self.consumers.retain(|id, consumer| match wanted.get(id) {
            Some(endpoint) if *endpoint == consumer.endpoint => !consumer.ended,
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
        self.aligned = true;
        self.count();
    }

    fn start(&mut self, session: &Session, endpoint: Arc<Endpoint>, replaced: Option<DropGuard>) {
        let noted = self.notes.get(&endpoint.id).copied();
        let pace = match self.paces.remove(&endpoint.id) {
            Some(pace) => pace.adapted_to(&endpoint, noted),
            None => Pace::of(&endpoint, noted, Arc::clone(&self.workshop.slots)),
        };
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
            ended: false,
        };
        self.consumers.insert(endpoint.id.clone(), consumer);
        let consuming = Box::pin(consume(line, Told { stop, replaced }, self.deliveries.clone()));
        self.ended.spawn(async move {
            // A panic in here must not leave the endpoint without a consumer.
            let ended = AssertUnwindSafe(consuming).catch_unwind().await;
            (endpoint, ended.unwrap_or(Ok(Ended::Lost)))
        });
    }

    /// Takes note of a consumer that ended.
    fn note(&mut self, session: &Session, endpoint: &Arc<Endpoint>, ended: Result<Ended, Error>) {
        let Some(consumer) = self.consumers.get_mut(&endpoint.id) else {
            return;
        };
        if !Arc::ptr_eq(&consumer.endpoint, endpoint) {
            // Replaced meanwhile; if its owner did not change it, what it answered still holds.
            if matches!(ended, Ok(Ended::Gone)) {
                self.gone.push(Arc::clone(endpoint));
            }
            return;
        }
        consumer.ended = true;
        match ended {
            Err(error) if !session.is_lost() => {
                if self.troubled.insert(endpoint.id.clone()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(endpoint = %endpoint.id, error, "its queue cannot be taken from; trying again until it can");
                }
            }
            Ok(Ended::Gone) => self.gone.push(Arc::clone(endpoint)),
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
        self.aligned = false;
        while self.ended.join_next().await.is_some() {}
        self.count();
    }

    async fn drain(&mut self) {
        self.stop_all().await;
        self.deliveries.close();
        self.deliveries.wait().await;
    }

    fn count(&self) {
        let running = self.consumers.values().filter(|consumer| !consumer.ended).count();
        self.workshop
            .metrics
            .consuming
            .set(i64::try_from(running).unwrap_or(i64::MAX));
        let running = self.consumers.keys().filter_map(|id| self.paces.get(id));
        let closed_off = running.filter(|pace| pace.is_closed_off()).count();
        self.workshop
            .metrics
            .closed_off
            .set(i64::try_from(closed_off).unwrap_or(i64::MAX));
    }
}

/// Whether an endpoint has a queue, as far as the store tells. To take from one that is just being
/// declared crashes the channel in RabbitMQ 3.10, and with it the connection of all consumers.
fn is_there(endpoint: &Endpoint) -> bool {
    endpoint.bound_since.is_some() || endpoint.updated_at != endpoint.created_at
}

/// Whether its owner has not changed the endpoint between the two.
fn is_unchanged(one: &Endpoint, other: &Endpoint) -> bool {
    one.id == other.id && one.updated_at == other.updated_at
}
