use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use relay_broker::Delays;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::ApiError;
use crate::progress::Progress;

/// The time that work under way may take after the user has stopped: an answer that is on its way comes, and
/// one that does not come holds up nobody.
const LAST_ANSWERS: Duration = Duration::from_millis(800);

/// Returns when the user stopped so long ago that nothing is waited for any more.
pub(crate) async fn long_after(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(LAST_ANSWERS).await;
}

/// Tries requests again while the relay cannot do them, and says so. Several may be tried at once.
pub(crate) struct Patience<'a> {
    progress: &'a Progress,
    /// Which failures are worth another try.
    passes: fn(&ApiError) -> bool,
    /// Whether the relay ever answered: one that is not there at all is an error.
    reached: AtomicBool,
    /// Requests that are tried again at present.
    waiting: AtomicUsize,
}

impl<'a> Patience<'a> {
    /// Nothing is known of the relay yet. A failure that `passes` is worth another try.
    pub(crate) fn new(progress: &'a Progress, passes: fn(&ApiError) -> bool) -> Self {
        Self {
            progress,
            passes,
            reached: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Returns once the relay has done it or refused it, by as many tries as it takes.
    pub(crate) async fn until_done<T>(
        &self,
        request: impl AsyncFn() -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut delays = Delays::new();
        let mut waits = false;
        loop {
            match request().await {
                Err(error) if self.may_pass(&error) => {
                    if !waits {
                        self.begins_to_wait(&error);
                        waits = true;
                    }
                    let asked = error.retry_after().unwrap_or_default();
                    tokio::join!(delays.wait(), sleep(asked));
                }
                ended => {
                    self.reached.store(true, Relaxed);
                    if waits {
                        self.waits_no_more(ended.is_ok());
                    }
                    return ended;
                }
            }
        }
    }

    fn may_pass(&self, error: &ApiError) -> bool {
        let answered = matches!(error, ApiError::Refused { .. });
        (self.passes)(error) && (answered || self.reached.load(Relaxed))
    }

    /// The first of those that wait says so, and the last of them that it is over.
    fn begins_to_wait(&self, error: &ApiError) {
        if self.waiting.fetch_add(1, Relaxed) == 0 {
            self.progress
                .note(&format!("{error}; retrying until the relay answers"));
        }
    }

    fn waits_no_more(&self, accepted: bool) {
        if self.waiting.fetch_sub(1, Relaxed) == 1 && accepted {
            self.progress.note("the relay answers again; going on");
        }
    }
}
