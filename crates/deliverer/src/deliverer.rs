//! Taking, session after session, from the queues that deliveries come by.

use std::{sync::Arc, time::Duration};

use relay_broker::{Broker, Error, Queue, Session};
use relay_service::Component;
use relay_store::Store;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config,
    consumers::{take_all, take_by_one},
    delivery::{Stay, Workshop},
    matching::Reader,
    notes::{self, ToNote},
};

/// The time between two looks for what was learnt of endpoints.
const REVIEW: Duration = Duration::from_secs(2);

/// The time after which a queue that could not be taken from is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Delivers what comes.
pub(crate) struct Deliverer {
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) reader: Reader,
    pub(crate) store: Store,
    pub(crate) store_health: Component,
    /// The attempts that may be under way at once.
    pub(crate) slots: usize,
}

impl Deliverer {
    /// Delivers, session after session, until told to stop; then finishes what is under way.
    pub(crate) async fn run(mut self, broker: &Broker, config: &Config, shutdown: &CancellationToken) {
        let under_way = TaskTracker::new();
        loop {
            let session = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                session = broker.session() => session,
            };
            self.serve(&session, config, &under_way, shutdown).await;
        }
    }

    /// Takes until the session is lost or the process stops, and then finishes what is under way if it stops.
    async fn serve(
        &mut self,
        session: &Session,
        config: &Config,
        under_way: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let stay = Stay {
            workshop: Arc::clone(&self.workshop),
            session: session.clone(),
            under_way: under_way.clone(),
            stopping: shutdown.clone(),
        };
        let (store, metrics) = (self.store.clone(), &self.workshop.metrics);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = session.lost() => return,
            () = self.reader.read_first(&self.store_health) => {}
        }
        let slots = self.slots;
        tokio::select! {
            never = self.reader.run(session, config.recheck, &self.store_health, metrics) => never,
            never = review(&stay, store, config) => never,
            () = take(&stay, slots, config, shutdown) => {}
        }
    }
}

/// Takes from all queues until the session is lost or the process stops.
async fn take(stay: &Stay, slots: usize, config: &Config, shutdown: &CancellationToken) {
    let stop = CancellationToken::new();
    let mut taking = JoinSet::new();
    for queue in [Queue::Work, Queue::WorkLate, Queue::Again, Queue::Dispatch] {
        taking.spawn(keep_taking(stay.clone(), queue, slots, stop.clone()));
    }
    let lost = tokio::select! {
        biased;
        () = shutdown.cancelled() => false,
        () = stay.session.lost() => true,
    };
    stop.cancel();
    while taking.join_next().await.is_some() {}
    if lost {
        return;
    }
    stay.under_way.close();
    if timeout(config.drain_timeout, stay.under_way.wait())
        .await
        .is_err()
    {
        tracing::warn!("attempts are still under way; their events will be delivered again");
    }
}

/// Takes from a queue, again and again if the broker ends it.
async fn keep_taking(stay: Stay, queue: Queue, slots: usize, stop: CancellationToken) {
    let mut failing = false;
    loop {
        let taken = take_from(&stay, queue, slots, &stop).await;
        if stop.is_cancelled() || stay.session.is_lost() {
            return;
        }
        if let (Err(error), false) = (&taken, failing) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(%queue, error, "a queue cannot be taken from; trying again until it can");
        }
        if let Err(Error::NoQueue { .. }) = taken {
            return stay.session.close().await; // The next one declares it anew.
        }
        failing = taken.is_err();
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(AGAIN) => {}
        }
    }
}

async fn take_from(stay: &Stay, queue: Queue, slots: usize, stop: &CancellationToken) -> Result<(), Error> {
    let handle = {
        let stay = stay.clone();
        move |taken, holding| stay.begin(queue, taken, holding)
    };
    match queue {
        Queue::WorkLate => take_by_one(&stay.session, queue, stop, handle).await,
        _ => take_all(&stay.session, queue, slots, stop, handle).await,
    }
}

/// Writes down what was learnt of endpoints: that one is gone, fails, or works again.
async fn review(stay: &Stay, store: Store, config: &Config) -> ! {
    let matching = &stay.workshop.matching;
    let mut ticks = interval(REVIEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let workers = matching.workers();
        let open = workers.iter().filter(|worker| worker.is_closed_off()).count();
        stay.workshop
            .metrics
            .circuits_open
            .set(i64::try_from(open).unwrap_or(i64::MAX));
        let learnt = workers.iter().filter_map(|worker| {
            let (endpoint, is_gone, failing, noted) = worker.learnt();
            let due = notes::due(&endpoint, is_gone, failing.as_ref(), noted, config.disable_after)?;
            Some(ToNote { endpoint, noted, due })
        });
        let learnt: Vec<_> = learnt.collect();
        for (id, noted) in notes::write_all(&store, &stay.session, learnt).await {
            if let Some(worker) = matching.worker(&id) {
                worker.noted(noted);
            }
        }
    }
}
