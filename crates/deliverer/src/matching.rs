//! The endpoints that an event is for: as the store had them at a moment after the event was taken, so that a
//! change counts for whatever is published after its answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use relay_broker::Session;
use relay_event::{
    Endpoint, EndpointId, EndpointsVersion, EventAttributes, History, SelectionIndex, Timestamp,
};
use relay_service::Component;
use relay_store::{ChangeReader, Changes, FleetVersion, KnownEndpoints, Store};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{metrics::Metrics, slots::Slots, worker::Worker};

/// The longest time that events wait for the store to tell what changed. After that they are matched with what is
/// known, at once, until it answers again.
const PATIENCE: Duration = Duration::from_millis(250);

/// The time between two looks of a deliverer that takes nothing.
const LOOK: Duration = Duration::from_secs(1);

/// The certainty of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// The endpoints are as the store had them after the question.
    Clear,
    /// The store did not answer; the endpoints are as they were known before.
    Blind,
}

/// The endpoints, for those who match and attempt. Clones share them.
#[derive(Clone)]
pub(crate) struct Matching {
    shared: Arc<Shared>,
    questions: mpsc::UnboundedSender<oneshot::Sender<Sight>>,
}

struct Shared {
    known: RwLock<Known>,
    /// Those of endpoints that got something since this process began.
    workers: Mutex<HashMap<EndpointId, Arc<Worker>>>,
    slots: Arc<Slots>,
}

struct Known {
    endpoints: KnownEndpoints<Kept>,
    index: SelectionIndex<EndpointId>,
    /// The version of the endpoints; `None` before they are read.
    version: Option<Arc<EndpointsVersion>>,
}

/// An endpoint, and beside it what changes and says nothing of its deliveries to come: the time since which it fails, and
/// its mark.
#[derive(Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) failing_since: Option<Timestamp>,
    overtaken: i64,
}

impl Kept {
    pub(crate) fn of(mut endpoint: Endpoint) -> Self {
        let failing_since = endpoint.failing_since.take();
        let overtaken = std::mem::take(&mut endpoint.overtaken);
        Self {
            endpoint: Arc::new(endpoint),
            failing_since,
            overtaken,
        }
    }
}

impl Matching {
    /// Knows no endpoint before [`Reader::run`] has read them.
    pub(crate) fn new(store: &Store, slots: Arc<Slots>) -> (Self, Reader) {
        let (questions, asked) = mpsc::unbounded_channel();
        let known = Known {
            endpoints: KnownEndpoints::new(Kept::of),
            index: SelectionIndex::default(),
            version: None,
        };
        let shared = Arc::new(Shared {
            known: RwLock::new(known),
            workers: Mutex::default(),
            slots,
        });
        let reader = Reader {
            store: store.clone(),
            shared: Arc::clone(&shared),
            questions: asked,
            source: Some(store.change_reader()),
            reading: JoinSet::new(),
            began: Instant::now(),
            answered_by_this: Vec::new(),
            answered_by_next: Vec::new(),
            again: false,
            reading_all: JoinSet::new(),
            is_away: false,
        };
        (Self { shared, questions }, reader)
    }

    /// Resolves once the endpoints are known as they were at some moment after the call, or the store did not tell.
    pub(crate) async fn look(&self) -> Sight {
        let (answer, answered) = oneshot::channel();
        match self.questions.send(answer) {
            Ok(()) => answered.await.unwrap_or(Sight::Blind),
            Err(_) => Sight::Blind,
        }
    }

    /// The endpoints whose selection matches, in no particular order.
    pub(crate) fn wanting(&self, event: EventAttributes<'_>) -> Vec<Arc<Worker>> {
        let known = self.known();
        let wanting = known.index.matching(event);
        let kept = wanting.into_iter().filter_map(|id| known.endpoints.get(id));
        kept.map(|kept| self.worker_of(kept)).collect()
    }

    /// The version at which the endpoints are known.
    pub(crate) fn version(&self) -> Option<Arc<EndpointsVersion>> {
        self.known().version.clone()
    }

