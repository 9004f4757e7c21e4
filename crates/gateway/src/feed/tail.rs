//! The end of the log, in memory: how far it goes, and its newest events for those who wait for them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use relay_broker::Broker;
use relay_event::Timestamp;
use relay_store::{EventFilter, Extent, FeedPage, Store, WholeEvent};
use tokio::{
    sync::{Notify, watch},
    time::{Interval, MissedTickBehavior},
};

use crate::metrics::Follower;

/// How often the log is looked at, lest an announcement was missed.
const LOOK: Duration = Duration::from_secs(1);

/// What is read of the log at once.
const PAGE: (u32, u64) = (500, 4 << 20);

/// What is kept of its end.
const KEPT_EVENTS: usize = 4_096;
const KEPT_BYTES: usize = 8 << 20;

/// How far the log goes, and since when.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) extent: Extent,
    pub(crate) grown_at: Instant,
    /// The time since which it is so, as far as this process knows.
    pub(crate) changed_at: Timestamp,
    /// The time at which the log went no further, as it was read last; `None` while more of it is known to be there.
    pub(crate) read_at: Option<Timestamp>,
}

/// The end of the log. Clones share it.
#[derive(Clone)]
pub(crate) struct Tail(Arc<Shared>);

struct Shared {
    store: Store,
    head: watch::Sender<Option<Head>>,
    ring: RwLock<Ring>,
    /// Those who wait for new events. Without them no event is read.
    followers: AtomicUsize,
    /// Those who wait for an event's deliveries to stand otherwise, by its place.
    watched: Mutex<HashMap<i64, Arc<Notify>>>,
}

/// All events after a place, up to another.
#[derive(Default)]
struct Ring {
    after: i64,
    through: i64,
    events: VecDeque<Arc<WholeEvent>>,
    bytes: usize,
}

/// Events of the ring that are wanted, and the place to read on after.
pub(super) struct Kept {
    pub(super) events: Vec<Arc<WholeEvent>>,
    pub(super) through: i64,
}

/// As long as it is held, new events are read.
pub(super) struct Following {
    tail: Tail,
    _counted: Follower,
}

/// Waits for an event's deliveries to stand otherwise.
pub(crate) struct Watch {
    tail: Tail,
    place: i64,
    changed: Arc<Notify>,
}

impl Tail {
    pub(crate) fn new(store: Store) -> Self {
        Self(Arc::new(Shared {
            store,
            head: watch::Sender::new(None),
            ring: RwLock::default(),
            followers: AtomicUsize::new(0),
            watched: Mutex::default(),
        }))
    }

