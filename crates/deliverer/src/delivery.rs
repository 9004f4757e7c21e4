//! Deliveries: a taken message is matched, and what becomes of it at each endpoint is settled.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use relay_broker::{Arrival, Part, Queue, Received, Refused, Session, Settlement, Taken};
use relay_event::{
    Attempt, AttemptId, DeadReason, DeliveryState, Endpoint, EndpointId, EndpointsVersion, Event, History,
    HoldReason, Outcome, Timestamp, Verdict, verdict,
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    breaker::Change,
    client::Client,
    consumers::Holding,
    matching::{Matching, Sight},
    metrics::Metrics,
    pace::Permit,
    post::{Exchanged, post},
    shortage::Shortages,
    worker::{Offer, Worker},
};

/// Endpoints that want an event, beyond which it is held for all of them: it would take all room at once.
const WIDE: usize = 100;

/// What every delivery of a process shares.
pub(crate) struct Workshop {
    pub(crate) client: Client,
    pub(crate) metrics: Metrics,
    pub(crate) max_event_bytes: usize,
    /// What attempt records are signed with.
    pub(crate) deliverer: String,
    pub(crate) matching: Matching,
    pub(crate) shortages: Shortages,
    /// Room for deliveries of wide or expired events that are being held: each needs memory until it is confirmed.
    pub(crate) holding: Semaphore,
}

/// The deliveries of wide or expired events that are held at once.
pub(crate) const HOLDING: usize = 256;

/// State that the deliveries of one session share.
#[derive(Clone)]
pub(crate) struct Stay {
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) session: Session,
    /// Deliveries begun and not settled.
    pub(crate) under_way: TaskTracker,
    /// Cancelled when the process stops: what only waits for its turn is given back then.
    pub(crate) stopping: CancellationToken,
}

/// A delivery whose outcome is to be made safe.
struct Delivery {
    stay: Stay,
    received: Arc<Received>,
    part: Part,
    endpoint: EndpointId,
    /// The version of all endpoints that was read before it is attempted; `None` if none was ever read.
    version: Option<Arc<EndpointsVersion>>,
    _holding: Arc<Holding>,
}

impl Stay {
    /// Begins to deliver a message of `queue`; what goes on is waited for when the process ends.
    pub(crate) fn begin(&self, queue: Queue, taken: Taken, holding: Holding) {
        let stay = self.clone();
        let delivering = async move {
            match queue {
                Queue::Dispatch => stay.deliver_batch(taken, holding).await,
                _ => stay.deliver(taken, holding).await,
            }
        };
        drop(self.under_way.spawn(delivering));
    }

    /// Delivers an event to the endpoint that it is addressed to, or to all that want it.
    async fn deliver(self, mut taken: Taken, mut holding: Holding) {
        let received = taken.read(&self.session, self.workshop.max_event_bytes);
        let event = match &received.event {
            Ok(event) => event,
            Err(refused) => return self.refuse(taken, refused).await,
        };
        let sight = self.workshop.matching.look().await;
        let wanting = match &received.endpoint {
            Some(_) => Vec::new(),
            None => self.wanting(event, received.published_at),
        };
        holding.is_for(wanting.len().max(1), event.body().len());
        let (received, holding) = (Arc::new(received), Arc::new(holding));
        let version = self.workshop.matching.version();
        let delivery = |part, endpoint| Delivery {
            stay: self.clone(),
            received: Arc::clone(&received),
            part,
            endpoint,
            version: version.clone(),
            _holding: Arc::clone(&holding),
        };
        if let Some(endpoint) = &received.endpoint {
            let worker = self.workshop.matching.worker(endpoint);
            for part in taken.divide(1) {
                let delivery = delivery(part, endpoint.clone());
                match worker.clone() {
                    _ if delivery.is_in_doubt() => self.spawn(delivery.hold(HoldReason::InDoubt)),
                    None if sight == Sight::Blind => self.spawn(delivery.hold(HoldReason::Blind)),
                    worker => self.spawn(delivery.run(worker)),
                }
            }
            return;
        }
        let reason = why_held_by_all(&received, wanting.len());
        let is_blind = sight == Sight::Blind;
        let mut parts = taken.divide(wanting.len() + usize::from(is_blind));
        if is_blind && let Some(part) = parts.pop() {
            let endpoints = wanting
                .iter()
                .map(|worker| worker.endpoint().id.clone())
                .collect();
            self.spawn(self.clone().record_blind(Arc::clone(&received), part, endpoints));
        }
        let parts = parts.into_iter().zip(wanting);
        if let Some(reason) = reason {
            let deliveries = parts.map(|(part, worker)| delivery(part, worker.endpoint().id.clone()));
            return hold_all(deliveries.collect(), reason).await;
        }
        for (part, worker) in parts {
            self.spawn(delivery(part, worker.endpoint().id.clone()).run(Some(worker)));
        }
    }

