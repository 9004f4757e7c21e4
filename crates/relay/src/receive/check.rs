use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use relay_event::Secret;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use super::{
    secrets::{Answer, Relay},
    signed::{Signed, Unbelievable},
};
use crate::output;

/// Between two questions to the relay.
const PAUSE: Duration = Duration::from_secs(1);

/// What a delivery's signature is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Belief {
    /// One of the secrets has signed it.
    Verified,
    /// There are no secrets to check it with.
    Unverified,
    /// Nobody who knows a secret has sent this.
    Bad(Unbelievable),
}

/// Checks signatures with the secrets it was given, or with those the relay tells.
pub(super) struct Checker {
    known: RwLock<Arc<[Secret]>>,
    relay: Option<Asking>,
}

struct Asking {
    relay: Relay,
    /// When the last question was begun, and whether it was answered.
    last: Mutex<(Instant, bool)>,
    said: AtomicBool,
}

impl Checker {
    /// Checks with these alone.
    pub(super) fn with(secrets: Vec<Secret>) -> Self {
        Self {
            known: RwLock::new(secrets.into()),
            relay: None,
        }
    }

    /// Checks with the relay's secrets: those of now, and of later when an unknown signature comes.
    pub(super) async fn asking(relay: Relay) -> Self {
        let checker = Self {
            known: RwLock::new(Arc::default()),
            relay: Some(Asking {
                relay,
                last: Mutex::new((Instant::now(), false)),
                said: AtomicBool::new(false),
            }),
        };
        if let Some(asking) = &checker.relay {
            let answered = checker.ask(asking).await;
            asking.last.lock().await.1 = answered;
        }
        checker
    }

    /// Checks a delivery that has just come.
    pub(super) async fn check(&self, signed: &Signed<'_>, body: &[u8]) -> Belief {
        let came = Instant::now();
        let Err(problem) = self.verify(signed, body) else {
            return Belief::Verified;
        };
        let Some(asking) = &self.relay else {
            return Belief::Bad(problem);
        };
        if !self.ask_again(asking, came).await && self.known().is_empty() {
            return Belief::Unverified;
        }
        match self.verify(signed, body) {
            Ok(()) => Belief::Verified,
            Err(problem) => Belief::Bad(problem),
        }
    }

    fn verify(&self, signed: &Signed<'_>, body: &[u8]) -> Result<(), Unbelievable> {
        signed.verify(&self.known(), body)
    }

    fn known(&self) -> Arc<[Secret]> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&known)
    }

    /// Asks the relay, unless it was asked since the delivery came; says whether it answers. A relay
    /// that does not answer is no reason to let deliveries wait.
    async fn ask_again(&self, asking: &Asking, came: Instant) -> bool {
        let mut last = asking.last.lock().await;
        let (asked, answered) = *last;
        let due = asked + PAUSE;
        if asked >= came || (!answered && Instant::now() < due) {
            return answered;
        }
        sleep_until(due).await;
        let began = Instant::now();
        *last = (began, self.ask(asking).await);
        last.1
    }

    async fn ask(&self, asking: &Asking) -> bool {
        match asking.relay.secrets().await {
            Answer::Secrets(secrets) => {
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = secrets.into();
                true
            }
            Answer::None(why) => {
                if self.known().is_empty() && !asking.said.swap(true, Ordering::Relaxed) {
                    output::note(&format!("signatures are not checked: {why}"));
                }
                false
            }
        }
    }
}
