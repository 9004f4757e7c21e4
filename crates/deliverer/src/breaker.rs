//! Whether an endpoint is sent to, or closed off because every attempt fails. Each process learns it
//! by its own attempts; only since when an endpoint fails is shared, by the store. Arithmetic alone:
//! the moments come from outside.

use std::time::Duration;

use relay_event::{Outcome, Sign, Timestamp};

/// Troubled attempts in a row, over all events, that close an endpoint off. The first probe comes a
/// second later, so that more than a blip costs no more than that second.
const CLOSED_AFTER: u32 = 10;

/// How long the row must last if the trouble may be that of single events (see [`Sign::Unavailable`]):
/// their retries deserve the time to succeed. Were the endpoint closed off at once, events that it
/// takes at their second attempt would wait for one probe after the other.
const DOUBT: Duration = Duration::from_secs(10);

/// What an endpoint's attempts say in sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Breaker {
    /// Troubled attempts since the endpoint last answered otherwise.
    troubles: Option<Troubles>,
    closed_off: bool,
    /// True if its last attempt had an answer; `None` before the first.
    answers: Option<bool>,
    failing: Option<Failing>,
    last_success: Option<Timestamp>,
}

/// Attempts in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Troubles {
    since: Timestamp,
    all: u32,
    /// Those that are surely the endpoint's and not the event's.
    sure: u32,
}

/// That no attempt succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failing {
    /// Since when, as far as any process knows.
    pub(crate) since: Timestamp,
    /// What this process saw of it.
    pub(crate) seen: Option<Seen>,
}

impl Failing {
    /// How long this process saw it fail.
    pub(crate) fn witnessed(&self) -> Duration {
        self.seen
            .map_or(Duration::ZERO, |seen| seen.last.since(seen.first))
    }
}

/// The first and the last failure that a process saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
    pub(crate) outcome: Outcome,
}

/// What an attempt changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    ClosedOff,
    Opened,
}

impl Breaker {
    /// An endpoint that, by the store, has been failing since then.
    pub(crate) fn new(noted: Option<Timestamp>) -> Self {
        Self {
            failing: noted.map(|since| Failing { since, seen: None }),
            ..Self::default()
        }
    }

    pub(crate) fn is_closed_off(&self) -> bool {
        self.closed_off
    }

    /// Returns true if its last attempt had an answer, so that the next may be expected to have one soon; `None` before
    /// the first.
    pub(crate) fn answers(&self) -> Option<bool> {
        self.answers
    }

    pub(crate) fn failing(&self) -> Option<&Failing> {
        self.failing.as_ref()
    }

    /// Takes note of an attempt's end.
    pub(crate) fn heard(&mut self, outcome: &Outcome, now: Timestamp) -> Option<Change> {
        if outcome.sign() == Sign::Healthy {
            let opened = self.closed_off.then_some(Change::Opened);
            *self = Self {
                last_success: Some(now),
                answers: Some(true),
                ..Self::default()
            };
            return opened;
        }
        self.fail(outcome, now);
        self.answers = Some(outcome.error().is_none());
        self.count(outcome.sign(), now);
        match (self.closed_off, outcome.sign()) {
            // As it would not have been closed off for this, it does not stay so.
            (true, Sign::Refusing) => {
                self.closed_off = false;
                Some(Change::Opened)
            }
            (false, _) if self.is_enough(now) => {
                self.closed_off = true;
                Some(Change::ClosedOff)
            }
            _ => None,
        }
    }

    fn count(&mut self, sign: Sign, now: Timestamp) {
        let sure = match sign {
            Sign::Troubled => 1,
            Sign::Unavailable => 0,
            // It is there. Were it closed off, events it takes would wait for those it refuses.
            Sign::Refusing | Sign::Healthy => return self.troubles = None,
        };
        let begun = Troubles {
            since: now,
            all: 0,
            sure: 0,
        };
        let troubles = self.troubles.get_or_insert(begun);
        troubles.all = troubles.all.saturating_add(1);
        troubles.sure = troubles.sure.saturating_add(sure);
    }

    fn is_enough(&self, now: Timestamp) -> bool {
        self.troubles.is_some_and(|troubles| {
            troubles.sure >= CLOSED_AFTER
                || troubles.all >= CLOSED_AFTER && now.since(troubles.since) >= DOUBT
        })
    }

    fn fail(&mut self, outcome: &Outcome, now: Timestamp) {
        let failing = self.failing.get_or_insert(Failing {
            since: now,
            seen: None,
        });
        failing.seen = Some(Seen {
            first: failing.seen.map_or(now, |seen| seen.first),
            last: now,
            outcome: *outcome,
        });
    }