    /// The endpoints that want an event.
    fn wanting(&self, event: &Event, published_at: Option<Timestamp>) -> Vec<Arc<Worker>> {
        let mut wanting = self.workshop.matching.wanting(event.attributes());
        wanting.retain(|worker| worker.endpoint().wants(event.attributes(), published_at));
        wanting
    }

    /// Delivers what was held and is sent on.
    async fn deliver_batch(self, mut taken: Taken, holding: Holding) {
        let batch = match taken.read_batch(&self.session) {
            Ok(batch) => batch,
            Err(refused) => return self.refuse(taken, &refused).await,
        };
        let sight = self.workshop.matching.look().await;
        let holding = Arc::new(holding);
        let version = self.workshop.matching.version();
        for (part, received) in taken.divide(batch.len()).into_iter().zip(batch) {
            let Some(endpoint) = received.endpoint.clone() else {
                continue; // Every batch is addressed; this one comes again, and is set aside in the end.
            };
            let worker = self.workshop.matching.worker(&endpoint);
            let delivery = Delivery {
                stay: self.clone(),
                received: Arc::new(received),
                part,
                endpoint,
                version: version.clone(),
                _holding: Arc::clone(&holding),
            };
            match worker {
                _ if delivery.is_in_doubt() => self.spawn(delivery.hold(HoldReason::InDoubt)),
                None if sight == Sight::Blind => self.spawn(delivery.hold(HoldReason::Blind)),
                worker => self.spawn(delivery.run_dispatched(worker)),
            }
        }
    }

    fn spawn(&self, delivering: impl Future<Output = ()> + Send + 'static) {
        drop(self.under_way.spawn(delivering));
    }

    /// Has the endpoints found later that want the event and are not among these.
    async fn record_blind(self, received: Arc<Received>, part: Part, endpoints: Vec<EndpointId>) {
        let recorded = part.match_blindly(&self.session, &received, endpoints).await;
        if let Err(unsettled) = recorded {
            let error = &unsettled as &dyn std::error::Error;
            tracing::debug!(error, "will be redelivered");
        }
    }

    async fn refuse(&self, taken: Taken, refused: &Refused) {
        tracing::warn!(error = %refused.why, "a message is no valid event; it goes to the dead-letter queue");
        let reason = DeadReason::InvalidEvent;
        if taken.set_aside(&self.session, refused, reason).await.is_ok() {
            self.workshop.metrics.died(reason);
        }
    }
}

/// Holds many deliveries of an event, as there is room.
async fn hold_all(deliveries: Vec<Delivery>, reason: HoldReason) {
    let hold = async |delivery: Delivery| {
        let workshop = Arc::clone(&delivery.stay.workshop);
        let _room = workshop.holding.acquire().await;
        delivery.hold(reason).await;
    };
    stream::iter(deliveries)
        .map(hold)
        .buffer_unordered(HOLDING)
        .collect::<()>()
        .await;
}

/// The reason why an event is held for all that want it, without an attempt.
fn why_held_by_all(received: &Received, wanting: usize) -> Option<HoldReason> {
    if received.arrival == Arrival::Expired {
        return Some(HoldReason::Expired);
    }
    (wanting > WIDE).then_some(HoldReason::Wide)
}

impl Delivery {
    /// Attempts the delivery, or holds it if its endpoint has no room.
    async fn run(self, worker: Option<Arc<Worker>>) {
        let Some(worker) = worker else {
            return self.give_up(DeadReason::EndpointRemoved).await;
        };
        let bytes = self.received.event.as_ref().map_or(0, |event| event.body().len());
        let offer = worker.offer(bytes);
        self.go_on(&worker, offer).await;
    }

