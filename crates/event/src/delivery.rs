use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    DeadReason, ErrorClass, Timestamp,
    invalid::{Given, Invalid},
};

/// How a delivery stands: one event on its way to one endpoint. Of what is known of the same attempt,
/// the later of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It waits for its first attempt.
    Pending,
    /// An attempt failed, and the next one is due.
    Retrying,
    /// It is given up, and in the dead-letter queue until somebody drains that.
    Dead,
    /// The endpoint has it.
    Delivered,
    /// It was canceled before it had ended.
    Canceled,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Retrying,
        Self::Dead,
        Self::Delivered,
        Self::Canceled,
    ];

    /// Whether nothing is to come after it.
    pub fn is_end(self) -> bool {
        self >= Self::Dead
    }

    /// The state's name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Retrying => "retrying",
            Self::Dead => "dead",
            Self::Delivered => "delivered",
            Self::Canceled => "canceled",
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeliveryState {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| {
                let allowed = Self::ALL.map(Self::as_str).join(", ");
                Invalid::new("state", format!("must be one of {allowed}, not {}", Given(text)))
            })
    }
}

/// What one record tells of a delivery. Records arrive in any order, and twice; how the delivery
/// stands is the greatest of them by [`Standing::supersedes`], so the order does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Which run of the schedule: when the event was published, or redelivered or replayed. 1970 if
    /// its producer did not say.
    pub run: Timestamp,
    /// Attempts made in this run.
    pub attempts: u32,
    /// How it stands.
    pub state: DeliveryState,
    /// Since when.
    pub at: Timestamp,
    /// When the retry is due.
    pub next_at: Option<Timestamp>,
    /// Why it is dead.
    pub reason: Option<DeadReason>,
    /// The status the last attempt was answered with, if one came.
    pub status: Option<u16>,
    /// Why the last attempt got no usable answer.
    pub error: Option<ErrorClass>,
}

impl Standing {
    /// Before the first attempt of the run that began at `run`.
    pub fn pending(run: Timestamp) -> Self {
        Self {
            run,
            attempts: 0,
            state: DeliveryState::Pending,
            at: run,
            next_at: None,
            reason: None,
            status: None,
            error: None,
        }
    }

    /// A delivery that was canceled `at` a time, after so many attempts. That is the end of a generation of its own.
    pub fn canceled(run: Timestamp, attempts: u32, at: Timestamp) -> Self {
        Self {
            attempts,
            state: DeliveryState::Canceled,
            at,
            ..Self::pending(run)
        }
    }

    /// The run that begins now. Its time tells it from the one before, whose clock may have been ahead.
    pub fn run_after(before: Option<Timestamp>, now: Timestamp) -> Timestamp {
        before.map_or(now, |before| now.max(before + Duration::from_millis(1)))
    }

    /// Whether this is the newer knowledge. Clocks decide between runs alone, never within one. An end
    /// counts more than any attempt before it: of an attempt whose record was safe and whose retry was not
    /// the message comes again, knows nothing of that attempt, and may end without another one.
    pub fn supersedes(&self, other: &Self) -> bool {
        let rank = |standing: &Self| {
            let Self {
                run, attempts, state, ..
            } = *standing;
            (run, state.is_end(), attempts, state)
        };
        rank(self) > rank(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(run: i64, attempts: u32, state: DeliveryState) -> Standing {
        let pending = Standing::pending(Timestamp::from_millis(run).unwrap());
        Standing {
            attempts,
            state,
            ..pending
        }
    }

    #[test]
    fn a_new_run_is_later_than_the_one_before_whatever_the_clock_says() {
        let at = |millis| Timestamp::from_millis(millis).unwrap();
        assert_eq!(Standing::run_after(None, at(5)), at(5));
        assert_eq!(Standing::run_after(Some(at(4)), at(5)), at(5));
        assert_eq!(Standing::run_after(Some(at(5)), at(5)), at(6));
        assert_eq!(Standing::run_after(Some(at(9)), at(5)), at(10));
    }

    #[test]
    fn a_later_attempt_counts_more_and_an_end_and_a_later_run_most() {
        use DeliveryState::{Dead, Delivered, Pending, Retrying};
        let ordered = [
            at(1, 0, Pending),
            at(1, 1, Retrying),
            at(1, 2, Retrying),
            at(1, 0, Dead),
            at(1, 1, Delivered),
            at(1, 2, Dead),
            at(1, 2, Delivered),
            at(2, 0, Pending),
            at(2, 1, Retrying),
        ];
        for (position, later) in ordered.iter().enumerate() {
            for (other, earlier) in ordered.iter().enumerate() {
                assert_eq!(
                    later.supersedes(earlier),
                    position > other,
                    "{later:?} {earlier:?}"
                );
            }
        }
    }
}