    /// Returns true if a delivery may have been begun anew or canceled ([`History::is_in_doubt`]).
    pub(crate) fn is_in_doubt(&self, endpoint: &EndpointId, history: &History) -> bool {
        let known = self.known();
        let (kept, version) = (known.endpoints.get(endpoint), &known.version);
        kept.zip(version.as_ref())
            .is_some_and(|(kept, version)| history.is_in_doubt(kept.overtaken, &version.lineage))
    }

    /// An endpoint; `None` if it was removed.
    pub(crate) fn worker(&self, id: &EndpointId) -> Option<Arc<Worker>> {
        let known = self.known();
        known.endpoints.get(id).map(|kept| self.worker_of(kept))
    }

    /// All endpoints that got something since this process began and are not removed.
    pub(crate) fn workers(&self) -> Vec<Arc<Worker>> {
        self.all_workers().values().cloned().collect()
    }

    fn worker_of(&self, kept: &Kept) -> Arc<Worker> {
        let mut workers = self.all_workers();
        if let Some(worker) = workers.get(&kept.endpoint.id) {
            return Arc::clone(worker);
        }
        let worker = Arc::new(Worker::new(kept, Arc::clone(&self.shared.slots)));
        workers.insert(kept.endpoint.id.clone(), Arc::clone(&worker));
        worker
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.shared.known()
    }

    fn all_workers(&self) -> MutexGuard<'_, HashMap<EndpointId, Arc<Worker>>> {
        self.shared.workers()
    }
}

