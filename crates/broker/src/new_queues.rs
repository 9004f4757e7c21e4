//! Queues are left alone for a moment after they are declared (see [`crate::Config::new_queue_wait`]),
//! those of delays among them.

use std::{
    collections::HashMap,
    sync::{Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};

use relay_event::Delay;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use crate::{
    reconnect::Delays,
    session::{Error, Session},
};

/// What a session knows of the queues that it declared.
pub(crate) struct NewQueues {
    wait: Duration,
    /// From when on those may be used that were not there before.
    usable: StdMutex<HashMap<String, Instant>>,
    /// The delays that are declared, and the same of them.
    delays: Mutex<HashMap<Delay, Instant>>,
}

impl NewQueues {
    /// `wait` is how long each is left alone.
    pub(crate) fn new(wait: Duration) -> Self {
        Self {
            wait,
            usable: StdMutex::default(),
            delays: Mutex::default(),
        }
    }

    fn note(&self, queue: &str) {
        let now = Instant::now();
        let mut all = self.all();
        all.retain(|_, usable| *usable > now);
        all.insert(queue.to_owned(), now + self.wait);
    }

    fn usable(&self, queue: &str) -> Instant {
        self.all().get(queue).copied().unwrap_or_else(Instant::now)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.usable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Declares where messages wait for `delay`, once in a session, and waits until it may be used. That it
    /// cannot be declared is no outcome: it is tried until it can, or the session ends.
    pub(crate) async fn ensure_delay(&self, delay: Delay) -> Result<(), Error> {
        let usable = self.while_it_lasts(self.declare_delay_surely(delay)).await?;
        self.wait_until(usable).await
    }

    async fn declare_delay_surely(&self, delay: Delay) -> Result<Instant, Error> {
        let mut delays = Delays::new();
        let mut said = false;
        loop {
            match self.declare_delay(delay).await {
                Err(error) if !self.is_lost() => {
                    if !std::mem::replace(&mut said, true) {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(%delay, error, "retries cannot be put aside; trying again until they can");
                    }
                    delays.wait().await;
                }
                result => return result,
            }
        }
    }

    /// From when on it may be used.
    pub(crate) async fn declare_delay(&self, delay: Delay) -> Result<Instant, Error> {
        let mut known = self.new_queues().delays.lock().await;
        if let Some(usable) = known.get(&delay) {
            return Ok(*usable);
        }
        let declaring = async {
            let channel = self.throwaway().await?;
            let declared = self.topology().declare_delay(&channel, delay).await;
            declared.map_err(|undeclared| {
                Error::doing(format!("declare the {}", undeclared.object))(undeclared.error)
            })
        };
        let usable = self.declare(&self.topology().retry(delay), declaring).await?;
        known.insert(delay, usable);
        Ok(usable)
    }

    /// Declares a queue, and answers from when on it may be used: at once, if it was there already and this
    /// session did not declare it a moment ago.
    pub(crate) async fn declare(
        &self,
        queue: &str,
        declaring: impl Future<Output = Result<(), Error>>,
    ) -> Result<Instant, Error> {
        let new_queues = self.new_queues();
        let is_new = self.look_at(queue).await?.is_none();
        if is_new {
            new_queues.note(queue); // Who ends in the middle of this may have declared it.
        }
        declaring.await?;
        if is_new {
            new_queues.note(queue); // It may have taken long.
        }
        Ok(new_queues.usable(queue))
    }

    /// Fails if the session ended meanwhile, for that may have been a crash of the broker.
    pub(crate) async fn wait_until(&self, usable: Instant) -> Result<(), Error> {
        let waiting = async {
            sleep_until(usable).await;
            Ok(())
        };
        self.while_it_lasts(waiting).await?;
        if self.is_lost() { Err(Error::Lost) } else { Ok(()) }
    }
}
