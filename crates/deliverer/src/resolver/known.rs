//! One name's answer, and for how long it holds.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::servers::{Found, Refusal};

/// An answer holds as long as it says, within these.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// For how long a refusal holds.
const REFUSED: Duration = Duration::from_secs(5);

/// For how long addresses serve on while no name server answers.
const STALE: Duration = Duration::from_secs(60);

/// What is known of a name.
#[derive(Default)]
pub(super) struct Known {
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last answer and the moment up to which it holds.
    last: Option<(Result<Vec<IpAddr>, Refusal>, Instant)>,
    /// The last addresses and the moment up to which they may serve.
    good: Option<(Vec<IpAddr>, Instant)>,
    /// The look-ups in a row that nobody answered.
    silent: u32,
}

impl Known {
    /// The turn to ask for it.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The answer, if one holds.
    pub(super) fn answer(&self, now: Instant) -> Option<Result<Vec<IpAddr>, Refusal>> {
        let state = self.state();
        let (answer, until) = state.last.as_ref()?;
        (now < *until).then(|| answer.clone())
    }

    /// Whether there are addresses that may serve on.
    pub(super) fn is_good(&self, now: Instant) -> bool {
        self.state().good.as_ref().is_some_and(|(_, until)| now < *until)
    }

    /// Whether nobody answered of late. One that was answered before is given three chances.
    pub(super) fn is_silent(&self) -> bool {
        let state = self.state();
        let chances = if state.good.is_some() { 3 } else { 1 };
        state.silent >= chances
    }

    /// Begins to ask for it. Unless that is answered, it counts as silence.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            known: self,
            answered: false,
        }
    }

    /// Remembers an answer, and returns what holds now.
    pub(super) fn learn(&self, found: Result<Found, Refusal>, now: Instant) -> Result<Vec<IpAddr>, Refusal> {
        let mut state = self.state();
        let (answer, lasts) = match found {
            Ok(Found { addresses, lasts }) => {
                let lasts = lasts.clamp(SHORTEST, LONGEST);
                (state.silent, state.good) = (0, Some((addresses.clone(), now + lasts + STALE)));
                (Ok(addresses), lasts)
            }
            Err(why) if why.machine().is_some() => return Err(why),
            Err(why) => {
                state.silent = if why.is_silence() {
                    state.silent.saturating_add(1)
                } else {
                    0
                };
                let good = state
                    .good
                    .as_ref()
                    .filter(|(_, until)| why.is_absence() && now < *until);
                (
                    good.map_or(Err(why), |(addresses, _)| Ok(addresses.clone())),
                    REFUSED,
                )
            }
        };
        state.last = Some((answer.clone(), now + lasts));
        answer
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that is being asked for.
pub(super) struct Asked<'a> {
    known: &'a Known,
    answered: bool,
}

impl Asked<'_> {
    /// Somebody said something.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let mut state = self.known.state();
            state.silent = state.silent.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: Refusal = Refusal::Crowded(1);

    fn found(lasts: u64) -> Result<Found, Refusal> {
        Ok(Found {
            addresses: vec![[192, 0, 2, 1].into()],
            lasts: Duration::from_secs(lasts),
        })
    }

    #[test]
    fn an_answer_holds_as_long_as_it_says_from_a_second_to_five_minutes() {
        for (says, holds) in [(0, 1), (1, 1), (60, 60), (300, 300), (86_400, 300)] {
            let (known, now) = (Known::default(), Instant::now());
            assert!(known.answer(now).is_none());
            known.learn(found(says), now).unwrap();
            let after = |millis| known.answer(now + Duration::from_millis(millis));
            assert!(after(holds * 1_000 - 1).is_some(), "{says} s");
            assert!(after(holds * 1_000).is_none(), "{says} s");
        }
    }

    #[test]
    fn a_refusal_holds_for_five_seconds() {
        let (known, now) = (Known::default(), Instant::now());
        assert!(known.learn(Err(Refusal::NoSuchName), now).is_err());
        let after = |seconds| known.answer(now + Duration::from_secs(seconds));
        assert!(after(4).is_some_and(|answer| answer.is_err()));
        assert!(after(5).is_none());
    }

    #[test]
    fn addresses_serve_a_minute_longer_while_nobody_answers_and_no_longer() {
        let (known, now) = (Known::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        known.learn(found(10), now).unwrap();
        assert!(known.is_good(at(69)) && !known.is_good(at(70)));
        assert!(known.learn(Err(SILENT), at(30)).is_ok());
        assert!(known.answer(at(34)).is_some_and(|answer| answer.is_ok()));
        assert!(known.answer(at(35)).is_none(), "it is asked again");
        assert!(
            known.learn(Err(Refusal::NoSuchName), at(40)).is_err(),
            "that is an answer"
        );
        assert!(known.learn(Err(SILENT), at(70)).is_err());
    }

    #[test]
    fn a_name_is_silent_at_once_or_if_it_was_answered_before_the_third_time() {
        let (known, now) = (Known::default(), Instant::now());
        assert!(!known.is_silent());
        let _ = known.learn(Err(SILENT), now);
        assert!(known.is_silent());
        known.learn(found(1), now).unwrap();
        assert!(!known.is_silent());
        for silent in [false, false, true] {
            let _ = known.learn(Err(SILENT), now);
            assert_eq!(known.is_silent(), silent);
        }
    }
}