impl Shared {
    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn workers(&self) -> MutexGuard<'_, HashMap<EndpointId, Arc<Worker>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A read that ended, and the reader, to be used again.
struct Read {
    source: ChangeReader,
    changes: Result<Changes, relay_store::Error>,
}

/// Reads what changed: one read at a time, for all who asked before it began.
pub(crate) struct Reader {
    store: Store,
    shared: Arc<Shared>,
    questions: mpsc::UnboundedReceiver<oneshot::Sender<Sight>>,
    /// Taken out while it reads.
    source: Option<ChangeReader>,
    reading: JoinSet<Read>,
    /// The time when the read under way began.
    began: Instant,
    answered_by_this: Vec<oneshot::Sender<Sight>>,
    answered_by_next: Vec<oneshot::Sender<Sight>>,
    /// Set if a change was announced during the read under way, which may have come too early for it.
    again: bool,
    /// A read of all endpoints, beside those of what changed: it may take a while, and nobody waits for it.
    reading_all: JoinSet<Result<Changes, relay_store::Error>>,
    /// Set while the store does not answer.
    is_away: bool,
}

impl Reader {
    /// Reads the endpoints for the first time: a deliverer that never knew them takes nothing.
    pub(crate) async fn read_first(&mut self, health: &Component) {
        while !self.is_known() {
            self.begin();
            if let Some(read) = self.reading.join_next().await {
                self.end(read, health);
            }
            if !self.is_known() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Answers questions, looks each second, and reads all endpoints at each recheck, until dropped.
    pub(crate) async fn run(
        &mut self,
        session: &Session,
        recheck: Duration,
        health: &Component,
        metrics: &Metrics,
    ) -> ! {
        let mut announced = session.changes().await;
        let mut look = interval(LOOK);
        let mut recheck = interval(recheck);
        for ticks in [&mut look, &mut recheck] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
        }
        self.begin(); // It may have read in a session before.
        loop {
            let (late, is_late) = (self.began + PATIENCE, self.is_late());
            tokio::select! {
                biased;
                Some(read) = self.reading.join_next() => self.end(read, health),
                () = sleep_until(late), if is_late => self.go_blind(metrics),
                Some(question) = self.questions.recv() => self.ask(question, metrics),
                () = announced.next() => {
                    self.again = !self.reading.is_empty();
                    self.begin();
                }
                _ = look.tick() => self.begin(),
                _ = recheck.tick(), if self.reading_all.is_empty() => self.begin_all(),
                Some(Ok(Ok(all))) = self.reading_all.join_next() => self.apply_all(all),
            }
        }
    }

    fn is_known(&self) -> bool {
        self.known().endpoints.version().is_some()
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.shared.known()
    }

    fn is_late(&self) -> bool {
        !self.reading.is_empty() && !self.is_away
    }

    fn ask(&mut self, question: oneshot::Sender<Sight>, metrics: &Metrics) {
        if self.is_away {
            metrics.blind.inc();
            let _ = question.send(Sight::Blind);
            return;
        }
        self.answered_by_next.push(question);
        self.begin();
    }

    /// Begins to read, unless that is under way.
    fn begin(&mut self) {
        let Some(mut source) = self.source.take() else {
            return;
        };
        self.answered_by_this.append(&mut self.answered_by_next);
        // This read also answers requests of the meantime.
        while let Ok(question) = self.questions.try_recv() {
            self.answered_by_this.push(question);
        }
        self.began = Instant::now();
        let version = self.known().endpoints.version().cloned();
        self.reading.spawn(async move {
            let changes = source.changes_since(version.as_ref()).await;
            Read { source, changes }
        });
    }

    /// Answers those who asked before the read began, and begins the next one if others wait for it.
    fn end(&mut self, read: Result<Read, JoinError>, health: &Component) {
        let (source, sight) = match read {
            Ok(Read { source, changes }) => (source, self.take_note(changes, health)),
            Err(_panicked) => (self.store.change_reader(), Sight::Blind),
        };
        self.source = Some(source);
        for question in self.answered_by_this.drain(..) {
            let _ = question.send(sight);
        }
        if std::mem::take(&mut self.again) || !self.answered_by_next.is_empty() {
            self.begin();
        }
    }

    /// Begins to read all endpoints. Numbers do not tell of a change that a database has lost, if it made as many
    /// others since it was restored or failed over.
    fn begin_all(&mut self) {
        let store = self.store.clone();
        self.reading_all
            .spawn(async move { store.changes_since(None).await });
    }

    /// Takes over all endpoints, unless something changed while they were read: then the next recheck does.
    fn apply_all(&self, all: Changes) {
        let is_newest = self.known().endpoints.version() == Some(&all.version);
        if is_newest {
            self.apply(all);
        }
    }

    fn take_note(&mut self, changes: Result<Changes, relay_store::Error>, health: &Component) -> Sight {
        match changes {
            Ok(changes) => {
                self.apply(changes);
                self.is_away = false;
                if health.ready() {
                    tracing::info!("the endpoints are read");
                }
                Sight::Clear
            }
            Err(error) => {
                self.is_away = true;
                if health.not_ready(error.to_string()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the endpoints cannot be read; going on with those known");
                }
                Sight::Blind
            }
        }
    }

    fn go_blind(&mut self, metrics: &Metrics) {
        self.is_away = true;
        let waiting = self
            .answered_by_this
            .drain(..)
            .chain(self.answered_by_next.drain(..));
        for question in waiting {
            metrics.blind.inc();
            let _ = question.send(Sight::Blind);
        }
    }

    fn apply(&self, changes: Changes) {
        let mut known = self.shared.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut workers = self.shared.workers();
        let Known {
            endpoints,
            index,
            version,
        } = &mut *known;
        let FleetVersion { lineage, number, .. } = &changes.version;
        let is_new = |before: &Arc<EndpointsVersion>| (&before.lineage, &before.number) != (lineage, number);
        if version.as_ref().is_none_or(is_new) {
            *version = Some(Arc::new(EndpointsVersion {
                lineage: lineage.clone(),
                number: *number,
            }));
        }
        for changed in endpoints.apply(changes) {
            if let Some(before) = changed.before {
                index.remove(&before.endpoint.selection, &changed.id);
            }
            match endpoints.get(&changed.id) {
                Some(kept) => {
                    index.insert(&kept.endpoint.selection, &changed.id);
                    if let Some(worker) = workers.get(&changed.id) {
                        worker.change(kept);
                    }
                }
                None => {
                    if let Some(worker) = workers.remove(&changed.id) {
                        worker.remove();
                    }
                }
            }
        }
    }
}
