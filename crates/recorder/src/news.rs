//! That something was recorded is told to whoever waits for it.

use std::sync::{Arc, Mutex, PoisonError};

use relay_broker::Session;
use relay_store::Written;
use tokio::sync::Notify;

/// Places that are told of at once. While nobody can be told, those who wait look for themselves.
const MOST: usize = 10_000;

/// What was recorded and is not told yet. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct News(Arc<Untold>);

#[derive(Default)]
struct Untold {
    stand_anew: Mutex<Vec<i64>>,
    notify: Notify,
}

impl News {
    pub(crate) fn recorded(&self, written: &Written) {
        // Another process may send held deliveries on.
        if written.events == 0 && written.stand_anew.is_empty() && !written.held_changed {
            return;
        }
        let mut places = self.0.stand_anew.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST - places.len();
        places.extend(written.stand_anew.iter().take(room));
        drop(places);
        self.0.notify.notify_one();
    }

    /// Tells it as it comes, until dropped: one announcement at a time, so that they are fewer when the
    /// broker is slow.
    pub(crate) async fn tell(&self, session: &Session) -> ! {
        loop {
            self.0.notify.notified().await;
            let places =
                std::mem::take(&mut *self.0.stand_anew.lock().unwrap_or_else(PoisonError::into_inner));
            if let Err(error) = session.announce_recorded(&places).await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "what was recorded is not announced");
            }
        }
    }
}
