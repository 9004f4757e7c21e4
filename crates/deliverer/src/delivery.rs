//! One delivery: a taken message, an attempt, a verdict, a settlement.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use relay_broker::{Received, Session, Settlement, Taken};
use relay_event::{
    Attempt, AttemptId, DeadReason, DeliveryState, Endpoint, Event, History, Outcome, Sign, Timestamp,
    Verdict, verdict,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    breaker::Change,
    client::Client,
    metrics::Metrics,
    pace::{Pace, Permit},
    post::{Exchanged, post},
    shortage::Shortages,
    slots::Slots,
};

/// What every delivery of a process shares.
pub(crate) struct Workshop {
    pub(crate) client: Client,
    pub(crate) metrics: Metrics,
    pub(crate) max_event_bytes: usize,
    /// What attempt records are signed with.
    pub(crate) deliverer: String,
    /// See [`crate::fetch`].
    pub(crate) room: Arc<Semaphore>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) shortages: Shortages,
}

/// What the deliveries of one endpoint share.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) session: Session,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) pace: Pace,
    /// Cancelled when the endpoint says that it is gone.
    pub(crate) gone: CancellationToken,
}

impl Line {
    /// Begins a task that is waited for when the process, or the endpoint, ends.
    pub(crate) fn begin<F>(self, deliveries: &TaskTracker, task: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let under_way = self.pace.under_way.clone();
        drop(deliveries.spawn(under_way.track_future(task(self))));
    }

    /// Delivers a message and settles it.
    pub(crate) async fn deliver(self, mut taken: Taken, permit: Permit) {
        let received = taken.read(&self.session, self.workshop.max_event_bytes);
        match &received.event {
            Ok(event) => drop(self.deliver_event(taken, &received, event, permit).await),
            Err(refused) => {
                drop(permit);
                tracing::warn!(endpoint = %self.endpoint.id, error = %refused.why, "a message is no valid event; it goes to the dead-letter queue");
                self.give_up(taken, &received, DeadReason::InvalidEvent).await;
            }
        }
    }

    /// Delivers a message that is this event and settles it. `permit` counts the attempt as under way,
    /// and not the settlement after it.
    pub(crate) async fn deliver_event(
        &self,
        taken: Taken,
        received: &Received,
        event: &Event,
        permit: Permit,
    ) -> Sign {
        let (history, settlement, attempt, outcome) = self.attempt(event, &received.history).await;
        if let Some(change) = permit.heard(&outcome, Timestamp::now()) {
            self.say_changed(change, &history);
        }
        drop(permit);
        if settlement == Settlement::Dead(DeadReason::EndpointGone) {
            self.gone.cancel();
        }
        let settled = taken
            .settle(
                &self.session,
                &self.endpoint.id,
                received,
                &history,
                settlement,
                Some(attempt),
            )
            .await;
        match settled {
            Ok(()) => {
                self.say_dead(event, &history, settlement);
                self.count(settlement, &history);
            }
            Err(unsettled) => {
                tracing::debug!(endpoint = %self.endpoint.id, error = %unsettled, "will be redelivered")
            }
        }
        outcome.sign()
    }

    /// Moves a message of a removed endpoint to the dead-letter queue.
    pub(crate) async fn bury(self, mut taken: Taken, _permit: OwnedSemaphorePermit) {
        let received = taken.read(&self.session, self.workshop.max_event_bytes);
        self.give_up(taken, &received, DeadReason::EndpointRemoved).await;
    }

    /// Moves a message to the dead-letter queue without an attempt.
    pub(crate) async fn give_up(&self, taken: Taken, received: &Received, reason: DeadReason) {
        let (history, settlement) = (&received.history, Settlement::Dead(reason));
        let settled = taken
            .settle(
                &self.session,
                &self.endpoint.id,
                received,
                history,
                settlement,
                None,
            )
            .await;
        if settled.is_ok() {
            self.count(settlement, history);
        }
    }

    async fn attempt(&self, event: &Event, before: &History) -> (History, Settlement, Box<Attempt>, Outcome) {
        self.workshop.metrics.in_flight.inc();
        let (at, took, exchanged) = self.exchange(event).await;
        self.workshop.metrics.in_flight.dec();
        self.workshop.metrics.attempted(&exchanged.outcome, took);

        let history = before.after(at, &exchanged.outcome, exchanged.detail.as_deref());
        let verdict = verdict(&self.endpoint.retry, history.attempts, &exchanged.outcome);
        tracing::debug!(
            endpoint = %self.endpoint.id, event = %event.webhook_id(), attempt = history.attempts,
            status = exchanged.outcome.status(), error = exchanged.detail, verdict = verdict.as_str(), "attempted"
        );
        let outcome = exchanged.outcome;
        let attempt = Box::new(self.record(event, &history, at, took, verdict, exchanged));
        let settlement = match verdict {
            Verdict::Delivered => Settlement::Delivered,
            Verdict::Retry(delay) => Settlement::Retry(delay),
            Verdict::Dead(reason) => Settlement::Dead(reason),
        };
        (history, settlement, attempt, outcome)
    }

    /// What the machine has no connection for was not attempted: it waits as one for which the process has
    /// no room, and the endpoint is not blamed.
    async fn exchange(&self, event: &Event) -> (Timestamp, Duration, Exchanged) {
        loop {
            let (at, clock) = (Timestamp::now(), Instant::now());
            match post(&self.workshop.client, &self.endpoint, event, at).await {
                Ok(exchanged) => return (at, clock.elapsed(), exchanged),
                Err(shortage) => self.workshop.shortages.wait(&shortage).await,
            }
        }
    }

    fn record(
        &self,
        event: &Event,
        history: &History,
        at: Timestamp,
        took: Duration,
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
            published_at: history.published_at,
            endpoint: self.endpoint.id.clone(),
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
            deliverer: self.workshop.deliverer.clone(),
        }
    }

    fn say_changed(&self, change: Change, history: &History) {
        let endpoint = &self.endpoint.id;
        match change {
            Change::ClosedOff => tracing::warn!(
                %endpoint, status = history.last_status, error = history.last_error,
                "closed off: every attempt fails; its events wait in its queue, and one now and then is tried"
            ),
            Change::Opened => {
                tracing::info!(%endpoint, "it answers again; its events are delivered again")
            }
        }
    }

    /// Somebody has to look at a dead letter.
    fn say_dead(&self, event: &Event, history: &History, settlement: Settlement) {
        if let Settlement::Dead(reason) = settlement {
            tracing::warn!(
                endpoint = %self.endpoint.id, event = %event.webhook_id(), %reason, attempts = history.attempts,
                status = history.last_status, error = history.last_error, "given up; it is in the dead-letter queue"
            );
        }
    }

    fn count(&self, settlement: Settlement, history: &History) {
        let metrics = &self.workshop.metrics;
        match settlement {
            Settlement::Delivered => metrics.delivered(history.published_at, Timestamp::now()),
            Settlement::Retry(delay) => metrics.retried(delay),
            Settlement::Dead(reason) => metrics.died(reason),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
