use std::time::Duration;

use crate::{DeadReason, Delay, ErrorClass, RetrySchedule};

/// The longest wait that an answer's `Retry-After` can ask for. What asks for more gets this.
const LONGEST_ASKED: Duration = Duration::from_secs(24 * 3600);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered.
    Answered {
        /// Its HTTP status.
        status: u16,
        /// The wait it asked for by `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// It did not answer, or not to the end.
    Failed {
        /// Why.
        error: ErrorClass,
        /// The HTTP status, if one had come before.
        status: Option<u16>,
    },
}

impl Outcome {
    /// The status that came, if one did.
    pub fn status(&self) -> Option<u16> {
        match *self {
            Self::Answered { status, .. } => Some(status),
            Self::Failed { status, .. } => status,
        }
    }

    /// The error, where there is no usable answer; a redirect counts as one.
    pub fn error(&self) -> Option<ErrorClass> {
        match *self {
            Self::Answered {
                status: 300..=399, ..
            } => Some(ErrorClass::Redirect),
            Self::Answered { .. } => None,
            Self::Failed { error, .. } => Some(error),
        }
    }

    /// What it tells of the endpoint. A 500 is an answer about one event; 502, 503 and 504 are said by
    /// what stands before an endpoint that is away, or by an endpoint that cannot take this event now.
    pub fn sign(&self) -> Sign {
        use ErrorClass::{Body, Connect, Dns, Protocol, Redirect, Reset, Timeout, Tls};
        match *self {
            Self::Answered { status, .. } => match status {
                200..=299 => Sign::Healthy,
                502..=504 => Sign::Unavailable,
                429 => Sign::Troubled,
                _ => Sign::Refusing,
            },
            Self::Failed { error, .. } => match error {
                Timeout | Dns | Connect | Tls | Reset | Protocol => Sign::Troubled,
                Body | Redirect => Sign::Refusing,
            },
        }
    }
}

/// What an attempt tells of its endpoint, beside its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It works.
    Healthy,
    /// It is there, and does not want this event: nothing that fewer attempts would mend, and no
    /// reason to let other events wait.
    Refusing,
    /// It is away behind something that answers, or says so of this event alone: which of both, only
    /// time tells.
    Unavailable,
    /// It is away, or has too much to do.
    Troubled,
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Delivered,
    /// It waits in the broker and is tried again.
    Retry(Delay),
    /// It goes to the dead-letter queue.
    Dead(DeadReason),
}

impl Verdict {
    /// The verdict's name, as in JSON and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry(_) => "retry",
            Self::Dead(_) => "dead",
        }
    }
}

/// Judges an attempt. `attempts` counts this one: 1 after the first.
///
/// 2xx is success, 410 means the endpoint is gone for good, and everything else is tried again as
/// long as the schedule has a delay left. 429 and 503 may ask for a longer wait than the
/// schedule's (RFC 9110 section 10.2.3), up to 24 h.
pub fn verdict(schedule: &RetrySchedule, attempts: u32, outcome: &Outcome) -> Verdict {
    let asked = match *outcome {
        Outcome::Answered {
            status: 200..=299, ..
        } => return Verdict::Delivered,
        Outcome::Answered { status: 410, .. } => return Verdict::Dead(DeadReason::EndpointGone),
        Outcome::Answered {
            status: 429 | 503,
            retry_after,
        } => retry_after,
        _ => None,
    };
    let next = (attempts as usize)
        .checked_sub(1)
        .and_then(|made| schedule.delays().get(made));
    match (next, asked) {
        (None, _) => Verdict::Dead(DeadReason::AttemptsExhausted),
        (Some(&delay), Some(asked)) if asked.min(LONGEST_ASKED) > delay.as_duration() => {
            Verdict::Retry(Delay::at_least(asked.min(LONGEST_ASKED), schedule.delays()))
        }
        (Some(&delay), _) => Verdict::Retry(delay),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answered(status: u16) -> Outcome {
        Outcome::Answered {
            status,
            retry_after: None,
        }
    }

    fn schedule(text: &str) -> RetrySchedule {
        text.parse().unwrap()
    }

    fn delay(text: &str) -> Delay {
        text.parse().unwrap()
    }

    #[test]
    fn follows_the_schedule_and_then_gives_up() {
        let schedule = schedule("1s,5m");
        assert_eq!(verdict(&schedule, 1, &answered(500)), Verdict::Retry(delay("1s")));
        assert_eq!(verdict(&schedule, 2, &answered(500)), Verdict::Retry(delay("5m")));
        assert_eq!(
            verdict(&schedule, 3, &answered(500)),
            Verdict::Dead(DeadReason::AttemptsExhausted)
        );
        assert_eq!(verdict(&schedule, 3, &answered(204)), Verdict::Delivered);
        assert_eq!(
            verdict(&schedule, 1, &answered(410)),
            Verdict::Dead(DeadReason::EndpointGone)
        );
        assert_eq!(verdict(&schedule, 1, &answered(301)), Verdict::Retry(delay("1s")));
    }

    #[test]
    fn a_body_that_broke_off_is_no_success() {
        let outcome = Outcome::Failed {
            error: ErrorClass::Body,
            status: Some(200),
        };
        assert_eq!(verdict(&schedule("1s"), 1, &outcome), Verdict::Retry(delay("1s")));
    }

    #[test]
    fn trouble_is_what_says_nothing_of_the_event() {
        let failed = |error| Outcome::Failed { error, status: None };
        for (outcome, sign) in [
            (answered(204), Sign::Healthy),
            (answered(429), Sign::Troubled),
            (answered(502), Sign::Unavailable),
            (answered(503), Sign::Unavailable),
            (answered(504), Sign::Unavailable),
            (answered(301), Sign::Refusing),
            (answered(400), Sign::Refusing),
            (answered(410), Sign::Refusing),
            (answered(500), Sign::Refusing),
            (failed(ErrorClass::Timeout), Sign::Troubled),
            (failed(ErrorClass::Connect), Sign::Troubled),
            (failed(ErrorClass::Protocol), Sign::Troubled),
            (failed(ErrorClass::Body), Sign::Refusing),
        ] {
            assert_eq!(outcome.sign(), sign, "{outcome:?}");
        }
    }

    proptest! {
        #[test]
        fn retry_after_lengthens_the_wait_and_never_shortens_it(
            status in prop::sample::select(vec![429_u16, 503]),
            asked in 0_u64..200_000,
            delays in prop::collection::vec(1_u64..100_000, 1..6),
        ) {
            let delays: Vec<Delay> = delays.into_iter().map(|s| Delay::from_secs(s).unwrap()).collect();
            let schedule = RetrySchedule::new(delays.clone()).unwrap();
            let outcome = Outcome::Answered { status, retry_after: Some(Duration::from_secs(asked)) };
            let Verdict::Retry(chosen) = verdict(&schedule, 1, &outcome) else { panic!("delays were left") };
            prop_assert!(chosen >= delays[0]);
            prop_assert!(chosen.as_duration().as_secs() >= asked.min(86_400));
        }

        #[test]
        fn every_schedule_ends(status in 300_u16..600, attempts in 0_u32..50, length in 0_usize..20) {
            let schedule = RetrySchedule::new(vec![Delay::from_secs(1).unwrap(); length]).unwrap();
            let verdict = verdict(&schedule, attempts, &answered(status));
            let last = attempts as usize > length || attempts == 0;
            prop_assert_eq!(matches!(verdict, Verdict::Dead(_)), last || status == 410);
        }
    }
}
