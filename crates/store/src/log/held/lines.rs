//! The life of a held delivery as a pure function of the records that come, in whatever order and however often.
//!
//! A record may come twice, and a message be handled twice. So every rule here leaves the delivery to somebody: a line
//! that goes, or a hold that is ignored, always leaves another line, a message in the broker, or an end.

use relay_event::{Attempt, Hold, Sign};

use super::{super::codes, LIVE};

/// A held delivery as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) lane: i16,
    pub(super) run: i64,
    pub(super) attempts: i64,
    pub(super) reason: i16,
    pub(super) held_at: i64,
    /// JSON; `None` before the first attempt.
    pub(super) history: Option<String>,
    pub(super) hop: i64,
    pub(super) is_claimed: bool,
}

/// The end of an attempt, or of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) run: i64,
    /// The way in which it ended. A failed attempt that is not the last tells only of the claim by which it was made.
    pub(super) way: Way,
    /// `None` if nothing is to come after it: then it ends whatever is held of the run, and of earlier runs.
    pub(super) hop: Option<i64>,
}

/// The way in which a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Answered,
    Failed,
    Returned,
    Lost,
    Overtaken,
}

impl End {
    pub(super) fn of_attempt(attempt: &Attempt) -> Self {
        let way = match attempt.outcome().sign() {
            Sign::Healthy | Sign::Refusing => Way::Answered,
            Sign::Unavailable | Sign::Troubled => Way::Failed,
        };
        Self {
            run: attempt.published_at.map_or(0, codes::millis),
            way,
            hop: (!attempt.state.is_end()).then_some(attempt.hop.into()),
        }
    }

    /// Returns true if it ends this line. The message of a failed attempt is in the broker until its retry is, and a
    /// line that is not claimed, or was claimed since, may be all that is left of it; so such a record ends no line
    /// but that of the claim by which it was made.
    pub(super) fn ends(&self, line: &Line) -> bool {
        match self.hop {
            None => line.run <= self.run,
            Some(hop) => line.is_claimed && (line.run, line.hop) == (self.run, hop),
        }
    }
}

impl Line {
    pub(super) fn of(hold: &Hold) -> Result<Self, sqlx::Error> {
        let history = (hold.history.attempts > 0).then(|| serde_json::to_string(&hold.history));
        Ok(Self {
            lane: LIVE,
            run: hold.history.run.map_or(0, codes::millis),
            attempts: hold.history.attempts.into(),
            reason: codes::hold_code(hold.reason),
            held_at: codes::millis(hold.at),
            history: history
                .transpose()
                .map_err(|error| sqlx::Error::Encode(error.into()))?,
            hop: hold.hop.into(),
            is_claimed: false,
        })
    }

    fn rank(&self) -> (i64, i64, i64) {
        (self.run, self.hop, self.attempts)
    }

    /// Returns true if this line, made of a hold, takes the place of the one that is there. One that tells nothing new
    /// still ends the claim that it knows of.
    pub(super) fn replaces(&self, there: &Self) -> bool {
        self.rank() > there.rank() || there.is_claimed && self.rank() == there.rank()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(run: i64, hop: i64, attempts: i64) -> Line {
        Line {
            lane: LIVE,
            run,
            attempts,
            reason: 0,
            held_at: 0,
            history: None,
            hop,
            is_claimed: false,
        }
    }

    fn claimed(line: Line) -> Line {
        Line {
            hop: line.hop + 1,
            is_claimed: true,
            ..line
        }
    }

    #[test]
    fn a_hold_that_comes_again_changes_nothing() {
        assert!(!line(1, 0, 0).replaces(&line(1, 0, 0)));
        assert!(!line(1, 0, 0).replaces(&claimed(line(1, 0, 0))));
        assert!(!line(1, 1, 0).replaces(&claimed(line(1, 1, 0))));
        assert!(!line(1, 9, 9).replaces(&line(2, 0, 0)), "of an earlier run");
    }

    #[test]
    fn a_hold_after_a_claim_ends_it() {
        let there = claimed(line(1, 0, 0));
        assert!(line(1, 1, 0).replaces(&there));
        assert!(line(1, 1, 2).replaces(&there), "after attempts");
        assert!(line(2, 0, 0).replaces(&there), "of a later run");
    }

    #[test]
    fn a_failed_attempt_ends_only_the_claim_by_which_it_was_made() {
        let end = |run, hop| End {
            run,
            way: Way::Failed,
            hop: Some(hop),
        };
        let there = claimed(line(1, 0, 0));
        assert!(end(1, 1).ends(&there));
        for end in [end(1, 0), end(1, 2), end(0, 1), end(2, 1)] {
            assert!(!end.ends(&there), "{end:?}");
        }
        assert!(!end(1, 1).ends(&line(1, 1, 0)), "it is held again since");
        assert!(!end(1, 0).ends(&line(1, 0, 0)));
    }

    #[test]
    fn an_end_ends_its_run_and_earlier_ones() {
        let end = End {
            run: 2,
            way: Way::Answered,
            hop: None,
        };
        for line in [line(1, 5, 5), line(2, 0, 0), claimed(line(2, 3, 1))] {
            assert!(end.ends(&line), "{line:?}");
        }
        assert!(!end.ends(&line(3, 0, 0)));
    }
}
