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

/// The time for which a refusal holds.
const REFUSED: Duration = Duration::from_secs(5);

/// The time for which addresses serve on while no name server answers.
const STALE: Duration = Duration::from_secs(60);

/// The time after which a silent name may be answered quickly again.
const AGAIN: Duration = Duration::from_secs(5);

/// A name's last answers.
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
    /// The look-ups in a row that nobody answered, and the end of the last one.
    silent: u32,
    silent_at: Option<Instant>,
    /// The name had addresses once.
    was_answered: bool,
}

/// The look-ups of a name that nobody answered, as they bear on the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// None, or, of a name that had addresses once, fewer than three in a row.
    None,
    /// The last one was a moment ago.
    Fresh,
    /// The last one is so long ago that the name may be answered by now.
    Past,
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

    /// The addresses that may serve on, if there are any.
    pub(super) fn good(&self, now: Instant) -> Option<Vec<IpAddr>> {
        let state = self.state();
        let (addresses, until) = state.good.as_ref()?;
        (now < *until).then(|| addresses.clone())
    }

    /// The silence so far. A name that had addresses once is given three chances.
    pub(super) fn silence(&self, now: Instant) -> Silence {
        let state = self.state();
        let chances = if state.was_answered { 3 } else { 1 };
        if state.silent < chances {
            return Silence::None;
        }
        match state.silent_at {
            Some(at) if now < at + AGAIN => Silence::Fresh,
            _ => Silence::Past,
        }
    }

    /// Returns true if the name had addresses once.
    pub(super) fn was_answered(&self) -> bool {
        self.state().was_answered
    }

    /// Makes the last silence one of long ago.
    #[cfg(test)]
    pub(super) fn age(&self) {
        self.state().silent_at = None;
    }

    /// Begins a look-up. Unless that is answered, it counts as silence.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            known: self,
            answered: false,
        }
    }

    /// Remembers an answer, and returns what holds now. Silence is counted by [`Asked`] alone.
    pub(super) fn learn(&self, found: Result<Found, Refusal>, now: Instant) -> Result<Vec<IpAddr>, Refusal> {
        let mut state = self.state();
        let (answer, lasts) = match found {
            Ok(Found { addresses, lasts }) => {
                let lasts = lasts.clamp(SHORTEST, LONGEST);
                (state.silent, state.was_answered) = (0, true);
                state.good = Some((addresses.clone(), now + lasts + STALE));
                (Ok(addresses), lasts)
            }
            Err(why) if why.machine().is_some() => return Err(why),
            Err(why) => {
                if !why.is_silence() {
                    state.silent = 0;
                }
                if !why.is_absence() {
                    // The addresses were withdrawn.
                    state.good = None;
                }
                let good = state.good.as_ref().filter(|(_, until)| now < *until);
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
            state.silent_at = Some(Instant::now());
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
        assert!(known.good(at(69)).is_some() && known.good(at(70)).is_none());
        assert!(known.learn(Err(SILENT), at(30)).is_ok());
        assert!(known.answer(at(34)).is_some_and(|answer| answer.is_ok()));
        assert!(known.answer(at(35)).is_none(), "it is asked again");
        assert!(known.learn(Err(SILENT), at(70)).is_err());
    }

    #[test]
    fn addresses_that_were_withdrawn_do_not_come_back() {
        for answer in [Refusal::NoSuchName, Refusal::NoAddress] {
            let (known, now) = (Known::default(), Instant::now());
            known.learn(found(10), now).unwrap();
            assert!(known.learn(Err(answer), now).is_err(), "that is an answer");
            assert_eq!(known.good(now), None);
            assert!(known.learn(Err(SILENT), now).is_err());
            assert!(known.was_answered());
        }
    }

    #[test]
    fn a_name_is_silent_at_once_or_if_it_was_answered_before_the_third_time() {
        let known = Known::default();
        let silence = || known.silence(Instant::now());
        assert_eq!(silence(), Silence::None);
        drop(known.asked());
        assert_eq!(silence(), Silence::Fresh);
        known.learn(found(1), Instant::now()).unwrap();
        assert_eq!(silence(), Silence::None);
        for expected in [Silence::None, Silence::None, Silence::Fresh] {
            drop(known.asked());
            // The refusal of this look-up counts no second time.
            let _ = known.learn(Err(SILENT), Instant::now());
            assert_eq!(silence(), expected);
        }
        known.asked().answered();
        assert_eq!(silence(), Silence::Fresh, "until the answer is learned");
        let _ = known.learn(Err(Refusal::NoSuchName), Instant::now());
        assert_eq!(silence(), Silence::None);
    }

    #[test]
    fn silence_is_past_after_five_seconds() {
        let known = Known::default();
        drop(known.asked());
        let later = Instant::now() + AGAIN;
        assert_eq!(known.silence(later), Silence::Past);
        assert_eq!(known.silence(later - AGAIN), Silence::Fresh);
    }
}
