//! Recording, session after session: the log's queues are taken from, and one writer writes what comes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use relay_broker::{Broker, Delays, Error, Queue, Session, Subscription};
use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, Sender},
    },
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    aside::Asides,
    batch::{self, Incoming, Item, KINDS, Limits},
    keeper::{self, Keeper},
    lag::Lag,
    metrics::Metrics,
    routes::{self, Routes},
    take::{self, Taker},
    write::{Ended, Writer},
};

/// Messages that are read and wait to be written. Their bytes are bounded by [`take::ROOM`].
const WAITING: usize = 1_024;

/// Events that claim to have been moved by a broker, on their way here. They are rare.
const SUSPECTS: u16 = 16;

/// A batch is written once it has so many bytes.
const BATCH_BYTES: usize = take::ROOM;

/// How long after its end a session's work may take to end too.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Taking that went on for so long did not fail at once.
const STEADY: Duration = Duration::from_secs(10);

/// Takes what the log is made of and writes it down.
pub(crate) struct Recorder {
    pub(crate) config: Config,
    pub(crate) keeper: Keeper,
    pub(crate) routes: Routes,
    pub(crate) metrics: Metrics,
    pub(crate) lag: Lag,
}

impl Recorder {
    /// Records, session after session, until told to stop.
    pub(crate) async fn run(mut self, broker: &Broker, shutdown: &CancellationToken) {
        while let Some(session) = self.next_session(broker, shutdown).await {
            self.attend(&session, shutdown).await;
        }
    }

    async fn next_session(&mut self, broker: &Broker, shutdown: &CancellationToken) -> Option<Session> {
        let mut ticks = keeper::ticks();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                session = broker.session() => return Some(session),
                () = self.keeper.ask(&mut ticks) => {}
            }
        }
    }

    /// Takes from the queues until the session is lost or the process stops. Whatever ends the taking
    /// before, it begins again.
    async fn attend(&mut self, session: &Session, shutdown: &CancellationToken) {
        let mut delays = Delays::new();
        let mut failing = false;
        loop {
            let begun = Instant::now();
            let stayed = tokio::select! {
                stayed = self.stay(session, shutdown) => stayed,
                // What is under way may wait for ever for an answer on a connection that was cut.
                () = long_lost(session) => Ok(Ended::Lost),
            };
            if let (Err(error), false) = (&stayed, session.is_lost()) {
                say_untaken(error, failing);
                if matches!(error, Error::NoQueue { .. }) {
                    session.close().await; // The next one declares it anew.
                }
            }
            tracing::debug!(?stayed, "the queues of the log are no longer taken from");
            failing = stayed.is_err();
            if begun.elapsed() > STEADY {
                delays.reset();
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = session.lost() => return,
                () = delays.wait() => {}
            }
        }
    }

    /// Takes from all queues until one ends, and gives back what is not written then.
    async fn stay(&mut self, session: &Session, shutdown: &CancellationToken) -> Result<Ended, Error> {
        let changes = session.changes().await;
        if let Err(ended) = self.until_there(session, shutdown).await {
            return Ok(ended);
        }
        let stop = shutdown.child_token();
        let _ends_the_takers = stop.clone().drop_guard();
        let [events, records, holds] = [(); KINDS].map(|()| mpsc::channel(WAITING));
        let mut waiting = Incoming([events.1, records.1, holds.1]);
        let takers = self.take(session, [events.0, records.0, holds.0], &stop).await?;
        self.lag.taking_again();
        let news = self.keeper.news();
        let writer = Writer {
            session,
            keeper: &mut self.keeper,
            metrics: &self.metrics,
            lag: &self.lag,
            routes: self.routes.clone(),
            limits: Limits {
                records: self.config.batch_records,
                bytes: BATCH_BYTES,
            },
            stop: &stop,
            asides: Asides::default(),
            due: tokio::time::Instant::now(),
        };
        let ended = tokio::select! {
            biased; // who follows the routes hears of an endpoint before its first event is written
            () = self.routes.follow(changes, self.config.recheck) => Ended::Stopped,
            ended = writer.run(&mut waiting) => ended,
            never = news.tell(session) => never,
        };
        stop.cancel();
        give_back(waiting, takers).await;
        Ok(ended)
    }

    /// Waits until the store can be read and written: nothing is taken for one that is away.
    async fn until_there(&mut self, session: &Session, shutdown: &CancellationToken) -> Result<(), Ended> {
        let there = async {
            let mut delays = Delays::new();
            while !(self.endpoints_are_known().await && self.keeper.takes_writes().await) {
                delays.wait().await;
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Err(Ended::Stopped),
            () = session.lost() => Err(Ended::Lost),
            () = there => Ok(()),
        }
    }

    /// No event is written without knowing where it was routed, as far as that can be known.
    async fn endpoints_are_known(&mut self) -> bool {
        let looked = self.routes.look().await;
        match &looked {
            Ok(()) => true,
            Err(error) if error.is_unavailable() => {
                self.keeper.away(error);
                false
            }
            Err(error) => {
                routes::say_unreadable(error);
                true
            }
        }
    }

    /// Begins to take from the log's queues.
    async fn take(
        &self,
        session: &Session,
        items: [Sender<Item>; KINDS],
        stop: &CancellationToken,
    ) -> Result<Vec<JoinHandle<Subscription>>, Error> {
        let archive = take::archive_prefetch(self.config.max_event_bytes);
        let records = take::records_prefetch(self.config.max_event_bytes);
        let queues = [
            (Queue::Archive, archive),
            (Queue::ArchiveLate, archive),
            (Queue::Suspects, SUSPECTS),
            (Queue::Records, records),
            (Queue::Holds, records),
            (Queue::BlindMatches, records),
        ];
        let mut subscriptions = Vec::with_capacity(queues.len());
        for (queue, prefetch) in queues {
            subscriptions.push((queue, session.consume(queue, prefetch).await?));
        }
        let rooms = [(); KINDS].map(|()| Arc::new(Semaphore::new(take::ROOM)));
        let taker = |(queue, subscription)| {
            let kind = batch::kind(queue);
            let taker = Taker {
                session: session.clone(),
                subscription,
                queue,
                max_event_bytes: self.config.max_event_bytes,
                items: items[kind].clone(),
                room: Arc::clone(&rooms[kind]),
                lag: self.lag.clone(),
                routes: self.routes.clone(),
                stop: stop.clone(),
                is_blind: false,
            };
            tokio::spawn(taker.take_all())
        };
        Ok(subscriptions.into_iter().map(taker).collect())
    }
}

async fn long_lost(session: &Session) {
    session.lost().await;
    tokio::time::sleep(LAST_ANSWERS).await;
}

async fn give_back(waiting: Incoming<Item>, takers: Vec<JoinHandle<Subscription>>) {
    for mut waiting in waiting.0 {
        waiting.close();
        while let Some(item) = waiting.recv().await {
            item.taken.give_back().await;
        }
    }
    for taker in takers {
        if let Ok(subscription) = taker.await {
            subscription.stop().await;
        }
    }
}

fn say_untaken(error: &Error, failing: bool) {
    if !failing {
        let error = error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "events and attempts cannot be taken from their queues; trying again until they can"
        );
    }
}
