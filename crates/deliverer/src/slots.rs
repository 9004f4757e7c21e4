//! How many attempts may be under way in the whole process, and whose. Each holds a socket, and those
//! at endpoints that never answer hold it until their timeout.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Room for so many attempts.
pub(crate) struct Slots {
    most: usize,
    used: AtomicUsize,
}

/// Room for one, until it is dropped.
pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let used = AtomicUsize::new(0);
        Arc::new(Self { most, used })
    }

    /// A slot for an endpoint that holds so many already.
    pub(crate) fn take(self: &Arc<Self>, held: usize, answers: bool) -> Option<Slot> {
        let take = |used: usize| {
            let free = self.most.saturating_sub(used);
            is_due(self.most, free, held, answers).then_some(used + 1)
        };
        let (set, read) = (Ordering::Relaxed, Ordering::Relaxed);
        let taken = self.used.fetch_update(set, read, take).is_ok();
        taken.then(|| Slot(Arc::clone(self)))
    }
}

/// Who holds many leaves as many to others: so a few may have what they want, and the more there are who
/// want much, the less each gets, while something is always left for who comes next. A quarter is for
/// endpoints that answered last time, since theirs will soon be free again.
fn is_due(most: usize, free: usize, held: usize, answers: bool) -> bool {
    let kept = if answers { 0 } else { most / 4 };
    held < free.saturating_sub(kept)
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What so many endpoints hold that take in turns whatever they get, up to `window` each.
    fn fill(slots: &Arc<Slots>, endpoints: usize, window: usize, answers: bool) -> Vec<Vec<Slot>> {
        let mut held: Vec<Vec<Slot>> = (0..endpoints).map(|_| Vec::new()).collect();
        for _ in 0..window {
            for endpoint in &mut held {
                endpoint.extend(slots.take(endpoint.len(), answers));
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
    fn thousands_that_never_answer_leave_a_quarter_to_who_answers() {
        for endpoints in [1_000, 5_000] {
            let slots = Slots::new(2_048);
            let held = fill(&slots, endpoints, 4, false);
            assert!(held.iter().map(Vec::len).sum::<usize>() <= 1_536);
            assert!(one_more(&slots, true) >= 256, "{endpoints}");
        }
        let slots = Slots::new(2_048);
        let _held = fill(&slots, 1_000, 4, false);
        assert_eq!(one_more(&slots, false), 1, "and something to a new one");
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
