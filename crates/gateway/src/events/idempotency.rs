//! An event is sent once, however often it comes: its source and id are its name.
//!
//! What counts is that the broker confirmed it: an event may be in the log and in some queues, and not in
//! the one that refused it. Those confirmed lately are remembered here, because the store learns of them a
//! moment later; for the rest of the log's retention the store is asked. What is left is sent again, which
//! receivers must bear anyway: an event that comes again within that moment by another gateway or after a
//! crash, or while the store is away.

use std::{sync::Arc, time::Duration};

use moka::{future::Cache, policy::EvictionPolicy};
use relay_event::Event;
use relay_store::Store;
use sha2::{Digest, Sha256};

use super::{
    confirmed::Confirmed,
    looks::Looks,
    notes::Notes,
    send::{Sent, Unsent},
};

/// How many events are remembered, and for how long: by then the store has learned of them.
const REMEMBERED: u64 = 20_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);

/// A digest of an event's name: long names take no more room than short ones.
type Name = [u8; 32];

/// What is known of events that may come again.
pub(crate) struct Idempotency {
    looks: Looks,
    confirmed: Confirmed,
    notes: Notes,
    /// Confirmed ones alone.
    lately: Cache<Name, ()>,
}

impl Idempotency {
    pub(crate) fn new(store: Store, notes: Notes) -> Self {
        Self {
            looks: Looks::start(store),
            confirmed: Confirmed::default(),
            notes,
            lately: lately(REMEMBERED),
        }
    }

    /// Which of the events are noted as confirmed, as far as it is known and matters.
    pub(super) async fn confirmed(&self, events: &[Event]) -> Vec<bool> {
        let is_new = |event: &&Event| !self.lately.contains_key(&name(event));
        let (places, asked): (Vec<usize>, Vec<&Event>) = events
            .iter()
            .enumerate()
            .filter(|(_, event)| is_new(event))
            .unzip();
        let noted = self.confirmed.of(&self.looks, &asked).await;
        let mut confirmed = vec![false; events.len()];
        for (place, noted) in places.into_iter().zip(noted.unwrap_or_default()) {
            confirmed[place] = noted;
        }
        confirmed
    }

    /// Sends an event, unless it is confirmed already, lately or before, or is being sent now: then what
    /// comes of that is the answer. A failure is not remembered.
    pub(super) async fn once(
        &self,
        event: &Event,
        confirmed: bool,
        send: impl Future<Output = Result<(), Unsent>>,
    ) -> Result<Sent, Unsent> {
        let mut sent = Sent::Before;
        let sending = async {
            if !confirmed {
                send.await?;
                self.notes.confirmed(event);
                sent = Sent::Now;
            }
            Ok(())
        };
        let known = self.lately.try_get_with(name(event), sending).await;
        known.map(|()| sent).map_err(|shared: Arc<Unsent>| *shared)
    }
}

/// The newest stay: the usual policy would rather keep those that come often, and forget at once an
/// event that has come for the first time.
fn lately(most: u64) -> Cache<Name, ()> {
    Cache::builder()
        .max_capacity(most)
        .time_to_live(REMEMBERED_FOR)
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

fn name(event: &Event) -> Name {
    let digest = Sha256::new()
        .chain_update(event.source())
        .chain_update([0])
        .chain_update(event.id().as_str())
        .finalize();
    digest.into()
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::future::join_all;
    use prometheus::IntCounter;
    use tokio::sync::Notify;

    use super::*;
    use crate::events::notes;

    fn event(id: &str) -> Event {
        let body = format!(r#"{{"specversion":"1.0","id":"{id}","source":"/x","type":"a.b"}}"#);
        Event::parse(body.into()).unwrap()
    }

    async fn idempotency() -> (Idempotency, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = relay_store::StoreUrl::sqlite(folder.path().join("relay.db"));
        let store = Store::open(&url).await.unwrap();
        let dropped = IntCounter::new("dropped", "Dropped.").unwrap();
        let (notes, _) = notes::notes(store.clone(), dropped);
        (Idempotency::new(store, notes), folder)
    }

    #[tokio::test]
    async fn those_who_come_meanwhile_wait_for_the_first() {
        let (idempotency, _folder) = idempotency().await;
        let (event, confirm) = (event("1"), Notify::new());
        let send = async || {
            confirm.notified().await;
            Ok(())
        };
        let comers = join_all((0..20).map(|_| idempotency.once(&event, false, send())));
        let (came, ()) = tokio::join!(comers, async { confirm.notify_one() });
        let sent = came.iter().filter(|sent| **sent == Ok(Sent::Now)).count();
        let before = came.iter().filter(|sent| **sent == Ok(Sent::Before)).count();
        assert_eq!((sent, before), (1, 19));
    }

    #[tokio::test]
    async fn a_failure_is_shared_and_forgotten() {
        let (idempotency, _folder) = idempotency().await;
        let event = event("1");
        let fails = || ready(Err(Unsent::Unconfirmed));
        let both = tokio::join!(
            idempotency.once(&event, false, fails()),
            idempotency.once(&event, false, fails())
        );
        assert_eq!(both, (Err(Unsent::Unconfirmed), Err(Unsent::Unconfirmed)));
        let again = idempotency.once(&event, false, ready(Ok(()))).await;
        assert_eq!(again, Ok(Sent::Now));
        let again = idempotency.once(&event, false, fails()).await;
        assert_eq!(again, Ok(Sent::Before));
    }

    #[tokio::test]
    async fn what_is_confirmed_is_not_sent() {
        let (idempotency, _folder) = idempotency().await;
        let never = ready(Err(Unsent::Unavailable));
        assert_eq!(idempotency.once(&event("1"), true, never).await, Ok(Sent::Before));
    }

    #[tokio::test]
    async fn the_newest_stay() {
        let (lately, first) = (lately(100), name(&event("first")));
        for n in 0..1_000 {
            let newest = name(&event(&n.to_string()));
            lately.insert(newest, ()).await;
            // One that came long ago and is asked for often does not keep it out.
            lately.get(&first).await;
            lately.run_pending_tasks().await;
            assert!(lately.contains_key(&newest), "{n}");
        }
        assert!(lately.entry_count() <= 100);
    }
}
