use governor::DefaultDirectRateLimiter;
use relay_broker::{DeadLetters, DeadMessage, Session};
use relay_event::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{rate::Rate, tally::Tally, way::Way};
use crate::{
    api::long_after,
    dlq::{age::Age, filter::Filter},
    progress::Progress,
    usage,
};

/// What is held at once before it is acted on.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 8 << 20;

/// A drain that was asked for.
pub(super) struct Work<'a> {
    pub(super) session: &'a Session,
    pub(super) filter: Filter,
    pub(super) limit: Option<u64>,
    /// The age of the last letter within the limit; younger ones are left alone.
    pub(super) last: Option<Age>,
    pub(super) dry_run: bool,
    pub(super) rate: Option<Rate>,
    pub(super) way: Way,
}

impl Work<'_> {
    /// Drains until all that were there have been looked at, the limit is reached, or `stop`.
    pub(super) async fn run(mut self, tally: &mut Tally, stop: &CancellationToken) -> anyhow::Result<()> {
        let letters = DeadLetters::open(self.session).await?;
        let mut source = Source {
            progress: Progress::new(letters.left().into(), "dead letters looked at"),
            limiter: self.rate.filter(|_| !self.dry_run).map(Rate::limiter),
            batch: self
                .rate
                .map_or(BATCH, Rate::per_second)
                .min(BATCH)
                .min(letters.batch()),
            wanted: self.limit.unwrap_or(u64::MAX),
            began: Timestamp::now(),
            letters,
        };
        loop {
            // What was gathered and not acted on returns to the queue.
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(stopped()),
                batch = self.gather(&mut source, tally) => batch?,
            };
            if batch.is_empty() {
                return Ok(());
            }
            tokio::select! {
                acted = self.act(&mut source.letters, batch, tally) => acted?,
                () = long_after(stop) => return Err(stopped()),
            }
        }
    }

    /// The next letters to act on; none when there are no more.
    async fn gather(&mut self, source: &mut Source, tally: &mut Tally) -> anyhow::Result<Vec<DeadMessage>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < source.batch && bytes < BATCH_BYTES && source.wanted > 0 {
            let Some(message) = source.letters.next().await? else {
                break;
            };
            source.progress.step();
            if !self.filter.matches(&message.letter, source.began) {
                tally.others += 1;
                source.letters.keep(message).await?;
            } else if self
                .last
                .as_ref()
                .is_some_and(|last| Age::of(&message.letter) > *last)
            {
                source.letters.keep(message).await?;
            } else if let Some(why) = self.way.stays(&message).await {
                tally.stays(why);
                source.letters.keep(message).await?;
            } else {
                source.wanted -= 1;
                source.pace().await;
                bytes += message.body().len();
                batch.push(message);
            }
        }
        Ok(batch)
    }

    async fn act(
        &mut self,
        letters: &mut DeadLetters,
        batch: Vec<DeadMessage>,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        if !self.dry_run {
            return self.way.go(letters, batch, tally).await;
        }
        for message in batch {
            letters.keep(message).await?;
            tally.done += 1;
        }
        Ok(())
    }
}

/// Where the letters come from, and how fast.
struct Source {
    letters: DeadLetters,
    progress: Progress,
    limiter: Option<DefaultDirectRateLimiter>,
    batch: usize,
    /// How many may still be acted on.
    wanted: u64,
    began: Timestamp,
}

impl Source {
    async fn pace(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.until_ready().await;
        }
    }
}

pub(super) fn stopped() -> anyhow::Error {
    usage::stopped("stopped before the end; what was not done is in the queue")
}
