//! One delivery: a taken message, an attempt, a verdict, a settlement.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use relay_broker::{Received, Session, Settlement, Taken};
use relay_event::{
    Attempt, AttemptId, DeadReason, DeliveryState, Endpoint, Event, History, Timestamp, Verdict, verdict,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    client::Client,
    metrics::Metrics,
    pace::Pace,
    post::{Exchanged, post},
};

/// What every delivery of a process shares.
pub(crate) struct Workshop {
    pub(crate) client: Client,
    pub(crate) metrics: Metrics,
    pub(crate) max_event_bytes: usize,
    /// What attempt records are signed with.
    pub(crate) deliverer: String,
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

    /// Delivers a message and settles it. `permit` counts the attempt as under way, and not the
    /// settlement after it.
    pub(crate) async fn deliver(self, mut taken: Taken, permit: OwnedSemaphorePermit) {
        let received = taken.read(&self.session, self.workshop.max_event_bytes);
        let (history, settlement, attempt) = match &received.event {
            Ok(event) => self.attempt(event, &received.history).await,
            Err(refused) => {
                tracing::warn!(endpoint = %self.endpoint.id, error = %refused.why, "a message is no valid event; it goes to the dead-letter queue");
                (
                    received.history.clone(),
                    Settlement::Dead(DeadReason::InvalidEvent),
                    None,
                )
            }
        };
        drop(permit);
        if settlement == Settlement::Dead(DeadReason::EndpointGone) {
            self.gone.cancel();
        }
        let settled = taken
            .settle(
                &self.session,
                &self.endpoint.id,
                &received,
                &history,
                settlement,
                attempt,
            )
            .await;
        match settled {
            Ok(()) => {
                self.say_dead(&received, &history, settlement);
                self.count(settlement, &history);
            }
            Err(unsettled) => {
                tracing::debug!(endpoint = %self.endpoint.id, error = %unsettled, "will be redelivered")
            }
        }
    }

    /// Moves a message of a removed endpoint to the dead-letter queue.
    pub(crate) async fn bury(self, mut taken: Taken, _permit: OwnedSemaphorePermit) {
        let received = taken.read(&self.session, self.workshop.max_event_bytes);
        let history = received.history.clone();
        let settlement = Settlement::Dead(DeadReason::EndpointRemoved);
        let settled = taken
            .settle(
                &self.session,
                &self.endpoint.id,
                &received,
                &history,
                settlement,
                None,
            )
            .await;
        if settled.is_ok() {
            self.count(settlement, &history);
        }
    }

    async fn attempt(&self, event: &Event, before: &History) -> (History, Settlement, Option<Attempt>) {
        let (at, clock) = (Timestamp::now(), Instant::now());
        self.workshop.metrics.in_flight.inc();
        let exchanged = post(&self.workshop.client, &self.endpoint, event, at).await;
        self.workshop.metrics.in_flight.dec();
        let took = clock.elapsed();
        self.workshop.metrics.attempted(&exchanged.outcome, took);

        let history = before.after(at, &exchanged.outcome, exchanged.detail.as_deref());
        let verdict = verdict(&self.endpoint.retry, history.attempts, &exchanged.outcome);
        tracing::debug!(
            endpoint = %self.endpoint.id, event = %event.id(), attempt = history.attempts,
            status = exchanged.outcome.status(), error = exchanged.detail, verdict = verdict.as_str(), "attempted"
        );
        let attempt = self.record(event, &history, at, took, verdict, exchanged);
        let settlement = match verdict {
            Verdict::Delivered => Settlement::Delivered,
            Verdict::Retry(delay) => Settlement::Retry(delay),
            Verdict::Dead(reason) => Settlement::Dead(reason),
        };
        (history, settlement, Some(attempt))
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

    /// Somebody has to look at a dead letter.
    fn say_dead(&self, received: &Received, history: &History, settlement: Settlement) {
        if let (Settlement::Dead(reason), Ok(event)) = (settlement, &received.event) {
            tracing::warn!(
                endpoint = %self.endpoint.id, event = %event.id(), %reason, attempts = history.attempts,
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
