use std::time::Duration;

use crate::{DeadReason, Delay, Endpoint, ErrorClass, History, RetrySchedule, Timestamp};

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

/// Whether a delivery outlived its whole schedule, or what its last attempt left of it, behind an endpoint
/// that has been failing all the while. What it waited for other reasons, such as a pause, does not count.
pub fn outlived(endpoint: &Endpoint, history: &History, failing_since: Timestamp, now: Timestamp) -> bool {
    let (began, owed) = match history.last_attempt.filter(|_| history.attempts > 0) {
        Some(last) => (Some(last), time_left(endpoint, history)),
        None => (history.began(), endpoint.lifetime()),
    };
    began.is_some_and(|began| now.since(began.max(failing_since)) > owed)
}

/// How long a delivery may still take that follows the schedule to its end, from its last attempt on.
fn time_left(endpoint: &Endpoint, history: &History) -> Duration {
    let before = (history.attempts.saturating_sub(1)).min(endpoint.retry.attempts().saturating_sub(1));
    let waited: Duration = endpoint
        .delays()
        .iter()
        .take(before as usize)
        .map(|delay| delay.as_duration())
        .sum();
    // How long it was told to wait is not known any more.
    let asked = match history.last_status {
        Some(429 | 503) => LONGEST_ASKED,
        _ => Duration::ZERO,
    };
    endpoint
        .lifetime()
        .saturating_sub(waited + endpoint.timeout() * before)
        + asked
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

    #[test]
    fn a_delivery_outlives_its_schedule_only_behind_a_failing_endpoint() {
        let at = |seconds: u64| Timestamp::default() + Duration::from_secs(seconds);
        let (url, types) = ("http://a/".parse().unwrap(), vec!["#".parse().unwrap()]);
        let mut endpoint = Endpoint::new(url, types, crate::Secret::generate(), at(0));
        (endpoint.retry, endpoint.timeout_ms) = (schedule("1s"), 1_000); // 13 s in all
        let published = |second| History {
            run: Some(at(second)),
            ..History::default()
        };
        assert!(!outlived(&endpoint, &published(100), at(50), at(113)));
        assert!(outlived(&endpoint, &published(100), at(50), at(114)));
        // It waited for another reason before.
        assert!(!outlived(&endpoint, &published(1), at(100), at(113)));
        assert!(
            !outlived(&endpoint, &History::default(), at(0), at(1_000)),
            "nobody knows its age"
        );
        // A clock that is wrong does not keep it for ever.
        let tried = History {
            first_attempt: Some(at(100)),
            ..published(1_000_000)
        };
        assert!(outlived(&endpoint, &tried, at(50), at(114)));
    }

    #[test]
    fn a_delivery_that_was_tried_has_what_its_last_attempt_left_of_the_schedule() {
        let at = |seconds: u64| Timestamp::default() + Duration::from_secs(seconds);
        let (url, types) = ("http://a/".parse().unwrap(), vec!["#".parse().unwrap()]);
        let mut endpoint = Endpoint::new(url, types, crate::Secret::generate(), at(0));
        (endpoint.retry, endpoint.timeout_ms) = (schedule("100s,1000s"), 1_000); // 1113 s in all
        let tried = |attempts, status| History {
            attempts,
            first_attempt: Some(at(1)),
            last_attempt: Some(at(50_000)),
            last_status: Some(status),
            last_error: None,
            run: Some(at(1)),
        };
        let left = |history: &History, seconds: u64| {
            let end = 50_000 + seconds;
            assert!(
                !outlived(&endpoint, history, at(5), at(end)),
                "{seconds} s are left"
            );
            assert!(outlived(&endpoint, history, at(5), at(end + 1)), "{seconds} s");
        };
        left(&tried(1, 500), 1_113);
        left(&tried(2, 500), 1_012);
        left(&tried(3, 500), 11);
        left(&tried(9, 500), 11); // the schedule was shortened
        left(&tried(2, 503), 86_400 + 1_012);
        left(&tried(2, 429), 86_400 + 1_012);
        assert!(!outlived(&endpoint, &tried(2, 500), at(60_000), at(61_012)));
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
