//! The attempts that may be under way in the whole process, and those of one endpoint. Each holds a socket, and those
//! at endpoints that never answer hold it until their timeout.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Room for so many attempts.
pub(crate) struct Slots {
    most: usize,
    used: Mutex<InProcess>,
}

/// Attempts that have room, by what bounds them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    /// All of them.
    pub(crate) all: usize,
    /// Those of deliveries that the dispatcher sent on.
    pub(crate) dispatched: usize,
}

/// The attempt that asks for room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking {
    /// The attempts of its endpoint that have room already.
    pub(crate) held: Used,
    /// True if the endpoint's last attempt had an answer; `None` before the end of its first.
    pub(crate) answers: Option<bool>,
    /// Set if the dispatcher sent it on.
    pub(crate) is_dispatched: bool,
}

/// Room for one, until it is dropped.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    asked: Asking,
}

/// The attempts in the whole process that have room.
#[derive(Debug, Default)]
struct InProcess {
    used: Used,
    /// Those at endpoints whose last attempt had no answer when they began.
    failing: usize,
}

impl Slots {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let used = Mutex::default();
        Arc::new(Self { most, used })
    }

    /// A slot, if there is one for this attempt.
    pub(crate) fn take(self: &Arc<Self>, asked: Asking) -> Option<Slot> {
        let mut used = self.used();
        if !is_due(self.most, &used, asked) {
            return None;
        }
        used.used.count(asked.is_dispatched);
        used.failing += usize::from(asked.answers == Some(false));
        let slots = Arc::clone(self);
        Some(Slot { slots, asked })
    }

    fn used(&self) -> MutexGuard<'_, InProcess> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    pub(crate) fn count(&mut self, is_dispatched: bool) {
        self.all += 1;
        self.dispatched += usize::from(is_dispatched);
    }

    pub(crate) fn discount(&mut self, is_dispatched: bool) {
        self.all -= 1;
        self.dispatched -= usize::from(is_dispatched);
    }
}

/// An endpoint that holds many leaves as many to others: so a few may have what they want, and the more endpoints there
/// are that want much, the less each gets, while something is always left for the next. A quarter is for
/// endpoints that answered last time, since theirs will soon be free again. Those that did not have half of all
/// together, and so has what the dispatcher sends on. Of an endpoint that was not tried yet nothing is known, so its
/// attempts do not count among those.
fn is_due(most: usize, used: &InProcess, asked: Asking) -> bool {
    let half = most.div_ceil(2);
    let kept = if asked.answers == Some(true) { 0 } else { most / 4 };
    let free = most.saturating_sub(used.used.all + kept);
    let for_failing = half.saturating_sub(used.failing);
    let for_dispatched = half.saturating_sub(used.used.dispatched);
    asked.held.all < free
        && (asked.answers != Some(false) || asked.held.all < for_failing)
        && (!asked.is_dispatched || asked.held.dispatched < for_dispatched)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut used = self.slots.used();
        used.used.discount(self.asked.is_dispatched);
        used.failing -= usize::from(self.asked.answers == Some(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What so many endpoints hold that take in turns whatever they get, up to `window` each.
    fn fill(slots: &Arc<Slots>, endpoints: usize, window: usize, answers: bool) -> Vec<Vec<Slot>> {
        fill_by(slots, endpoints, window, answers, false)
    }

    fn fill_by(
        slots: &Arc<Slots>,
        endpoints: usize,
        window: usize,
        answers: bool,
        is_dispatched: bool,
    ) -> Vec<Vec<Slot>> {
        let mut held: Vec<Vec<Slot>> = (0..endpoints).map(|_| Vec::new()).collect();
        for _ in 0..window {
            for endpoint in &mut held {
                let all = endpoint.len();
                let held = Used {
                    all,
                    dispatched: if is_dispatched { all } else { 0 },
                };
                let asking = Asking {
                    held,
                    answers: Some(answers),
                    is_dispatched,
                };
                endpoint.extend(slots.take(asking));
            }
        }
        held
    }

    fn one_more(slots: &Arc<Slots>, answers: bool) -> usize {
        fill(slots, 1, 1_000, answers)[0].len()
    }

    #[test]
    fn two_hundred_that_never_answer_get_their_windows_and_leave_enough() {
        let slots = Slots::new(2_048);
        let held = fill(&slots, 200, 4, false);
        assert!(held.iter().all(|held| held.len() == 4));
        assert_eq!(one_more(&slots, true), 624);
    }

    #[test]
    fn thousands_that_never_answer_have_half() {
        for endpoints in [1_000, 5_000] {
            let slots = Slots::new(2_048);
            let held = fill(&slots, endpoints, 4, false);
            assert!(held.iter().map(Vec::len).sum::<usize>() <= 1_024);
            assert!(one_more(&slots, true) >= 512, "{endpoints}");
        }
        let slots = Slots::new(2_048);
        let _held = fill(&slots, 1_000, 4, false);
        assert_eq!(one_more(&slots, false), 1, "and something to a new one");
    }

    #[test]
    fn endpoints_that_were_not_tried_yet_get_something_beside_thousands_that_never_answer() {
        let untried = Asking {
            held: Used::default(),
            answers: None,
            is_dispatched: false,
        };
        let slots = Slots::new(2_048);
        let _held = fill(&slots, 5_000, 4, false);
        let first: Vec<Slot> = (0..500).filter_map(|_| slots.take(untried)).collect();
        assert_eq!(first.len(), 500);
    }

    #[test]
    fn what_is_sent_on_has_half() {
        for (endpoints, answers) in [(200, true), (200, false), (5_000, true)] {
            let slots = Slots::new(2_048);
            let sent_on = fill_by(&slots, endpoints, 64, answers, true);
            let count: usize = sent_on.iter().map(Vec::len).sum();
            assert!((900..=1_024).contains(&count), "{count} for {endpoints}");
            assert!(one_more(&slots, true) >= 512, "direct ones have the other half");
            drop(sent_on);
            assert_eq!(one_more(&slots, true), 1_000);
        }
        assert_eq!(fill_by(&Slots::new(1), 1, 9, false, true)[0].len(), 1);
    }

    #[test]
    fn those_that_answered_until_now_leave_something_when_all_stop_at_once() {
        let slots = Slots::new(2_048);
        let _held = fill(&slots, 200, 32, true);
        assert!(one_more(&slots, true) >= 5);
    }

    #[test]
    fn one_alone_has_half_and_what_is_dropped_is_free_again() {
        let slots = Slots::new(2_000);
        for _ in 0..2 {
            assert_eq!(one_more(&slots, true), 1_000);
        }
        assert_eq!(one_more(&Slots::new(1), false), 1);
    }
}
