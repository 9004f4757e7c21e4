use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
};
use bytes::Bytes;

use super::{
    check::{Belief, Checker},
    report::{Entry, Report},
    seen::{Delivery, Seen},
    signed::Signed,
};

/// How deliveries are answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behaviour {
    pub(super) status: u16,
    pub(super) delay: Duration,
    pub(super) fail_first: u32,
}

/// The receiver that all requests share.
pub(super) struct Receiver {
    checker: Checker,
    behaviour: Behaviour,
    report: Report,
    state: Mutex<Counted>,
}

struct Counted {
    seen: Seen,
    counts: Counts,
}

/// The summary's numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) received: u64,
    pub(super) distinct: u64,
    pub(super) repeated: u64,
    pub(super) failed_on_purpose: u64,
    pub(super) bad_signatures: u64,
}

/// How a delivery is answered, decided when it comes.
struct Decision {
    status: u16,
    attempt: u32,
    repeated: bool,
}

impl Receiver {
    pub(super) fn new(checker: Checker, behaviour: Behaviour, report: Report) -> Self {
        Self {
            checker,
            behaviour,
            report,
            state: Mutex::new(Counted {
                seen: Seen::new(),
                counts: Counts::default(),
            }),
        }
    }

    /// Tells what came in all.
    pub(super) fn summary(&self) {
        self.report.summary(&self.lock().counts);
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a delivery and decides on its answer. What is forged leaves no trace but its count.
    fn decide(&self, belief: &Belief, delivery: Option<&Delivery>) -> Decision {
        let mut state = self.lock();
        let Counted { seen, counts } = &mut *state;
        counts.received += 1;
        if matches!(belief, Belief::Bad(_)) {
            counts.bad_signatures += 1;
            return self.answer(StatusCode::UNAUTHORIZED.as_u16(), 0);
        }
        let known = delivery
            .map(|delivery| seen.attempt(delivery))
            .unwrap_or_default();
        if known.succeeded {
            counts.repeated += 1;
            return Decision {
                repeated: true,
                ..self.answer(StatusCode::OK.as_u16(), known.attempts)
            };
        }
        // Without an id, each is its own.
        let attempt = known.attempts.max(1);
        counts.distinct += u64::from(attempt == 1);
        let status = if attempt <= self.behaviour.fail_first {
            StatusCode::INTERNAL_SERVER_ERROR.as_u16()
        } else {
            self.behaviour.status
        };
        counts.failed_on_purpose += u64::from(!is_success(status));
        self.answer(status, attempt)
    }

    fn answer(&self, status: u16, attempt: u32) -> Decision {
        Decision {
            status,
            attempt,
            repeated: false,
        }
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Receives on any path.
pub(super) async fn receive(
    State(receiver): State<Arc<Receiver>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    if method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED;
    }
    let signed = Signed::of(&headers);
    let belief = receiver.checker.check(&signed, &body).await;
    let delivery = signed.id.map(|id| Delivery {
        path: uri.path().to_owned(),
        id: id.to_owned(),
    });
    let decision = receiver.decide(&belief, delivery.as_ref());
    // A sender that hangs up meanwhile ends this here, and was not answered.
    tokio::time::sleep(receiver.behaviour.delay).await;
    if let Some(delivery) = delivery.filter(|_| is_success(decision.status)) {
        receiver.lock().seen.succeeded(&delivery);
    }
    receiver.report.delivery(&Entry {
        status: decision.status,
        attempt: decision.attempt,
        repeated: decision.repeated,
        belief: &belief,
        id: signed.id,
        path: uri.path(),
        header_type: headers
            .get("x-webhook-event")
            .and_then(|value| value.to_str().ok()),
        body: &body,
    });
    StatusCode::from_u16(decision.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::signed::Unbelievable;

    fn receiver(status: u16, fail_first: u32) -> Receiver {
        let behaviour = Behaviour {
            status,
            delay: Duration::ZERO,
            fail_first,
        };
        Receiver::new(Checker::with(Vec::new()), behaviour, Report::new(false))
    }

    fn delivery(id: &str) -> Delivery {
        Delivery {
            path: "/".to_owned(),
            id: id.to_owned(),
        }
    }

    #[test]
    fn the_first_attempts_of_each_fail_and_repeats_are_not_counted_again() {
        let receiver = receiver(200, 1);
        let comes = |id: &str| {
            let decision = receiver.decide(&Belief::Verified, Some(&delivery(id)));
            if is_success(decision.status) {
                receiver.lock().seen.succeeded(&delivery(id));
            }
            (decision.status, decision.attempt, decision.repeated)
        };
        assert_eq!(comes("a"), (500, 1, false));
        assert_eq!(comes("b"), (500, 1, false));
        assert_eq!(comes("a"), (200, 2, false));
        assert_eq!(comes("a"), (200, 3, true));
        let bad = Belief::Bad(Unbelievable::Unsigned);
        assert_eq!(receiver.decide(&bad, Some(&delivery("b"))).status, 401);
        assert_eq!(comes("b"), (200, 2, false));
        let expected = Counts {
            received: 6,
            distinct: 2,
            repeated: 1,
            failed_on_purpose: 2,
            bad_signatures: 1,
        };
        assert_eq!(receiver.lock().counts, expected);
    }

    #[test]
    fn a_chosen_status_is_always_answered() {
        let receiver = receiver(503, 0);
        for _ in 0..2 {
            assert_eq!(
                receiver.decide(&Belief::Unverified, Some(&delivery("a"))).status,
                503
            );
        }
        assert_eq!(receiver.lock().counts.failed_on_purpose, 2);
    }
}