    /// Takes note of what the store now says of the endpoint, where it said `before` until now: what
    /// others learnt, and its owner's changes. Whether anything came of it.
    pub(crate) fn learn(&mut self, before: Option<Timestamp>, noted: Option<Timestamp>) -> bool {
        match (before, noted) {
            // It works for somebody else, or its owner says that things have changed.
            (Some(_), None) if self.failing.is_some() => *self = Self::default(),
            (_, Some(since)) if self.failing.is_none() && self.last_success < Some(since) => {
                self.failing = Some(Failing { since, seen: None });
            }
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use relay_event::ErrorClass;

    use super::*;

    const TIMEOUT: Outcome = Outcome::Failed {
        error: ErrorClass::Timeout,
        status: None,
    };

    fn answered(status: u16) -> Outcome {
        Outcome::Answered {
            status,
            retry_after: None,
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default() + Duration::from_secs(seconds)
    }

    /// The moments of the changes that these attempts bring, one a second.
    fn changes(breaker: &mut Breaker, outcomes: impl IntoIterator<Item = Outcome>) -> Vec<(u64, Change)> {
        (1..)
            .zip(outcomes)
            .filter_map(|(second, outcome)| Some((second, breaker.heard(&outcome, at(second))?)))
            .collect()
    }

    #[test]
    fn ten_in_a_row_close_off_and_one_success_opens() {
        let mut breaker = Breaker::new(None);
        let nine = [TIMEOUT; 9];
        let outcomes = nine.into_iter().chain([answered(200)]).chain([TIMEOUT; 15]);
        let heard = changes(&mut breaker, outcomes.chain([answered(204)]));
        assert_eq!(heard, [(20, Change::ClosedOff), (26, Change::Opened)]);
        assert_eq!((breaker.is_closed_off(), breaker.failing()), (false, None));
    }

    #[test]
    fn trouble_that_may_be_of_single_events_takes_ten_seconds_too() {
        let unavailable = || answered(503);
        let mut breaker = Breaker::new(None);
        for _ in 0..100 {
            assert_eq!(breaker.heard(&unavailable(), at(0)), None);
        }
        let mut others = breaker.clone();
        assert_eq!(
            changes(&mut breaker, [unavailable(); 20]),
            [(10, Change::ClosedOff)]
        );
        let second_attempts = (0..100).map(|n| if n % 9 == 8 { answered(200) } else { unavailable() });
        assert_eq!(changes(&mut others, second_attempts), []);
        assert_eq!(changes(&mut others, [TIMEOUT; 20]), [(10, Change::ClosedOff)]);
    }

    #[test]
    fn who_answers_is_not_closed_off_and_yet_fails() {
        let mut breaker = Breaker::new(None);
        let mostly_away = (0..100).map(|n| if n % 10 == 9 { answered(500) } else { TIMEOUT });
        assert_eq!(changes(&mut breaker, mostly_away), []);
        assert_eq!(changes(&mut breaker, [answered(404); 100]), []);
        assert_eq!(breaker.failing().unwrap().since, at(1));
    }

    #[test]
    fn a_refusal_opens_what_is_closed_off_and_is_no_success() {
        let mut breaker = Breaker::new(None);
        changes(&mut breaker, [TIMEOUT; 10]);
        let heard = changes(&mut breaker, [answered(503), answered(500), TIMEOUT]);
        assert_eq!(heard, [(2, Change::Opened)]);
        assert_eq!(breaker.failing().unwrap().since, at(1));
    }

    #[test]
    fn since_when_it_fails_is_taken_over_from_the_store() {
        let mut breaker = Breaker::new(Some(at(3)));
        breaker.heard(&TIMEOUT, at(50));
        breaker.heard(&TIMEOUT, at(60));
        let failing = *breaker.failing().unwrap();
        let seen = failing.seen.unwrap();
        assert_eq!((failing.since, seen.first, seen.last), (at(3), at(50), at(60)));
    }

    #[test]
    fn learns_from_the_others() {
        let mut breaker = Breaker::new(None);
        changes(&mut breaker, [TIMEOUT; 10]);
        assert!(!breaker.learn(None, Some(at(1))), "its own note");
        assert!(breaker.is_closed_off());
        assert!(breaker.learn(Some(at(1)), None), "it works for somebody");
        assert_eq!(breaker, Breaker::default());
        breaker.heard(&answered(200), at(20));
        assert!(!breaker.learn(None, Some(at(19))), "older than its own success");
        assert!(breaker.learn(None, Some(at(21))));
        assert_eq!(breaker.failing().unwrap().since, at(21));
    }
}