    /// Attempts the delivery whatever its endpoint's limits say: who sent it on knows them.
    async fn run_dispatched(self, worker: Option<Arc<Worker>>) {
        if let Err(refused) = &self.received.event {
            tracing::warn!(endpoint = %self.endpoint, error = %refused.why, "what was held is no valid event; it goes to the dead-letter queue");
            return self.give_up(DeadReason::InvalidEvent).await;
        }
        let Some(worker) = worker else {
            return self.give_up(DeadReason::EndpointRemoved).await;
        };
        let offer = worker.offer_dispatched();
        self.go_on(&worker, offer).await;
    }

    /// Returns true if it may have been begun anew, or canceled, after its last attempt. The log decides then.
    fn is_in_doubt(&self) -> bool {
        let Received {
            endpoint, history, ..
        } = &*self.received;
        endpoint.is_some() && self.stay.workshop.matching.is_in_doubt(&self.endpoint, history)
    }

    /// Does what its endpoint offers, unless the process stops before: then the message goes back.
    async fn go_on(self, worker: &Worker, offer: impl Future<Output = Offer>) {
        let stopping = self.stay.stopping.clone();
        let offer = tokio::select! {
            biased;
            () = stopping.cancelled() => return self.part.give_back(),
            offer = offer => offer,
        };
        match offer {
            // It may have waited.
            Offer::Attempt(..) if self.is_in_doubt() => self.hold(HoldReason::InDoubt).await,
            Offer::Attempt(endpoint, permit) => self.attempt(worker, endpoint, permit).await,
            Offer::Hold(reason) => self.hold(reason).await,
            Offer::Removed => self.give_up(DeadReason::EndpointRemoved).await,
        }
    }

    async fn hold(self, reason: HoldReason) {
        let workshop = Arc::clone(&self.stay.workshop);
        if self.settle(None, Settlement::Held(reason), None).await {
            workshop.metrics.held(reason);
        }
    }

    /// Moves it to the dead-letter queue without an attempt.
    async fn give_up(self, reason: DeadReason) {
        let workshop = Arc::clone(&self.stay.workshop);
        if self.settle(None, Settlement::Dead(reason), None).await {
            workshop.metrics.died(reason);
        }
    }

    /// Makes the outcome safe. Returns false if the session ended first: then the message comes again.
    async fn settle(
        self,
        history: Option<&History>,
        settlement: Settlement,
        attempt: Option<Box<Attempt>>,
    ) -> bool {
        let Self {
            stay,
            received,
            part,
            endpoint,
            version: _,
            _holding,
        } = self;
        let history = history.unwrap_or(&received.history);
        let settled = part.settle(&stay.session, &endpoint, &received, history, settlement, attempt);
        match settled.await {
            Ok(()) => true,
            Err(unsettled) => {
                let error = &unsettled as &dyn std::error::Error;
                tracing::debug!(%endpoint, error, "will be redelivered");
                false
            }
        }
    }

    /// Makes an attempt and settles its outcome. `permit` counts the attempt as under way, and not the settlement
    /// after it.
    async fn attempt(self, worker: &Worker, endpoint: Arc<Endpoint>, permit: Permit) {
        let stay = self.stay.clone();
        let received = Arc::clone(&self.received);
        let Ok(event) = &received.event else {
            return self.give_up(DeadReason::InvalidEvent).await;
        };
        let workshop = &stay.workshop;
        let made = workshop.attempt(&endpoint, event, &received).await;
        let Made {
            mut history,
            settlement,
            attempt,
            outcome,
            took,
        } = made;
        if matches!(settlement, Settlement::Retry(_)) {
            history.version = self.version.as_deref().cloned();
        }
        worker.took(took);
        if let Some(change) = permit.heard(&outcome, Timestamp::now()) {
            say_changed(&endpoint.id, change, &history);
        }
        drop(permit);
        if settlement == Settlement::Dead(DeadReason::EndpointGone) {
            worker.is_gone(&endpoint);
        }
        if self.settle(Some(&history), settlement, Some(attempt)).await {
            say_dead(&endpoint.id, event, &history, settlement);
            workshop.count(settlement, received.published_at);
        }
    }
}

/// An attempt that was made.
struct Made {
    /// The attempts so far, with this one.
    history: History,
    settlement: Settlement,
    attempt: Box<Attempt>,
    outcome: Outcome,
    took: Duration,
}