    /// Keeps up with the log, for ever.
    pub(crate) async fn run(&self, broker: &Broker) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let listening = async {
                let session = broker.session().await;
                let recordings = session.recordings().await;
                (session, recordings)
            };
            let (session, mut recordings) = tokio::select! {
                listening = listening => listening,
                never = self.look_now_and_then(&mut ticks) => never,
            };
            loop {
                tokio::select! {
                    () = session.lost() => break,
                    stand_anew = recordings.next() => {
                        self.look().await;
                        self.wake(&stand_anew);
                    }
                    _ = ticks.tick() => self.look().await,
                }
            }
        }
    }

    async fn look_now_and_then<T>(&self, ticks: &mut Interval) -> T {
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }

    /// Reads how far the log goes, and its new events if anybody waits for them.
    async fn look(&self) {
        let looked = match self.0.followers.load(Ordering::SeqCst) {
            0 => self.measure().await,
            _ => self.read_on().await,
        };
        if let Err(error) = looked {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "the end of the log cannot be read; trying again");
        }
    }

    async fn measure(&self) -> Result<(), relay_store::Error> {
        let read_at = Timestamp::now();
        let extent = self.0.store.extent().await?;
        self.ring_mut(|ring| ring.begin(extent.last));
        self.goes(extent, Some(read_at));
        Ok(())
    }

    async fn read_on(&self) -> Result<(), relay_store::Error> {
        let all = EventFilter::default();
        loop {
            let after = match &*self.0.head.borrow() {
                Some(_) => self.through(),
                None => i64::MAX,
            };
            let (limit, bytes) = PAGE;
            let read_at = Timestamp::now();
            let page = self.0.store.feed(&all, after, limit, bytes).await?;
            let last = page.extent.last;
            // As far as it is read: who waits would find nothing beyond, and look again at once.
            let through = page.through.min(last);
            let extent = Extent {
                last: through,
                ..page.extent.clone()
            };
            self.ring_mut(|ring| match after <= last {
                true => ring.push(page),
                // The first look, or another log than before.
                false => ring.begin(last),
            });
            self.goes(extent, (through == last).then_some(read_at));
            if through == last {
                return Ok(());
            }
        }
    }

    fn ring_mut(&self, change: impl FnOnce(&mut Ring)) {
        change(&mut self.0.ring.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn through(&self) -> i64 {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).through
    }

    /// Tells those who wait, if there is anything to tell.
    fn goes(&self, extent: Extent, read_at: Option<Timestamp>) {
        self.0.head.send_if_modified(|head| {
            let grown = head.as_ref().is_none_or(|head| head.extent.last != extent.last);
            let changed = head.as_ref().is_none_or(|head| head.extent != extent);
            let grown_at = match head.as_ref() {
                Some(head) if !grown => head.grown_at,
                _ => Instant::now(),
            };
            let changed_at = match head.as_ref() {
                Some(head) if !changed => head.changed_at,
                _ => Timestamp::now(),
            };
            *head = Some(Head {
                extent,
                grown_at,
                changed_at,
                read_at,
            });
            changed
        });
    }

    /// How far the log went when it was last looked at; `None` if it never could be.
    pub(crate) fn head(&self) -> Option<Head> {
        self.0.head.borrow().clone()
    }

    /// Resolves once the log goes beyond a place.
    pub(super) async fn beyond(&self, place: i64) {
        let mut heads = self.0.head.subscribe();
        let beyond = |head: &Option<Head>| head.as_ref().is_some_and(|head| head.extent.last > place);
        // The sender is as alive as this.
        let _ = heads.wait_for(beyond).await;
    }

    pub(super) fn follow(&self, counted: Follower) -> Following {
        self.0.followers.fetch_add(1, Ordering::SeqCst);
        Following {
            tail: self.clone(),
            _counted: counted,
        }
    }

    /// Wanted events after a place; `None` if the ring begins later.
    pub(super) fn after(&self, place: i64, filter: &EventFilter, limit: u32, bytes: u64) -> Option<Kept> {
        let ring = self.0.ring.read().unwrap_or_else(PoisonError::into_inner);
        (ring.after <= place && place <= ring.through).then(|| ring.page(place, filter, limit, bytes))
    }

    /// Watches how the deliveries of the event at this place stand.
    pub(crate) fn watch(&self, place: i64) -> Watch {
        let changed = Arc::clone(self.watched().entry(place).or_default());
        Watch {
            tail: self.clone(),
            place,
            changed,
        }
    }

    /// Tells those who watch these events.
    pub(crate) fn wake(&self, places: &[i64]) {
        let watched = self.watched();
        if watched.is_empty() {
            return;
        }
        for changed in places.iter().filter_map(|place| watched.get(place)) {
            changed.notify_waiters();
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<i64, Arc<Notify>>> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.tail.0.followers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Watch {
    /// To be enabled before the deliveries are read, lest a change in between is missed.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.tail.watched();
        // One here, and one in the map.
        if Arc::strong_count(&self.changed) == 2 {
            watched.remove(&self.place);
        }
    }
}

impl Ring {
    /// Holds nothing, from this place on.
    fn begin(&mut self, place: i64) {
        if self.through != place {
            *self = Self {
                after: place,
                through: place,
                ..Self::default()
            };
        }
    }

    fn push(&mut self, page: FeedPage) {
        for event in page.events {
            self.bytes += event.body.len();
            self.events.push_back(Arc::new(event));
        }
        self.through = page.through;
        while self.events.len() > KEPT_EVENTS || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.body.len();
            self.after = oldest.event.sequence;
        }
    }

    fn page(&self, place: i64, filter: &EventFilter, limit: u32, bytes: u64) -> Kept {
        let begin = self.events.partition_point(|whole| whole.event.sequence <= place);
        let mut events: Vec<Arc<WholeEvent>> = Vec::new();
        let mut size = 0;
        let mut through = place;
        for whole in self.events.range(begin..) {
            if filter.matches(&whole.event) {
                size += whole.event.size;
                let full = events.len() >= limit as usize || size > bytes;
                if full && !events.is_empty() {
                    return Kept { events, through };
                }
                events.push(Arc::clone(whole));
            }
            through = whole.event.sequence;
        }
        Kept {
            events,
            through: self.through,
        }
    }
}

#[cfg(test)]
mod tests;
