//! Whether events were confirmed before. The store is asked and not relied on: without an answer, events
//! are taken for new, and at worst sent twice.

use std::{
    error::Error,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use relay_event::{Event, EventId};
use tokio::time::{Instant, timeout};

use super::looks::Looks;

/// How long the store may take for all events of a request.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it is left alone when it did not.
const PAUSE: Duration = Duration::from_secs(5);

/// What the store has noted, as it can be asked at present.
#[derive(Default)]
pub(super) struct Confirmed {
    /// Until when it is left alone; `None` while it answers.
    left_alone: Mutex<Option<Instant>>,
}

impl Confirmed {
    /// Which of the events are noted as confirmed; `None` if the store cannot say.
    pub(super) async fn of(&self, looks: &Looks, events: &[&Event]) -> Option<Vec<bool>> {
        if events.is_empty() {
            return Some(Vec::new());
        }
        let name = |event: &&Event| (event.id().clone(), event.source().to_owned());
        let names: Vec<(EventId, String)> = events.iter().map(name).collect();
        self.ask(looks.confirmed(names)).await
    }

    /// Nobody is held up for long: of those that come while the store is away, one every while asks.
    async fn ask<E>(&self, look: impl Future<Output = Result<Vec<bool>, E>>) -> Option<Vec<bool>>
    where
        E: Error + Send + Sync + 'static,
    {
        if !self.may_be_asked() {
            return None;
        }
        match patiently(look).await {
            Ok(confirmed) => {
                self.answered();
                Some(confirmed)
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
            tracing::info!("the store answers again: events that were published before are known by it");
        }
    }

    fn failed(&self, error: &(dyn Error + 'static)) {
        let before = self.left_alone().replace(Instant::now() + PAUSE);
        if before.is_none() {
            tracing::warn!(
                error,
                "the store cannot be asked for events that were published before; until it can, some may be sent again"
            );
        }
    }

    fn left_alone(&self) -> MutexGuard<'_, Option<Instant>> {
        self.left_alone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn patiently<E>(
    look: impl Future<Output = Result<Vec<bool>, E>>,
) -> Result<Vec<bool>, Box<dyn Error + Send + Sync>>
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
    };

    use super::*;

    type Look = io::Result<Vec<bool>>;

    async fn answers() -> Look {
        Ok(vec![true, false])
    }

    fn known() -> Option<Vec<bool>> {
        Some(vec![true, false])
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_waited_for_once_in_a_while() {
        let confirmed = Confirmed::default();
        assert_eq!(confirmed.ask(answers()).await, known());
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(confirmed.ask(pending::<Look>()).await, None);
            // Those that come next go on at once.
            for _ in 0..100 {
                assert_eq!(confirmed.ask(answers()).await, None);
            }
            assert!(began.elapsed() < PATIENCE * 2, "{:?}", began.elapsed());
            tokio::time::advance(PAUSE).await;
        }
        assert_eq!(confirmed.ask(answers()).await, known());
        assert_eq!(confirmed.ask(answers()).await, known());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_is_left_alone() {
        let confirmed = Confirmed::default();
        let fails = ready(Look::Err(io::Error::other("away")));
        assert_eq!(confirmed.ask(fails).await, None);
        assert_eq!(confirmed.ask(answers()).await, None);
        tokio::time::advance(PAUSE).await;
        // While one asks, the others go on without.
        let slow = async {
            tokio::task::yield_now().await;
            answers().await
        };
        let both = tokio::join!(confirmed.ask(slow), confirmed.ask(answers()));
        assert_eq!(both, (known(), None));
    }
}
