//! The choice of the oldest letters: a look at all of them, before any is acted on.

use std::time::Duration;

use relay_broker::{Config, DeadLetters, Queue, Session};
use relay_event::Timestamp;
use tokio::time::{Instant, sleep};

use super::way::Way;
use crate::{
    dlq::{
        age::{Age, First},
        filter::Filter,
    },
    found::open_session,
    progress::Progress,
};

/// The oldest letters that are meant.
pub(super) struct Oldest {
    /// The age of the last of them; none if not one can go this way.
    pub(super) last: Option<Age>,
    /// The number of letters that were looked at, and will be back in the queue.
    seen: u32,
}

impl Oldest {
    /// Looks at all letters for the oldest `limit` that are meant and can go this way. Once the session
    /// ends they are all back in the queue.
    pub(super) async fn find(
        session: &Session,
        filter: &Filter,
        limit: u64,
        way: &mut Way,
    ) -> anyhow::Result<Self> {
        let mut letters = DeadLetters::open(session).await?;
        let progress = Progress::new(letters.left().into(), "dead letters looked at");
        let began = Timestamp::now();
        let (mut oldest, mut seen) = (First::new(usize::try_from(limit)?), 0);
        while let Some(message) = letters.next().await? {
            progress.step();
            seen += 1;
            if filter.matches(&message.letter, began) && way.stays(&message).await.is_none() {
                oldest.offer(Age::of(&message.letter), ());
            }
            letters.keep(message).await?;
        }
        let last = oldest.in_order().next_back().map(|(age, ())| age);
        Ok(Self { last, seen })
    }

    /// Begins a session once the broker has taken back what was looked at.
    pub(super) async fn next_session(&self, broker: &Config) -> anyhow::Result<Session> {
        /// Somebody else may have taken some of them meanwhile.
        const PATIENCE: Duration = Duration::from_secs(10);
        const PAUSE: Duration = Duration::from_millis(50);
        let (session, began) = (open_session(broker).await?, Instant::now());
        while began.elapsed() < PATIENCE
            && session
                .depth(Queue::Dead)
                .await?
                .is_some_and(|depth| depth.ready < self.seen)
        {
            sleep(PAUSE).await;
        }
        Ok(session)
    }
}
