//! An endpoint as deliveries see it: whether there is room for an attempt now, soon, or not, so that nothing that is
//! taken for many waits for one.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use relay_event::{Endpoint, EndpointState, HoldReason, Timestamp};
use tokio::time::timeout;

use crate::{
    breaker::Failing,
    matching::Kept,
    pace::{Pace, Permit},
    slots::Slots,
};

/// The longest time that a delivery waits in memory for its endpoint.
const PATIENCE: Duration = Duration::from_secs(5);

/// The deliveries of one endpoint that wait in memory at most, and their bytes.
const WAITING: Room = Room {
    deliveries: 64,
    bytes: 1024 * 1024,
};

/// An attempt that took longer, or a timeout that is longer than [`SLOW_TIMEOUT`], makes an endpoint slow: it would hold
/// messages that others could have.
const SLOW: Duration = Duration::from_secs(10);
const SLOW_TIMEOUT: Duration = Duration::from_secs(30);

/// An endpoint's part of this process: its limits, what was learnt of it, and what waits for it.
pub(crate) struct Worker {
    standing: Mutex<Standing>,
    waiting: Mutex<Room>,
    is_slow: AtomicBool,
}

struct Standing {
    endpoint: Arc<Endpoint>,
    failing_since: Option<Timestamp>,
    pace: Pace,
    /// Set if it answered that it is gone, which the store does not know yet.
    is_gone: bool,
    is_removed: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Room {
    deliveries: usize,
    bytes: usize,
}

/// Room for an attempt, or the reason why there is none.
pub(crate) enum Offer {
    Attempt(Arc<Endpoint>, Permit),
    Hold(HoldReason),
    Removed,
}

impl Worker {
    pub(crate) fn new(kept: &Kept, slots: Arc<Slots>) -> Self {
        let standing = Standing {
            endpoint: Arc::clone(&kept.endpoint),
            failing_since: kept.failing_since,
            pace: Pace::of(&kept.endpoint, kept.failing_since, slots),
            is_gone: false,
            is_removed: false,
        };
        Self {
            standing: Mutex::new(standing),
            waiting: Mutex::default(),
            is_slow: AtomicBool::new(false),
        }
    }

    /// Takes over the endpoint as it is now.
    pub(crate) fn change(&self, kept: &Kept) {
        let mut standing = self.standing();
        if standing.endpoint != kept.endpoint {
            standing.pace = standing
                .pace
                .clone()
                .adapted_to(&kept.endpoint, kept.failing_since);
            standing.is_gone &= is_unchanged(&standing.endpoint, &kept.endpoint);
            standing.endpoint = Arc::clone(&kept.endpoint);
            self.is_slow.store(false, Ordering::Relaxed);
        }
        standing.pace.learn(standing.failing_since, kept.failing_since);
        standing.failing_since = kept.failing_since;
    }

    /// Takes note that the endpoint is removed, for those that wait for their turn.
    pub(crate) fn remove(&self) {
        self.standing().is_removed = true;
    }