impl Workshop {
    async fn attempt(&self, endpoint: &Endpoint, event: &Event, received: &Received) -> Made {
        self.metrics.in_flight.inc();
        let (at, took, exchanged) = self.exchange(endpoint, event).await;
        self.metrics.in_flight.dec();
        self.metrics.attempted(&exchanged.outcome, took);

        let history = received
            .history
            .after(at, &exchanged.outcome, exchanged.detail.as_deref());
        let verdict = verdict(&endpoint.retry, history.attempts, &exchanged.outcome);
        tracing::debug!(
            endpoint = %endpoint.id, event = %event.webhook_id(), attempt = history.attempts,
            status = exchanged.outcome.status(), error = exchanged.detail, verdict = verdict.as_str(), "attempted"
        );
        let outcome = exchanged.outcome;
        let record = self.record(&endpoint.id, event, &history, (at, took), verdict, exchanged);
        let attempt = Box::new(Attempt {
            hop: received.hop,
            ..record
        });
        let settlement = match verdict {
            Verdict::Delivered => Settlement::Delivered,
            Verdict::Retry(delay) => Settlement::Retry(delay),
            Verdict::Dead(reason) => Settlement::Dead(reason),
        };
        Made {
            history,
            settlement,
            attempt,
            outcome,
            took,
        }
    }

    /// What the machine has no connection for was not attempted: it waits as one for which the process has
    /// no room, and the endpoint is not blamed.
    async fn exchange(&self, endpoint: &Endpoint, event: &Event) -> (Timestamp, Duration, Exchanged) {
        loop {
            let (at, clock) = (Timestamp::now(), Instant::now());
            match post(&self.client, endpoint, event, at).await {
                Ok(exchanged) => return (at, clock.elapsed(), exchanged),
                Err(shortage) => self.shortages.wait(&shortage).await,
            }
        }
    }

    fn record(
        &self,
        endpoint: &EndpointId,
        event: &Event,
        history: &History,
        (at, took): (Timestamp, Duration),
        verdict: Verdict,
        exchanged: Exchanged,
    ) -> Attempt {
        let (state, next_at, reason) = match verdict {
            Verdict::Delivered => (DeliveryState::Delivered, None, None),
            Verdict::Retry(delay) => (
                DeliveryState::Retrying,
                Some(at + took + delay.as_duration()),
                None,
            ),
            Verdict::Dead(reason) => (DeliveryState::Dead, None, Some(reason)),
        };
        Attempt {
            id: AttemptId::generate(),
            event_id: event.id().clone(),
            event_source: event.source().to_owned(),
            event_type: event.event_type().clone(),
            published_at: history.run,
            endpoint: endpoint.clone(),
            attempt: history.attempts,
            at,
            duration_ms: millis(took),
            first_byte_ms: exchanged.first_byte.map(millis),
            status: exchanged.outcome.status(),
            error: exchanged.outcome.error(),
            detail: exchanged.detail,
            answer: exchanged.answer,
            state,
            next_at,
            reason,
            deliverer: self.deliverer.clone(),
            hop: 0,
        }
    }

    fn count(&self, settlement: Settlement, published_at: Option<Timestamp>) {
        match settlement {
            Settlement::Delivered => self.metrics.delivered(published_at, Timestamp::now()),
            Settlement::Retry(delay) => self.metrics.retried(delay),
            Settlement::Held(reason) => self.metrics.held(reason),
            Settlement::Dead(reason) => self.metrics.died(reason),
        }
    }
}

fn say_changed(endpoint: &EndpointId, change: Change, history: &History) {
    match change {
        Change::ClosedOff => tracing::warn!(
            %endpoint, status = history.last_status, error = history.last_error,
            "its circuit is open: every attempt fails; its events wait in the log, and one now and then is tried"
        ),
        Change::Opened => tracing::info!(%endpoint, "it answers again; its events are delivered again"),
    }
}

/// Somebody has to look at a dead letter.
fn say_dead(endpoint: &EndpointId, event: &Event, history: &History, settlement: Settlement) {
    if let Settlement::Dead(reason) = settlement {
        tracing::warn!(
            %endpoint, event = %event.webhook_id(), %reason, attempts = history.attempts,
            status = history.last_status, error = history.last_error, "given up; it is in the dead-letter queue"
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
