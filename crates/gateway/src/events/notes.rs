//! Which events the broker confirmed is noted in the store, beside the requests and in groups. What
//! cannot be noted is let go: such an event, if it comes again, may be sent again.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus::IntCounter;
use relay_event::{Event, EventId, Timestamp};
use relay_store::Store;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::{sleep, timeout},
};

/// How many may wait to be noted: for some seconds of a store that is away, or some megabytes.
const ROOM: usize = 20_000;

/// How many are noted in one write.
const GROUP: usize = 2_000;

/// How long a group gathers: SQLite has one writer at a time, and every write costs it a sync.
const GATHER: Duration = Duration::from_millis(200);

/// How long the store is left alone when it failed.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the last groups may take.
const LAST: Duration = Duration::from_secs(3);

/// An event's name.
type Name = (EventId, String);

/// Takes what is to be noted.
pub(crate) struct Notes {
    waiting: Sender<Name>,
    dropped: IntCounter,
    losing: Losing,
}

/// Writes it down.
pub(crate) struct Noter {
    store: Store,
    waiting: Receiver<Name>,
    /// What is being written, or is to be written again.
    group: Vec<Name>,
    dropped: IntCounter,
    losing: Losing,
}

/// Both ends. `dropped` counts what is let go.
pub(crate) fn notes(store: Store, dropped: IntCounter) -> (Notes, Noter) {
    let (sender, receiver) = mpsc::channel(ROOM);
    let losing = Losing::default();
    let notes = Notes {
        waiting: sender,
        dropped: dropped.clone(),
        losing: losing.clone(),
    };
    let noter = Noter {
        store,
        waiting: receiver,
        group: Vec::new(),
        dropped,
        losing,
    };
    (notes, noter)
}

impl Notes {
    /// Has it noted that the event is confirmed, as well as that can be; nobody waits for it.
    pub(super) fn confirmed(&self, event: &Event) {
        let name = (event.id().clone(), event.source().to_owned());
        if self.waiting.try_send(name).is_err() {
            self.dropped.inc();
            self.losing.begin(None);
        }
    }
}

impl Noter {
    /// Writes for ever; at the end, until nothing is left. It may be dropped and begun again anywhere.
    pub(crate) async fn run(&mut self) {
        loop {
            if self.group.is_empty() && self.waiting.recv_many(&mut self.group, GROUP).await == 0 {
                return;
            }
            let is_full = self.group.len() == GROUP;
            let pause = match self.write().await {
                true if is_full => Duration::ZERO, // More may wait already.
                true => GATHER,
                false => PAUSE,
            };
            sleep(pause).await;
        }
    }

    /// Notes what is left, if that can be done in a moment.
    pub(crate) async fn finish(mut self) {
        self.waiting.close();
        if timeout(LAST, self.run()).await.is_err() {
            let events = self.group.len() + self.waiting.len();
            tracing::warn!(events, "confirmed events are not noted; some may be sent again");
        }
    }

    /// Whether the store did its work. A group that it refuses for what is in it is let go.
    async fn write(&mut self) -> bool {
        match self.store.note_confirmed(&self.group, Timestamp::now()).await {
            Ok(()) => {
                self.group.clear();
                if self.waiting.is_empty() {
                    self.losing.end();
                }
                true
            }
            Err(error) => {
                if !error.is_unavailable() {
                    self.dropped.inc_by(self.group.drain(..).len() as u64);
                }
                self.losing.begin(Some(&error));
                false
            }
        }
    }
}

/// Whether events go unnoted, or soon may. It is said when that changes. Clones share it.
#[derive(Clone, Default)]
struct Losing(Arc<AtomicBool>);

impl Losing {
    fn begin(&self, error: Option<&(dyn Error + 'static)>) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error,
                "confirmed events cannot be noted in the store; until they can be, some that come again may be sent again"
            );
        }
    }

    fn end(&self) {
        if self.0.swap(false, Ordering::Relaxed) {
            tracing::info!("confirmed events are noted in the store again");
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_store::StoreUrl;

    use super::*;

    fn event(id: &str) -> Event {
        let body = format!(r#"{{"specversion":"1.0","id":"{id}","source":"/x","type":"a.b"}}"#);
        Event::parse(body.into()).unwrap()
    }

    #[tokio::test]
    async fn what_finds_no_room_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let url = StoreUrl::sqlite(folder.path().join("relay.db"));
        let store = Store::open(&url).await.unwrap();
        let dropped = IntCounter::new("dropped", "Dropped.").unwrap();
        let (notes, noter) = notes(store.clone(), dropped.clone());
        let (first, last, late) = (event("first"), event("last"), event("late"));
        for _ in 1..ROOM {
            notes.confirmed(&first);
        }
        notes.confirmed(&last);
        assert_eq!(dropped.get(), 0);
        notes.confirmed(&late);
        assert_eq!(dropped.get(), 1);
        assert!(notes.losing.0.load(Ordering::Relaxed));

        noter.finish().await;
        assert!(!notes.losing.0.load(Ordering::Relaxed));
        let names = [first, last, late].map(|event| (event.id().clone(), event.source().to_owned()));
        let noted = store.are_confirmed(&names).await.unwrap();
        assert_eq!(noted, [true, true, false]);
    }
}