    pub(crate) fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.standing().endpoint)
    }

    /// Room for an attempt at a delivery of so many bytes, as soon as there is some.
    pub(crate) async fn offer(&self, bytes: usize) -> Offer {
        if let Some(reason) = self.is_closed() {
            return Offer::Hold(reason);
        }
        let pace = self.standing().pace.clone();
        if let Some(permit) = pace.permit_now() {
            return self.attempt(permit).await;
        }
        let Some(_place) = self.wait(bytes) else {
            return Offer::Hold(self.why_behind(&pace));
        };
        let permit = tokio::select! {
            biased;
            permit = timeout(PATIENCE, pace.permit()) => permit,
            () = pace.until_closed_off() => return self.hold(HoldReason::Circuit),
        };
        match permit {
            Ok(permit) => self.attempt(permit).await,
            Err(_) => self.hold(self.why_behind(&pace)),
        }
    }

    /// Room for an attempt at what was sent whatever the endpoint's circuit and window say. Only what the owner has set
    /// counts: the most attempts at once.
    pub(crate) async fn offer_dispatched(&self) -> Offer {
        let pace = {
            let standing = self.standing();
            if let Some(reason) = closed(&standing) {
                return Offer::Hold(reason);
            }
            standing.pace.clone()
        };
        match timeout(PATIENCE, pace.permit_beyond()).await {
            Ok(permit) => self.attempt(permit).await,
            Err(_) => self.hold(HoldReason::Behind),
        }
    }

    /// Takes note of an attempt's length.
    pub(crate) fn took(&self, time: Duration) {
        self.is_slow.store(time > SLOW, Ordering::Relaxed);
    }

    /// Takes note that an endpoint, as it was then, answered that it is gone.
    pub(crate) fn is_gone(&self, endpoint: &Endpoint) {
        let mut standing = self.standing();
        standing.is_gone |= is_unchanged(&standing.endpoint, endpoint);
    }

    /// State that its attempts change: whether it is gone, that no attempt succeeds, and since when it fails by the store.
    pub(crate) fn learnt(&self) -> (Arc<Endpoint>, bool, Option<Failing>, Option<Timestamp>) {
        let standing = self.standing();
        let endpoint = Arc::clone(&standing.endpoint);
        (
            endpoint,
            standing.is_gone,
            standing.pace.failing(),
            standing.failing_since,
        )
    }

    /// Takes note of what the store has now of since when it fails.
    pub(crate) fn noted(&self, since: Option<Timestamp>) {
        self.standing().failing_since = since;
    }

    pub(crate) fn is_closed_off(&self) -> bool {
        self.standing().pace.is_closed_off()
    }

    async fn attempt(&self, permit: Permit) -> Offer {
        let permit = permit.with_slot().await;
        // It may have been paused while the process had no room.
        let standing = self.standing();
        match closed(&standing) {
            _ if standing.is_removed => Offer::Removed,
            Some(reason) => Offer::Hold(reason),
            None => Offer::Attempt(Arc::clone(&standing.endpoint), permit),
        }
    }

    /// Holds what has waited for its turn, unless the endpoint was removed meanwhile.
    fn hold(&self, reason: HoldReason) -> Offer {
        if self.standing().is_removed {
            Offer::Removed
        } else {
            Offer::Hold(reason)
        }
    }

    fn is_closed(&self) -> Option<HoldReason> {
        let standing = self.standing();
        if let Some(reason) = closed(&standing) {
            return Some(reason);
        }
        if standing.pace.is_closed_off() {
            return Some(HoldReason::Circuit);
        }
        let timeout = Duration::from_millis(standing.endpoint.timeout_ms);
        let is_slow = timeout > SLOW_TIMEOUT || self.is_slow.load(Ordering::Relaxed);
        is_slow.then_some(HoldReason::Slow)
    }

    fn why_behind(&self, pace: &Pace) -> HoldReason {
        if pace.is_over_rate() {
            HoldReason::Rate
        } else {
            HoldReason::Behind
        }
    }

    fn wait(&self, bytes: usize) -> Option<Place<'_>> {
        let mut waiting = lock(&self.waiting);
        let is_room = waiting.deliveries < WAITING.deliveries
            && (waiting.deliveries == 0 || waiting.bytes + bytes <= WAITING.bytes);
        is_room.then(|| {
            waiting.deliveries += 1;
            waiting.bytes += bytes;
            Place { worker: self, bytes }
        })
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        lock(&self.standing)
    }
}

/// A place among those that wait, until it is dropped.
struct Place<'a> {
    worker: &'a Worker,
    bytes: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.worker.waiting);
        waiting.deliveries -= 1;
        waiting.bytes -= self.bytes;
    }
}

fn closed(standing: &Standing) -> Option<HoldReason> {
    match standing.endpoint.state {
        EndpointState::Active if standing.is_gone => Some(HoldReason::Disabled),
        EndpointState::Active => None,
        EndpointState::Paused => Some(HoldReason::Paused),
        EndpointState::Disabled { .. } => Some(HoldReason::Disabled),
    }
}

