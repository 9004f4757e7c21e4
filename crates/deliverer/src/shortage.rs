//! The machine's own want of what a connection takes: no endpoint's fault, and said to whoever runs it.

use std::{
    error::Error,
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::io::Errno;
use tokio::time::{Instant, sleep};

/// How soon it is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// How often it is said while it lasts: connections that are used again come through in between, so its
/// end is not easily told.
const SAID: Duration = Duration::from_secs(60);

/// The machine has no file or memory for another connection.
#[derive(Debug, thiserror::Error)]
#[error("no more connections can be opened")]
pub(crate) struct Shortage(#[source] Errno);

impl Shortage {
    /// The shortage that an error tells of, if it does. That there is no address to connect from is none:
    /// it looks the same for an endpoint that this machine has no way to, and the ports to one endpoint run
    /// out by what is sent to that one.
    pub(crate) fn of(cause: &(dyn Error + 'static)) -> Option<Self> {
        let errno = Errno::from_io_error(cause.downcast_ref::<io::Error>()?)?;
        let own = matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM);
        own.then_some(Self(errno))
    }
}

/// When one was last said.
#[derive(Default)]
pub(crate) struct Shortages(Mutex<Option<Instant>>);

impl Shortages {
    /// Resolves when it may have passed.
    pub(crate) async fn wait(&self, shortage: &Shortage) {
        if self.is_news(Instant::now()) {
            let error = shortage as &dyn Error;
            tracing::warn!(
                error,
                "the machine has no file or memory for more connections; attempts wait until it has"
            );
        }
        sleep(AGAIN).await;
    }

    fn is_news(&self, now: Instant) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = said.is_none_or(|said| now - said >= SAID);
        if is_news {
            *said = Some(now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_machine_lacks_is_one() {
        let of = |errno: Errno| Shortage::of(&io::Error::from(errno)).is_some();
        assert!(of(Errno::MFILE) && of(Errno::NFILE) && of(Errno::NOBUFS) && of(Errno::NOMEM));
        assert!(!of(Errno::CONNREFUSED) && !of(Errno::TIMEDOUT) && !of(Errno::ADDRNOTAVAIL));
        assert!(Shortage::of(&io::Error::other("no number")).is_none());
    }

    #[test]
    fn is_said_once_a_minute() {
        let (shortages, now) = (Shortages::default(), Instant::now());
        let said = |seconds| shortages.is_news(now + Duration::from_secs(seconds));
        assert_eq!([0, 1, 59, 60, 61].map(said), [true, false, false, true, false]);
    }
}
