//! The dispatcher: sends held deliveries on whose endpoints have room. One process does it at a time, as a row in the
//! store says. What is sent is claimed first; then it is published and confirmed; and only a record ends the claim.
//! The same process removes endpoints whose time is over.

mod alone;
mod backlog;
mod empty;
mod expiries;
mod lanes;

use std::{sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use relay_broker::{Broker, Changes, Delays, Dispatched, PublishError, Queue, Recordings, Session};
use relay_event::{EndpointId, Timestamp};
use relay_store::{
    Changed, ClaimFrom, ClaimRequest, Claims, Error, HeldChange, HeldNow, KnownEndpoints, ReturnedFor, Store,
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    alone::Alone,
    backlog::Backlog,
    empty::Empty,
    expiries::Expiries,
    lanes::{Lanes, Terms},
};
use crate::{config::DispatchTimes, metrics::Metrics};

/// Claims that are held again in one transaction.
const SILENT_AT_ONCE: u32 = 1_000;

/// Bounds of the claims in one transaction: endpoints, and bytes of events.
const ENDPOINTS: usize = 128;
const BYTES: u64 = 8 * 1024 * 1024;

/// Changed endpoints that are read at once.
const CHANGES: u32 = 1_000;

/// Endpoints that are removed, one after the other, before held deliveries have their turn again.
const EXPIRED_AT_ONCE: usize = 16;

/// The longest time that giving up the duty may take.
const LEAVE: Duration = Duration::from_secs(2);

/// The time between two counts of held deliveries for the metrics, if anything changed.
const COUNT: Duration = Duration::from_secs(15);

/// The reason for which the dispatcher stopped.
enum StopReason {
    /// Another process took over.
    EpochOver,
    /// The session is over.
    Lost,
    /// The store failed.
    Store(Error),
}

impl From<Error> for StopReason {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<PublishError> for StopReason {
    fn from(_: PublishError) -> Self {
        Self::Lost
    }
}

/// Sends held deliveries on.
pub(crate) struct Dispatcher {
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    /// Told when this process records that something is held or that a claim ended.
    pub(crate) wake: Arc<Notify>,
    pub(crate) recheck: Duration,
    pub(crate) times: DispatchTimes,
}

/// Claims that are not known to be published.
#[derive(Default)]
struct Unconfirmed {
    since: Option<Instant>,
    claims: Vec<(EndpointId, Vec<Dispatched>)>,
}

impl Dispatcher {
    /// Dispatches, session after session and epoch after epoch, until told to stop.
    pub(crate) async fn run(&self, broker: &Broker, shutdown: &CancellationToken) {
        let who = format!("recorder {}", std::process::id());
        let mut unconfirmed = Unconfirmed::default();
        let mut delays = Delays::new();
        loop {
            let turn = async {
                let session = broker.session().await;
                let epoch = self.until_on_duty(&who).await;
                (session, epoch)
            };
            let (session, epoch) = tokio::select! {
                () = shutdown.cancelled() => return,
                turn = turn => turn,
            };
            tracing::debug!(epoch, "this process sends held deliveries on");
            let begun = Instant::now();
            let stopped = tokio::select! {
                () = shutdown.cancelled() => None,
                () = session.lost() => Some(StopReason::Lost),
                stopped = self.renew(epoch) => Some(stopped),
                Err(stopped) = self.dispatch(&session, epoch, &mut unconfirmed) => Some(stopped),
            };
            // From now on another process counts them.
            self.metrics.held(&HeldNow::default());
            // Whoever is next need not wait; a store that is away is left alone.
            let _ = timeout(LEAVE, self.store.leave_duty(epoch)).await;
            match stopped {
                None => return,
                Some(StopReason::Store(error)) => {
                    self.metrics.store_failed(&error);
                    let is_away = error.is_unavailable();
                    let error = &error as &dyn std::error::Error;
                    if is_away {
                        tracing::debug!(error, "held deliveries cannot be sent on; trying again");
                    } else {
                        tracing::warn!(error, "held deliveries cannot be sent on; trying again");
                    }
                }
                Some(StopReason::EpochOver) => {
                    tracing::info!("another process sends held deliveries on");
                }
                Some(StopReason::Lost) => {}
            }
            if begun.elapsed() > self.times.lease {
                delays.reset();
            }
            delays.wait().await;
        }
    }

    async fn until_on_duty(&self, who: &str) -> i64 {
        loop {
            match self.store.take_duty(who, self.times.lease).await {
                Ok(Some(epoch)) => return epoch,
                Ok(None) => {}
                Err(error) => self.metrics.store_failed(&error),
            }
            sleep(self.times.renewal()).await;
        }
    }

    /// Keeps the duty, until it cannot.
    async fn renew(&self, epoch: i64) -> StopReason {
        loop {
            sleep(self.times.renewal()).await;
            match self.store.renew_duty(epoch, self.times.lease).await {
                Ok(true) => {}
                Ok(false) => return StopReason::EpochOver,
                Err(error) => return error.into(),
            }
        }
    }

    async fn dispatch(
        &self,
        session: &Session,
        epoch: i64,
        unconfirmed: &mut Unconfirmed,
    ) -> Result<(), StopReason> {
        let (mut changes, mut recordings) = (session.changes().await, session.recordings().await);
        // Claims that waited for longer may be held again by now.
        if unconfirmed
            .since
            .is_some_and(|since| since.elapsed() > self.times.silent / 2)
        {
            *unconfirmed = Unconfirmed::default();
        }
        publish(session, unconfirmed).await?;
        let mut known = KnownEndpoints::new(|endpoint| Terms::of(&endpoint));
        known.refresh(&self.store).await?;
        let held = self.store.waiting_by_endpoint().await?;
        self.metrics.held(&held);
        let mut expiries = Expiries::new(Instant::now());
        for (id, terms) in known.iter() {
            expiries.note(id, None, terms.expires_at);
        }
        let mut turn = Turn {
            dispatcher: self,
            session,
            epoch,
            known,
            through: held.through,
            lanes: Lanes::begin(held.endpoints, Instant::now()),
            backlog: Backlog::new(Instant::now()),
            alone: Alone::new(Instant::now()),
            empty: Empty::default(),
            expiries,
            look_at: Some(Instant::now()),
            count_at: None,
        };
        turn.consider_all();
        turn.run(&mut changes, &mut recordings, unconfirmed).await
    }
}

/// One epoch in one session.
struct Turn<'d> {
    dispatcher: &'d Dispatcher,
    session: &'d Session,
    epoch: i64,
    known: KnownEndpoints<Terms>,
    lanes: Lanes,
    /// The last write that is known.
    through: i64,
    backlog: Backlog,
    alone: Alone,
    empty: Empty,
    expiries: Expiries,
    /// The time to look for silent claims; `None` if nothing is claimed.
    look_at: Option<Instant>,
    /// The time to count what is held; `None` if nothing changed.
    count_at: Option<Instant>,
}

impl Turn<'_> {
    async fn run(
        &mut self,
        changes: &mut Changes,
        recordings: &mut Recordings,
        unconfirmed: &mut Unconfirmed,
    ) -> Result<(), StopReason> {
        let mut recheck = interval(self.dispatcher.recheck);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        recheck.tick().await; // All has just been read.
        loop {
            self.hear().await?;
            self.expire().await?;
            self.hold_silent_again().await?;
            self.count().await?;
            self.send_alone(unconfirmed).await?;
            while self.send(unconfirmed).await? {
                self.hear().await?;
                self.expire().await?;
                self.send_alone(unconfirmed).await?;
            }
            let next = [
                self.lanes.next_at(),
                self.alone.look_at(),
                self.look_at,
                self.count_at,
            ];
            let next = next.into_iter().flatten().min();
            let next = match self.backlog.until() {
                Some(until) => Some(next.map_or(until, |next| next.max(until))),
                None => next,
            };
            let expiry = self.expiries.next_at(Timestamp::now(), Instant::now());
            let next = [next, expiry].into_iter().flatten().min();
            tokio::select! {
                () = self.dispatcher.wake.notified() => {}
                _ = recordings.next() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                _ = changes.next() => self.know().await?,
                _ = recheck.tick() => self.know_all().await?,
            }
        }
    }

    fn consider_all(&mut self) {
        for id in self.lanes.ids() {
            self.lanes.consider(&id, self.known.get(&id), Instant::now());
        }
    }

    /// Reads which endpoints changed.
    async fn know(&mut self) -> Result<(), StopReason> {
        let changed = self.known.refresh(&self.dispatcher.store).await?;
        self.consider(changed);
        Ok(())
    }

    /// Reads all endpoints.
    async fn know_all(&mut self) -> Result<(), StopReason> {
        let changed = self.known.refresh_all(&self.dispatcher.store).await?;
        self.consider(changed);
        Ok(())
    }

    fn consider(&mut self, changed: Vec<Changed<Terms>>) {
        let now = Instant::now();
        for Changed { id, before } in changed {
            let expires_at = self.known.get(&id).and_then(|terms| terms.expires_at);
            self.expiries
                .note(&id, before.and_then(|terms| terms.expires_at), expires_at);
            self.alone.look(now);
            self.lanes.changed(&id, now);
            self.lanes.consider(&id, self.known.get(&id), now);
        }
    }

    /// Removes endpoints whose time is over.
    async fn expire(&mut self) -> Result<(), StopReason> {
        let mut expired = None;
        for _ in 0..EXPIRED_AT_ONCE {
            let Some((time, id)) = self.expiries.take(Timestamp::now(), Instant::now()) else {
                break;
            };
            if self.dispatcher.store.expire(self.epoch, &id).await? {
                tracing::info!(endpoint = %id, "the endpoint's time is over; it was removed");
                expired = Some(id);
            } else {
                self.expiries.put_back((time, id), Instant::now());
                self.know().await?; // It may have been given another time.
                break;
            }
        }
        if let Some(id) = expired {
            self.know().await?;
            // One announcement has others read all changes. Without it they learn of them when they next look.
            if self.session.announce_change(&id).await.is_err() {
                tracing::debug!("a change was not announced");
            }
        }
        Ok(())
    }

    /// Reads for which endpoints something was held, and which claims ended.
    async fn hear(&mut self) -> Result<(), StopReason> {
        loop {
            let changes = self.dispatcher.store.held_changes(self.through, CHANGES).await?;
            let now = Instant::now();
            let count = changes.endpoints.len();
            let is_unknown = |change: &HeldChange| self.known.get(&change.endpoint).is_none();
            if changes.endpoints.iter().any(is_unknown) {
                self.know().await?; // It was removed, or added just now.
            }
            for change in changes.endpoints {
                let returned = self.lanes.heard(&change.endpoint, change.ends, now);
                self.dispatcher.metrics.held_again(returned);
                let terms = self.known.get(&change.endpoint);
                self.lanes.consider(&change.endpoint, terms, now);
            }
            if count > 0 {
                self.count_at.get_or_insert(now + COUNT);
                self.alone.look(now);
            }
            self.through = changes.through;
            if count < usize::try_from(CHANGES).unwrap_or(usize::MAX) {
                return Ok(());
            }
        }
    }

    /// Holds those again of whose claims nothing was heard since all messages were taken, and of which no record waits.
    async fn hold_silent_again(&mut self) -> Result<(), StopReason> {
        let Dispatcher { store, times, .. } = self.dispatcher;
        let (rarely, soon) = times.look();
        while self.look_at.is_some_and(|at| at <= Instant::now()) {
            self.look_at = Some(Instant::now() + soon);
            let now = Instant::now();
            if self.ready(Queue::Dispatch).await? == 0 {
                self.empty.seen(now, times.lost);
            }
            if self.ready(Queue::Records).await? + self.ready(Queue::Holds).await? > 0 {
                return Ok(());
            }
            let after = (
                self.empty.before(now, times.silent),
                self.empty.before(now, times.lost),
            );
            let again = store.hold_silent_claims_again(self.epoch, after, SILENT_AT_ONCE);
            let again = again.await?.ok_or(StopReason::EpochOver)?;
            if again.deliveries == u64::from(SILENT_AT_ONCE) {
                self.look_at = Some(Instant::now());
            } else if again.left == 0 {
                self.look_at = (again.claims > 0).then(|| Instant::now() + rarely);
            }
        }
        Ok(())
    }

    async fn count(&mut self) -> Result<(), StopReason> {
        if self.count_at.is_some_and(|at| at <= Instant::now()) {
            let held = self.dispatcher.store.waiting_by_endpoint().await?;
            self.dispatcher.metrics.held(&held);
            self.count_at = None;
        }
        Ok(())
    }

    /// Sends on what may be sent now, as far as one transaction goes. Returns false if that is nothing.
    async fn send(&mut self, unconfirmed: &mut Unconfirmed) -> Result<bool, StopReason> {
        self.measure().await?;
        let (now, most) = (Instant::now(), self.backlog.room().min(ENDPOINTS));
        let mut requests = Vec::new();
        while requests.len() < most
            && let Some((endpoint, limit, from)) = self.lanes.take(|id| self.known.get(id), now)
        {
            requests.push(ClaimRequest {
                endpoint,
                limit,
                from,
            });
        }
        if requests.is_empty() {
            return Ok(false);
        }
        self.claim(&requests, unconfirmed).await?;
        Ok(true)
    }

    /// Counts what waits for the deliverers, if it is time.
    async fn measure(&mut self) -> Result<(), StopReason> {
        if self.backlog.is_due(Instant::now()) {
            let ready = self.ready(Queue::Dispatch).await?;
            self.backlog.measured(ready, Instant::now());
        }
        Ok(())
    }

    async fn ready(&self, queue: Queue) -> Result<u32, StopReason> {
        let depth = self.session.depth(queue).await.map_err(|_| StopReason::Lost)?;
        Ok(depth.map_or(0, |depth| depth.ready))
    }

    /// Sends one of those on that were returned too often, if none is under way: whichever ends its deliverer is alone
    /// then.
    async fn send_alone(&mut self, unconfirmed: &mut Unconfirmed) -> Result<(), StopReason> {
        if self.alone.look_at().is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        self.measure().await?;
        if self.backlog.room() == 0 {
            return Ok(());
        }
        let returned = self.dispatcher.store.returned().await?;
        let now = Instant::now();
        let not_before = |returned: &ReturnedFor| {
            let (id, ends) = (&returned.endpoint, returned.ends);
            let terms = self.known.get(id);
            let may = terms.is_none_or(|terms| terms.is_active);
            may.then(|| self.lanes.know(id, ends, terms, now))
        };
        if let Some(endpoint) = self.alone.next(&returned, not_before, now) {
            let request = ClaimRequest {
                endpoint,
                limit: 1,
                from: ClaimFrom::Returned,
            };
            self.claim(&[request], unconfirmed).await?;
        }
        Ok(())
    }

    async fn claim(
        &mut self,
        requests: &[ClaimRequest],
        unconfirmed: &mut Unconfirmed,
    ) -> Result<(), StopReason> {
        let claiming = self.dispatcher.store.claim(self.epoch, requests, BYTES);
        let claims = claiming.await?.ok_or(StopReason::EpochOver)?;
        unconfirmed.since = Some(Instant::now());
        for (claims, request) in claims.into_iter().zip(requests) {
            self.claimed(claims, request.from == ClaimFrom::Returned, unconfirmed);
        }
        let (rarely, _) = self.dispatcher.times.look();
        self.look_at.get_or_insert(Instant::now() + rarely);
        let sent = publish(self.session, unconfirmed).await?;
        self.dispatcher.metrics.dispatched(sent);
        Ok(())
    }

    fn claimed(&mut self, claims: Claims, alone: bool, unconfirmed: &mut Unconfirmed) {
        let Claims {
            endpoint,
            deliveries,
            more,
            unreadable,
        } = claims;
        if unreadable > 0 {
            tracing::warn!(%endpoint, unreadable, "held deliveries cannot be read in the database; they are not sent on");
        }
        let count = u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
        let terms = self.known.get(&endpoint);
        if alone {
            self.lanes.sent_alone(&endpoint, count, terms, Instant::now());
            if count == 0 {
                self.alone.look(Instant::now()); // It ended in the meantime, or cannot be read.
            }
        } else {
            self.lanes.sent(&endpoint, (count, more), terms, Instant::now());
        }
        if deliveries.is_empty() {
            return;
        }
        self.backlog.sent();
        let dispatched = deliveries.into_iter().map(|claimed| Dispatched {
            event: claimed.event,
            published_at: claimed.published_at,
            hop: claimed.hop,
            history: claimed.history,
            alone,
        });
        unconfirmed.claims.push((endpoint, dispatched.collect()));
    }
}

/// Publishes what is claimed, and returns its number. What is not confirmed stays, and is published in the next
/// session.
async fn publish(session: &Session, unconfirmed: &mut Unconfirmed) -> Result<usize, PublishError> {
    let claims = &unconfirmed.claims;
    try_join_all(
        claims
            .iter()
            .map(|(endpoint, claims)| session.dispatch(endpoint, claims)),
    )
    .await?;
    let sent = claims.iter().map(|(_, claims)| claims.len()).sum();
    *unconfirmed = Unconfirmed::default();
    Ok(sent)
}
