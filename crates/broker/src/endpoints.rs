//! The queues and bindings of single endpoints.

use lapin::options::QueueDeleteOptions;
use relay_event::{Delay, EndpointId, TypePattern};
use tokio::time::Instant;

use crate::session::{Error, Session};

impl Session {
    /// Declares an endpoint's queue and the delays of its schedule, and waits until they may be used (see
    /// [`Config::new_queue_wait`](crate::Config::new_queue_wait)). Patterns are bound apart.
    ///
    /// # Errors
    /// The broker refuses, or went away.
    pub async fn declare_endpoint(&self, id: &EndpointId, delays: &[Delay]) -> Result<(), Error> {
        let doing = || Error::doing(format!("declare the queue of {id}"));
        let wait = self.wait_for_new(&self.topology().endpoint(id)).await?;
        let channel = self.throwaway().await?;
        self.topology()
            .declare_endpoint(&channel, id)
            .await
            .map_err(doing())?;
        let mut usable = Instant::now() + wait;
        for delay in delays {
            usable = usable.max(self.declare_delay(*delay).await?);
        }
        self.wait_until(usable).await
    }

    /// Binds an endpoint's patterns, then takes away those it no longer has, so that no event it
    /// still wants falls between.
    ///
    /// # Errors
    /// The broker refuses, or went away.
    pub async fn bind_endpoint(
        &self,
        id: &EndpointId,
        bind: &[TypePattern],
        unbind: &[TypePattern],
    ) -> Result<(), Error> {
        let doing = || Error::doing(format!("bind the patterns of {id}"));
        let channel = self.throwaway().await?;
        for pattern in bind {
            self.topology()
                .bind_pattern(&channel, id, pattern)
                .await
                .map_err(doing())?;
        }
        for pattern in unbind.iter().filter(|pattern| !bind.contains(pattern)) {
            self.topology()
                .unbind_pattern(&channel, id, pattern)
                .await
                .map_err(doing())?;
        }
        Ok(())
    }

    /// Routes nothing to a removed endpoint any more; its waiting retries go to the dead-letter
    /// queue when they are due.
    ///
    /// # Errors
    /// The broker refuses, or went away.
    pub async fn unbind_endpoint(&self, id: &EndpointId, patterns: &[TypePattern]) -> Result<(), Error> {
        let doing = || Error::doing(format!("unbind {id}"));
        let channel = self.throwaway().await?;
        for pattern in patterns {
            self.topology()
                .unbind_pattern(&channel, id, pattern)
                .await
                .map_err(doing())?;
        }
        self.topology().unbind_return(&channel, id).await.map_err(doing())
    }

    /// Deletes an endpoint's queue. Quorum queues have no "delete if empty": the caller must know
    /// that nothing is left in it and nobody takes from it.
    ///
    /// # Errors
    /// The broker refuses, or went away.
    pub async fn delete_endpoint(&self, id: &EndpointId) -> Result<(), Error> {
        let channel = self.throwaway().await?;
        let queue = self.topology().endpoint(id);
        let deleted = channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await;
        deleted
            .map(drop)
            .map_err(Error::doing(format!("delete the queue of {id}")))
    }
}