/// Returns true if nobody changed an endpoint between the two.
fn is_unchanged(one: &Endpoint, other: &Endpoint) -> bool {
    one.updated_at == other.updated_at
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use relay_event::{ErrorClass, Outcome, Secret};

    use super::*;

    fn endpoint() -> Endpoint {
        let (url, types) = ("http://127.0.0.1/".parse().unwrap(), vec!["#".parse().unwrap()]);
        Endpoint::new(url, types, Secret::generate(), Timestamp::default())
    }

    fn kept(endpoint: Endpoint) -> Kept {
        Kept::of(endpoint)
    }

    fn worker(endpoint: Endpoint) -> Worker {
        Worker::new(&kept(endpoint), Slots::new(2_048))
    }

    async fn permit(worker: &Worker) -> Result<Permit, HoldReason> {
        match worker.offer(100).await {
            Offer::Attempt(_, permit) => Ok(permit),
            Offer::Hold(reason) => Err(reason),
            Offer::Removed => panic!("it is removed"),
        }
    }

    fn changed(endpoint: &Endpoint, state: EndpointState) -> Kept {
        kept(Endpoint {
            state,
            updated_at: endpoint.updated_at + Duration::from_secs(1),
            ..endpoint.clone()
        })
    }

    #[tokio::test]
    async fn what_is_paused_or_slow_is_held_at_once() {
        let endpoint = endpoint();
        let worker = worker(endpoint.clone());
        assert!(permit(&worker).await.is_ok());
        worker.change(&changed(&endpoint, EndpointState::Paused));
        assert_eq!(permit(&worker).await.err(), Some(HoldReason::Paused));
        worker.change(&changed(&endpoint, EndpointState::Active));
        worker.took(SLOW + Duration::from_millis(1));
        assert_eq!(permit(&worker).await.err(), Some(HoldReason::Slow));
        worker.took(SLOW);
        assert!(permit(&worker).await.is_ok());
        let patient = Endpoint {
            timeout_ms: 30_001,
            ..endpoint
        };
        assert_eq!(permit(&self::worker(patient)).await.err(), Some(HoldReason::Slow));
    }

    #[tokio::test]
    async fn one_that_is_gone_is_sent_nothing_until_its_owner_changes_it() {
        let endpoint = endpoint();
        let worker = worker(endpoint.clone());
        worker.is_gone(&endpoint);
        assert_eq!(permit(&worker).await.err(), Some(HoldReason::Disabled));
        let Offer::Hold(HoldReason::Disabled) = worker.offer_dispatched().await else {
            panic!("it is sent something");
        };
        worker.change(&changed(&endpoint, EndpointState::Active));
        assert!(permit(&worker).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_waits_a_while_and_is_held_then() {
        let worker = Arc::new(worker(endpoint()));
        let mut permits = Vec::new();
        for _ in 0..4 {
            permits.push(permit(&worker).await.unwrap());
        }
        let waiting: Vec<_> = (0..WAITING.deliveries)
            .map(|_| {
                tokio::spawn({
                    let worker = Arc::clone(&worker);
                    async move { permit(&worker).await.map(drop) }
                })
            })
            .collect();
        while lock(&worker.waiting).deliveries < WAITING.deliveries {
            tokio::task::yield_now().await;
        }
        // The room is for so many; the next is held without a wait.
        let clock = tokio::time::Instant::now();
        assert_eq!(permit(&worker).await.err(), Some(HoldReason::Behind));
        assert_eq!(clock.elapsed(), Duration::ZERO);
        let mut held = 0;
        drop(permits.pop());
        for waiting in waiting {
            match waiting.await.unwrap() {
                Ok(()) => {}
                Err(HoldReason::Behind) => held += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(held, 0, "each got the permit that came free in turn");
        drop(permits);
    }

    #[tokio::test]
    async fn an_open_circuit_holds_all_but_what_is_sent_on() {
        let worker = worker(endpoint());
        let failed = Outcome::Failed {
            error: ErrorClass::Connect,
            status: None,
        };
        for _ in 0..10 {
            permit(&worker).await.unwrap().heard(&failed, Timestamp::now());
        }
        assert!(worker.is_closed_off());
        assert_eq!(permit(&worker).await.err(), Some(HoldReason::Circuit));
        let Offer::Attempt(_, probe) = worker.offer_dispatched().await else {
            panic!("the probe is held");
        };
        probe.heard(
            &Outcome::Answered {
                status: 200,
                retry_after: None,
            },
            Timestamp::now(),
        );
        assert!(permit(&worker).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_removed_endpoint_hears_that_it_is_removed() {
        let narrow = Endpoint {
            max_in_flight: 1,
            ..endpoint()
        };
        let worker = worker(narrow);
        let under_way = permit(&worker).await.unwrap();
        let waiting = async { tokio::join!(worker.offer(100), worker.offer_dispatched()) };
        let removing = async {
            tokio::task::yield_now().await;
            worker.remove();
        };
        let (waited, ()) = tokio::join!(waiting, removing);
        assert!(matches!(waited, (Offer::Removed, Offer::Removed)));
        drop(under_way);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_on_keeps_to_the_most_that_the_owner_allows() {
        let narrow = Endpoint {
            max_in_flight: 2,
            ..endpoint()
        };
        let worker = worker(narrow);
        let direct = permit(&worker).await.unwrap();
        let Offer::Attempt(_, sent_on) = worker.offer_dispatched().await else {
            panic!("there is room for two");
        };
        let Offer::Hold(HoldReason::Behind) = worker.offer_dispatched().await else {
            panic!("there is no room for three");
        };
        drop(direct);
        assert!(matches!(worker.offer_dispatched().await, Offer::Attempt(..)));
        drop(sent_on);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_its_rate_says_so() {
        let limited = Endpoint {
            rate_limit: Some(1),
            ..endpoint()
        };
        let worker = worker(limited);
        assert!(permit(&worker).await.is_ok());
        let Some(place) = worker.wait(WAITING.bytes) else {
            panic!("there is room");
        };
        assert_eq!(permit(&worker).await.err(), Some(HoldReason::Rate));
        drop(place);

        // The whole window waits for the rate.
        let window = futures_util::future::join_all((0..4).map(|_| worker.offer(1)));
        let one_more = async {
            tokio::task::yield_now().await;
            let _places: Vec<_> = std::iter::from_fn(|| worker.wait(1)).collect();
            assert_eq!(permit(&worker).await.err(), Some(HoldReason::Rate));
        };
        let offers = tokio::join!(window, one_more).0;
        assert_eq!(offers.len(), 4);
    }
}
