use std::{ops::Deref, sync::Arc, time::Duration};

use relay_broker::{Broker, PublishError, Session};
use relay_event::EndpointId;
use relay_service::connections::Limited;
use relay_store::Store;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{
    Config,
    auth::Gate,
    events::{Idempotency, Notes},
    feed::Tail,
    memory::BodyMemory,
    metrics::Metrics,
    problem::Problem,
    schedules::Schedules,
    streams::Streams,
    validators::Dates,
};

/// What the handlers work with. Clones share it.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) gate: Gate,
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) schedules: Schedules,
    pub(crate) idempotency: Idempotency,
    pub(crate) tail: Tail,
    pub(crate) dates: Dates,
    pub(crate) metrics: Metrics,
    pub(crate) bodies: BodyMemory,
    pub(crate) streams: Streams,
    /// Counts what reaches a limit.
    pub(crate) limited: Limited,
    /// Cancelled when those who wait are to be answered.
    pub(crate) shutdown: CancellationToken,
    under_way: TaskTracker,
}

impl Deref for Gateway {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Gateway {
    pub(crate) fn new(
        config: Config,
        broker: Broker,
        store: Store,
        notes: Notes,
        metrics: Metrics,
        limited: Limited,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            gate: Gate::new(config.token.as_ref(), config.limits.wrong_tokens.get()),
            schedules: Schedules::new(store.clone()),
            idempotency: Idempotency::new(store.clone(), notes),
            tail: Tail::new(store.clone()),
            dates: Dates::default(),
            under_way: TaskTracker::new(),
            bodies: BodyMemory::new(config.limits.body_memory.get(), metrics.body_bytes.clone()),
            streams: Streams::new(config.limits.streams_per_token.get(), limited.clone()),
            limited,
            config,
            broker,
            store,
            metrics,
            shutdown,
        }))
    }

    /// Refuses what cannot be done unless the broker takes publishes.
    pub(crate) fn check_broker(&self) -> Result<(), Problem> {
        match (self.broker.status().borrow().trouble(), self.broker.current()) {
            (None, Some(_)) => Ok(()),
            _ => Err(Problem::broker_unavailable()),
        }
    }

    /// Does `work` to its end, also when the client that asked for it goes away in the middle.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        self.under_way.spawn(work).await.map_err(|error| {
            tracing::error!(%error, "a request's work ended badly");
            Problem::internal()
        })?
    }

    /// Tells every process of a changed endpoint, as well as it can: all look for themselves anyway. Returns when
    /// the broker has the announcement, after a second, or at once if there is no broker.
    pub(crate) async fn announced(&self, id: &EndpointId) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let id = id.clone();
        let telling = self.tell(|session| async move { session.announce_change(&id).await });
        let _ = timeout(PATIENCE, telling).await;
    }

    /// The same, without waiting.
    pub(crate) fn announce_changed(&self, id: &EndpointId) {
        let id = id.clone();
        self.tell(|session| async move { session.announce_change(&id).await });
    }

    /// Tells every process that deliveries of these events stand otherwise now, in the same way.
    pub(crate) fn announce_recorded(&self, places: Vec<i64>) {
        self.tell(|session| async move { session.announce_recorded(&places).await });
    }

    fn tell<F>(&self, tell: impl FnOnce(Session) -> F + Send + 'static) -> JoinHandle<()>
    where
        F: Future<Output = Result<(), PublishError>> + Send,
    {
        let (broker, patience) = (self.broker.clone(), self.config.confirm_timeout);
        self.under_way.spawn(async move {
            if let Some(session) = broker.current()
                && !matches!(timeout(patience, tell(session)).await, Ok(Ok(())))
            {
                tracing::debug!("a change was not announced");
            }
        })
    }

    /// Notes that something is under way, until what this returns is dropped.
    pub(crate) fn begin(&self) -> TaskTrackerToken {
        self.under_way.token()
    }

    /// Waits until all that was begun is done.
    pub(crate) async fn finish(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }
}
