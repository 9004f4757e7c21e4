use std::collections::{HashMap, VecDeque};

/// Deliveries that are remembered.
const REMEMBERED: usize = 100_000;

/// A delivery is one event for one path: several endpoints may point here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Delivery {
    pub(super) path: String,
    pub(super) id: String,
}

/// Which deliveries came, how often, and which of them succeeded. Bounded: the oldest are forgotten.
pub(super) struct Seen {
    known: HashMap<Delivery, Known>,
    order: VecDeque<Delivery>,
    remembered: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// How often it came.
    pub(super) attempts: u32,
    /// Whether it was answered with 2xx.
    pub(super) succeeded: bool,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self::remembering(REMEMBERED)
    }

    fn remembering(remembered: usize) -> Self {
        Self {
            known: HashMap::new(),
            order: VecDeque::new(),
            remembered,
        }
    }

    /// Counts an attempt of a delivery, and says what is known with it.
    pub(super) fn attempt(&mut self, delivery: &Delivery) -> Known {
        if !self.known.contains_key(delivery) {
            if self.order.len() == self.remembered
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
            self.order.push_back(delivery.clone());
        }
        let known = self.known.entry(delivery.clone()).or_default();
        known.attempts += 1;
        *known
    }

    /// A delivery was answered with 2xx.
    pub(super) fn succeeded(&mut self, delivery: &Delivery) {
        if let Some(known) = self.known.get_mut(delivery) {
            known.succeeded = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(id: &str) -> Delivery {
        Delivery {
            path: "/".to_owned(),
            id: id.to_owned(),
        }
    }

    #[test]
    fn attempts_are_counted_until_they_are_forgotten() {
        let mut seen = Seen::remembering(2);
        assert_eq!(
            seen.attempt(&delivery("a")),
            Known {
                attempts: 1,
                succeeded: false
            }
        );
        seen.succeeded(&delivery("a"));
        assert_eq!(
            seen.attempt(&delivery("a")),
            Known {
                attempts: 2,
                succeeded: true
            }
        );
        seen.attempt(&delivery("b"));
        seen.attempt(&delivery("c"));
        assert_eq!(seen.attempt(&delivery("a")).attempts, 1);
        assert_eq!((seen.known.len(), seen.order.len()), (2, 2));
    }

    #[test]
    fn the_same_event_for_another_path_is_another_delivery() {
        let mut seen = Seen::new();
        let other = Delivery {
            path: "/other".to_owned(),
            ..delivery("a")
        };
        seen.attempt(&delivery("a"));
        seen.succeeded(&delivery("a"));
        assert!(!seen.attempt(&other).succeeded);
    }
}
