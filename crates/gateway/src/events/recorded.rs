//! Whether the log holds events already. It is asked and not relied on: without an answer, events are
//! taken for new, and at worst sent twice.

use std::{
    error::Error,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use relay_event::Event;
use relay_store::Store;
use tokio::time::{Instant, timeout};

/// How long the log may take for one event.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it is left alone when it did not.
const PAUSE: Duration = Duration::from_secs(5);

/// Look-ups of a batch at once: as many as leave the store room for others.
const AT_ONCE: usize = 3;

/// The log, as it can be asked at present.
#[derive(Default)]
pub(super) struct Recorded {
    /// Until when it is left alone; `None` while it answers.
    left_alone: Mutex<Option<Instant>>,
}

impl Recorded {
    /// Which of the events the log holds; `None` if it cannot say.
    pub(super) async fn hold(&self, store: &Store, events: &[&Event]) -> Option<Vec<bool>> {
        if events.is_empty() {
            return Some(Vec::new());
        }
        let looks: Vec<_> = events
            .iter()
            .map(|event| store.is_recorded(event.id(), event.source()))
            .collect();
        self.ask(looks).await
    }

    /// Nobody is held up for long: of those that come while the log is away, one every while asks, and
    /// no look-up is begun after one that failed.
    async fn ask<E>(&self, looks: Vec<impl Future<Output = Result<bool, E>>>) -> Option<Vec<bool>>
    where
        E: Error + Send + Sync + 'static,
    {
        if !self.may_be_asked() {
            return None;
        }
        let looks = stream::iter(looks).map(patiently).buffered(AT_ONCE);
        match looks.try_collect().await {
            Ok(held) => {
                self.answered();
                Some(held)
            }
            Err(error) => {
                self.failed(&*error);
                None
            }
        }
    }

    fn may_be_asked(&self) -> bool {
        let mut left_alone = self.left_alone();
        match *left_alone {
            None => true,
            Some(until) if until <= Instant::now() => {
                *left_alone = Some(Instant::now() + PAUSE);
                true
            }
            Some(_) => false,
        }
    }

    fn answered(&self) {
        if self.left_alone().take().is_some() {
            tracing::info!("the event log answers again: events that were published before are found in it");
        }
    }

    fn failed(&self, error: &(dyn Error + 'static)) {
        let before = self.left_alone().replace(Instant::now() + PAUSE);
        if before.is_none() {
            tracing::warn!(
                error,
                "the event log cannot be asked for events that were published before; until it can, some may be sent again"
            );
        }
    }

    fn left_alone(&self) -> MutexGuard<'_, Option<Instant>> {
        self.left_alone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn patiently<E>(
    look: impl Future<Output = Result<bool, E>>,
) -> Result<bool, Box<dyn Error + Send + Sync>>
where
    E: Error + Send + Sync + 'static,
{
    Ok(timeout(PATIENCE, look).await??)
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        io,
        pin::Pin,
    };

    use super::*;

    type Look = Pin<Box<dyn Future<Output = io::Result<bool>>>>;

    fn holds() -> Vec<Look> {
        vec![Box::pin(ready(Ok(true))), Box::pin(ready(Ok(false)))]
    }

    fn fails() -> Vec<Look> {
        let fails = ready(Err(io::Error::other("away")));
        vec![Box::pin(ready(Ok(true))), Box::pin(fails)]
    }

    fn hangs() -> Vec<Look> {
        (0..1_000).map(|_| Box::pin(pending()) as Look).collect()
    }

    fn known() -> Option<Vec<bool>> {
        Some(vec![true, false])
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_does_not_answer_is_waited_for_once_in_a_while() {
        let recorded = Recorded::default();
        assert_eq!(recorded.ask(holds()).await, known());
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(recorded.ask(hangs()).await, None);
            // Those that come next go on at once.
            for _ in 0..100 {
                assert_eq!(recorded.ask(holds()).await, None);
            }
            assert!(began.elapsed() < PATIENCE * 2, "{:?}", began.elapsed());
            tokio::time::advance(PAUSE).await;
        }
        assert_eq!(recorded.ask(holds()).await, known());
        assert_eq!(recorded.ask(holds()).await, known());
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_fails_is_left_alone() {
        let recorded = Recorded::default();
        assert_eq!(recorded.ask(fails()).await, None);
        assert_eq!(recorded.ask(holds()).await, None);
        tokio::time::advance(PAUSE).await;
        // While one asks, the others go on without.
        let slow: Look = Box::pin(async {
            tokio::task::yield_now().await;
            Ok(true)
        });
        let both = tokio::join!(recorded.ask(vec![slow]), recorded.ask(holds()));
        assert_eq!(both, (Some(vec![true]), None));
    }
}
