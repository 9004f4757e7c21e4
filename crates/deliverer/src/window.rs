//! How many attempts may be under way at one endpoint: more while it bears them, fewer while it
//! is in trouble, as TCP's congestion window. Arithmetic alone.

/// A window begins with so many: enough to see quickly that an endpoint works, few enough that
/// hundreds of endpoints that never answer hold little.
const FIRST: u16 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    size: u16,
    most: u16,
    /// Below this it grows by one for each attempt borne, and so doubles in a round; above it by one in a
    /// round.
    slow_start_to: u16,
    /// Attempts borne since it last grew, above `slow_start_to`.
    credit: u16,
    /// Attempts that were under way when it last shrank. They met the same trouble, which counts once.
    excused: u16,
}

impl Window {
    pub(crate) fn new(most: u16) -> Self {
        let most = most.max(1);
        Self {
            size: FIRST.min(most),
            most,
            slow_start_to: most,
            credit: 0,
            excused: 0,
        }
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// The same with another upper end.
    pub(crate) fn up_to(self, most: u16) -> Self {
        let most = most.max(1);
        let slow_start_to = if self.slow_start_to == self.most {
            most
        } else {
            self.slow_start_to.min(most)
        };
        Self {
            size: self.size.min(most),
            most,
            slow_start_to,
            ..self
        }
    }

    /// The endpoint bore an attempt while so many, itself among them, were under way. A window that is
    /// hardly used does not grow: nothing was learnt of what the endpoint bears.
    pub(crate) fn borne(&mut self, under_way: u16) {
        self.excused = self.excused.saturating_sub(1);
        if u32::from(under_way) * 2 <= u32::from(self.size) || self.size == self.most {
            return;
        }
        if self.size >= self.slow_start_to {
            self.credit += 1;
            if self.credit < self.size {
                return;
            }
        }
        self.credit = 0;
        self.size += 1;
    }

    /// The endpoint was in trouble while so many attempts, this among them, were under way.
    pub(crate) fn troubled(&mut self, under_way: u16) {
        self.shrink(under_way, 1);
    }

    /// The same, where the trouble may be that of single events: it does not become narrower than it
    /// began. Answers end soon, so this holds little, and a storm of them is not one by one.
    pub(crate) fn in_doubt(&mut self, under_way: u16) {
        self.shrink(under_way, FIRST.min(self.size));
    }

    fn shrink(&mut self, under_way: u16, least: u16) {
        if self.excused > 0 {
            self.excused -= 1;
            return;
        }
        self.size = (self.size / 2).max(least);
        self.slow_start_to = self.size;
        self.credit = 0;
        self.excused = under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(window: &mut Window) {
        for _ in 0..window.size() {
            window.borne(window.size());
        }
    }

    #[test]
    fn doubles_in_a_round_and_after_trouble_grows_by_one() {
        let mut window = Window::new(32);
        let mut sizes = vec![window.size()];
        for _ in 0..4 {
            round(&mut window);
            sizes.push(window.size());
        }
        assert_eq!(sizes, [4, 8, 16, 32, 32]);
        window.troubled(1);
        assert_eq!(window.size(), 16);
        round(&mut window);
        assert_eq!(window.size(), 17);
    }

    #[test]
    fn one_trouble_that_hits_all_under_way_counts_once() {
        let mut window = Window::new(32);
        (0..3).for_each(|_| round(&mut window));
        for left in (1..=32).rev() {
            window.troubled(left);
        }
        assert_eq!(window.size(), 16);
        window.troubled(16);
        assert_eq!(window.size(), 8);
    }

    #[test]
    fn trouble_of_single_events_leaves_what_it_began_with() {
        let mut window = Window::new(32);
        (0..3).for_each(|_| round(&mut window));
        for size in [16, 8, 4, 4] {
            window.in_doubt(1);
            assert_eq!(window.size(), size);
        }
        window.troubled(1);
        window.in_doubt(1);
        assert_eq!(window.size(), 2, "nor does it widen it");
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = Window::new(32);
        for _ in 0..100 {
            window.borne(1);
        }
        assert_eq!(window.size(), 4);
    }

    #[test]
    fn follows_a_changed_limit() {
        let mut window = Window::new(8).up_to(2);
        assert_eq!(window.size(), 2);
        window = window.up_to(16);
        round(&mut window);
        assert_eq!(window.size(), 4, "slow start goes on to the new limit");
    }

    proptest! {
        #[test]
        fn is_never_empty_nor_beyond_its_limit(
            most in 0_u16..1_200,
            news in prop::collection::vec((0_u8..3, 1_u16..1_200), 0..200),
        ) {
            let mut window = Window::new(most);
            for (kind, under_way) in news {
                let before = window.size();
                match kind {
                    0 => window.borne(under_way),
                    1 => window.troubled(under_way),
                    _ => window.in_doubt(under_way),
                }
                prop_assert!((1..=most.max(1)).contains(&window.size()));
                prop_assert!(window.size() <= before + 1 && window.size() >= before / 2);
            }
        }

        #[test]
        fn whatever_happened_successes_open_it_again(
            most in 1_u16..200,
            news in prop::collection::vec((any::<bool>(), 1_u16..200), 0..100),
        ) {
            let mut window = Window::new(most);
            for (good, under_way) in news {
                if good { window.borne(under_way) } else { window.troubled(under_way) }
            }
            (0..most).for_each(|_| round(&mut window));
            prop_assert_eq!(window.size(), most);
        }
    }
}
