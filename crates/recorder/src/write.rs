//! Writing. While one transaction is under way the next batch collects. A message is acked only after
//! all that is in it is committed, or its copy is in the dead-letter queue.

use std::time::Duration;

use relay_broker::{Delays, Session};
use relay_event::{EndpointId, Invalid, WebhookId};
use relay_store::{Error, Record};
use tokio::time::{Instant, Interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    aside::Asides,
    batch::{Batch, Incoming, Item, Limits},
    keeper::{self, Keeper},
    lag::Lag,
    metrics::Metrics,
    parts::Parts,
    routes::Routes,
};

/// How long messages are held that cannot be settled, for a store or a dead-letter queue that takes
/// nothing. The broker would end the channel after its `consumer_timeout` of 30 minutes, and until then
/// nobody else could take what is held.
pub(crate) const HOLD: Duration = Duration::from_secs(60);

/// How long a batch gathers after the one before. Every transaction costs a sync of the disk and about a
/// dozen statements, however little is in it; the first after a quiet time is written at once.
const GATHER: Duration = Duration::from_millis(20);

/// Why writing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was told to, or there is nothing to come any more.
    Stopped,
    /// The session is over.
    Lost,
    /// Something was held for too long.
    Held,
}

/// What the store refused of a batch: the record's place, and why.
type Refusals = Vec<(usize, Error)>;

/// Writes what is taken in one session.
pub(crate) struct Writer<'a> {
    pub(crate) session: &'a Session,
    pub(crate) keeper: &'a mut Keeper,
    pub(crate) metrics: &'a Metrics,
    pub(crate) lag: &'a Lag,
    pub(crate) routes: Routes,
    pub(crate) limits: Limits,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) asides: Asides,
    /// When the next batch may be written.
    pub(crate) due: Instant,
}

/// How long a store that is away is waited for.
struct Patience {
    delays: Delays,
    until: Instant,
}

impl Patience {
    fn new() -> Self {
        Self {
            delays: Delays::new(),
            until: Instant::now() + HOLD,
        }
    }
}

impl Writer<'_> {
    /// Writes until told to stop, and then finishes what is under way.
    pub(crate) async fn run(mut self, items: &mut Incoming<Item>) -> Ended {
        let mut ticks = keeper::ticks();
        let ended = loop {
            if let Err(ended) = self.step(items, &mut ticks).await {
                break ended;
            }
        };
        if ended == Ended::Stopped {
            self.write_rest(items).await;
            self.asides.finish().await;
        }
        ended
    }

    /// Writes what was taken already.
    async fn write_rest(&mut self, items: &mut Incoming<Item>) {
        while !items.is_empty() {
            let Some(batch) = Batch::collect(items, self.limits).await else {
                return;
            };
            if self.write(batch).await.is_err() {
                return;
            }
        }
    }

    async fn step(&mut self, items: &mut Incoming<Item>, ticks: &mut Interval) -> Result<(), Ended> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Ended::Stopped),
            () = self.session.lost() => Err(Ended::Lost),
            set_aside = self.asides.next(), if !self.asides.is_empty() => set_aside,
            batch = next(items, self.due, self.limits) => match batch {
                Some(batch) => {
                    let written = self.write(batch).await;
                    self.due = Instant::now() + GATHER;
                    written
                }
                None => Err(Ended::Stopped),
            },
            () = self.keeper.ask(ticks) => Ok(()),
        }
    }

    /// Writes a batch and settles its messages; gives them back if that cannot be.
    async fn write(&mut self, mut batch: Batch) -> Result<(), Ended> {
        self.routes.up_to_date().await;
        batch.route(&self.routes);
        match self.record(&batch.records).await {
            Ok(refusals) => {
                for (record, error) in refusals {
                    say_refused(&batch.records[record], &error);
                    batch.refuse(record, why(error));
                }
                self.settle(batch);
                Ok(())
            }
            Err(ended) => {
                if ended == Ended::Held {
                    self.lag.giving_back();
                }
                batch.give_back().await;
                Err(ended)
            }
        }
    }

    /// Writes all that the store takes, and waits for a store that is away.
    async fn record(&mut self, records: &[Record]) -> Result<Refusals, Ended> {
        let mut patience = Patience::new();
        let mut refusals = Vec::new();
        // A match that was made without the store may have become any number of holds.
        let most = self.limits.records.saturating_mul(2);
        let mut parts = Parts::of(records.len(), most);
        while let Some(part) = parts.next() {
            let Err(error) = self.keeper.record(&records[part.clone()]).await else {
                continue;
            };
            // Before it looks for a record to blame, and before it blames one.
            let asks = part.len() == records.len().min(most) || part.len() == 1;
            if error.is_unavailable() || asks && !self.keeper.takes_writes().await {
                parts.again(part);
                self.wait(&mut patience).await?;
            } else if !parts.halve(part.clone()) {
                refusals.push((part.start, error));
            }
        }
        Ok(refusals)
    }

    async fn wait(&mut self, patience: &mut Patience) -> Result<(), Ended> {
        if Instant::now() >= patience.until {
            return Err(Ended::Held);
        }
        tokio::select! {
            () = self.stop.cancelled() => Err(Ended::Stopped),
            () = self.session.lost() => Err(Ended::Lost),
            () = patience.delays.wait() => Ok(()),
        }
    }

    /// Acks all but those that are published once more, in whatever form, and not confirmed yet.
    fn settle(&mut self, batch: Batch) {
        for item in batch.items {
            if !item.refused.is_empty() || item.again.is_some() || item.exhausted.is_some() {
                self.asides.begin(self.session, item, self.metrics);
            } else {
                item.taken.ack();
            }
        }
    }
}

/// The next batch, once it is due. Nothing is lost if this is dropped.
async fn next(items: &mut Incoming<Item>, due: Instant, limits: Limits) -> Option<Batch> {
    sleep_until(due).await;
    Batch::collect(items, limits).await
}

/// The store's refusal, as a dead letter tells it.
fn why(error: Error) -> Invalid {
    Invalid::new("store", format!("{:#}", anyhow::Error::new(error)))
}

fn say_refused(record: &Record, error: &Error) {
    let (event, endpoint) = match record {
        Record::Event(new) => (new.event.webhook_id(), None),
        Record::Attempt(attempt) => (
            WebhookId::of(&attempt.event_source, &attempt.event_id),
            Some(&attempt.endpoint),
        ),
        Record::Death(death) => (
            WebhookId::of(&death.event_source, &death.event_id),
            Some(&death.endpoint),
        ),
        Record::Hold(hold) => (
            WebhookId::of(&hold.event_source, &hold.event_id),
            Some(&hold.endpoint),
        ),
    };
    let error = error as &dyn std::error::Error;
    tracing::warn!(
        %event, endpoint = endpoint.map(EndpointId::as_str), error,
        "the store does not take a record; it goes to the dead-letter queue"
    );
}
