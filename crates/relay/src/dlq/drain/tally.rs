use crate::output;

/// Why a dead letter is not redelivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// Its endpoint was removed.
    EndpointRemoved,
    /// It is no valid event.
    NoEvent,
    /// It has so many bytes, and only the first of them come into the tool.
    TooLarge(u64),
}

/// What happened to the dead letters that were looked at.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Those that are out of the queue, or would be.
    pub(super) done: u64,
    /// Those that were not meant.
    pub(super) others: u64,
    endpoint_removed: u64,
    no_event: u64,
    too_large: u64,
    /// The bytes of the largest of those.
    largest: u64,
}

impl Tally {
    pub(super) fn stays(&mut self, why: Stay) {
        match why {
            Stay::EndpointRemoved => self.endpoint_removed += 1,
            Stay::NoEvent => self.no_event += 1,
            Stay::TooLarge(bytes) => {
                self.too_large += 1;
                self.largest = self.largest.max(bytes);
            }
        }
    }

    /// The number of letters that were meant and cannot go.
    pub(super) fn stay(&self) -> u64 {
        self.endpoint_removed + self.no_event + self.too_large
    }

    /// The summary; `done` says what was done, such as `redelivered`.
    pub(super) fn text(&self, done: &str, chosen: bool) -> String {
        let letters = match self.done {
            0 => "no dead letters".to_owned(),
            number => output::count(number, "dead letter"),
        };
        let mut lines = vec![format!("{letters} {done}")];
        let stays = [
            (
                self.endpoint_removed,
                ["its endpoint was removed", "their endpoint was removed"],
            ),
            (
                self.no_event,
                ["it is no valid event", "they are no valid events"],
            ),
        ];
        for (number, [of_one, of_several]) in stays {
            match number {
                0 => {}
                1 => lines.push(format!("1 stays: {of_one}; export or discard it")),
                more => lines.push(format!("{more} stay: {of_several}; export or discard them")),
            }
        }
        if self.too_large > 0 {
            let [stay, are, them] = match self.too_large {
                1 => ["stays", "it is", "it"],
                _ => ["stay", "they are", "them"],
            };
            lines.push(format!(
                "{} {stay}: {are} larger than this command takes; discard {them}, or run it with RELAY_MAX_EVENT_BYTES={}",
                self.too_large, self.largest
            ));
        }
        if chosen && self.others > 0 {
            lines.push(format!("{} did not match", self.others));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_were_meant_and_stay_are_counted() {
        let mut tally = Tally::default();
        let reasons = [Stay::EndpointRemoved, Stay::NoEvent, Stay::TooLarge(5)];
        reasons.into_iter().for_each(|why| tally.stays(why));
        assert_eq!(tally.stay(), 3);
    }

    #[test]
    fn the_summary_explains_what_stays() {
        let mut tally = Tally {
            done: 1,
            others: 4,
            ..Tally::default()
        };
        assert_eq!(tally.text("redelivered", false), "1 dead letter redelivered");
        (0..3).for_each(|_| tally.stays(Stay::EndpointRemoved));
        tally.stays(Stay::NoEvent);
        assert_eq!(
            tally.text("redelivered", true),
            "1 dead letter redelivered\n\
             3 stay: their endpoint was removed; export or discard them\n\
             1 stays: it is no valid event; export or discard it\n\
             4 did not match"
        );
    }
}
