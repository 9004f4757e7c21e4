use std::{collections::HashSet, sync::Arc};

use relay_event::{Delay, Invalid, RetrySchedule};
use relay_store::{Error, KnownEndpoints, Store};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The most distinct delays of all endpoints together: each is a queue in the broker.
const MAX_DELAYS: usize = 200;

/// Keeps the number of distinct delays within its limit.
pub(crate) struct Schedules {
    store: Store,
    /// The endpoints' schedules. Locked until the one that is admitted is stored.
    known: Arc<Mutex<KnownEndpoints<RetrySchedule>>>,
}

/// That a schedule may be stored, as long as this is held.
pub(crate) struct Admitted(
    #[expect(dead_code, reason = "held, not read")] Option<OwnedMutexGuard<KnownEndpoints<RetrySchedule>>>,
);

impl Schedules {
    pub(crate) fn new(store: Store) -> Self {
        let known = KnownEndpoints::new(|endpoint| endpoint.retry);
        let known = Arc::new(Mutex::new(known));
        Self { store, known }
    }

    /// Refuses a schedule that would name too many delays in all. The usual schedule is never refused.
    pub(crate) async fn admit(&self, schedule: &RetrySchedule) -> Result<Admitted, Error> {
        let usual = RetrySchedule::default();
        if schedule
            .delays()
            .iter()
            .all(|delay| usual.delays().contains(delay))
        {
            return Ok(Admitted(None));
        }
        let mut known = Arc::clone(&self.known).lock_owned().await;
        known.refresh(&self.store).await?;
        let stored = known.iter().flat_map(|(_, schedule)| schedule.delays());
        let used: HashSet<&Delay> = usual.delays().iter().chain(stored).collect();
        let new: HashSet<&Delay> = schedule
            .delays()
            .iter()
            .filter(|delay| !used.contains(delay))
            .collect();
        if !new.is_empty() && used.len() + new.len() > MAX_DELAYS {
            let problem = format!(
                "all endpoints together may name at most {MAX_DELAYS} distinct delays; use some that others use already"
            );
            return Err(Invalid::new("retry", problem).into());
        }
        Ok(Admitted(Some(known)))
    }
}
