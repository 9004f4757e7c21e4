//! Looking for the records a store refuses: what it does not take as a whole is tried in halves.

use std::ops::Range;

/// Parts of a batch that are yet to be written, in their order.
#[derive(Debug)]
pub(crate) struct Parts(Vec<Range<usize>>);

impl Parts {
    /// So many records, at most `most` in a part.
    pub(crate) fn of(records: usize, most: usize) -> Self {
        let mut parts = Self(Vec::new());
        for start in (0..records).step_by(most.max(1)).rev() {
            parts.add(start..records.min(start + most.max(1)));
        }
        parts
    }

    /// The next part to write.
    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        self.0.pop()
    }

    /// A part that was refused comes again as its halves; `false` if it is but one record.
    pub(crate) fn halve(&mut self, part: Range<usize>) -> bool {
        if part.len() < 2 {
            return false;
        }
        let middle = part.start + part.len() / 2;
        self.add(middle..part.end);
        self.add(part.start..middle);
        true
    }

    /// A part that could not be tried comes again as it was.
    pub(crate) fn again(&mut self, part: Range<usize>) {
        self.add(part);
    }

    fn add(&mut self, part: Range<usize>) {
        if !part.is_empty() {
            self.0.push(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Writes so many records to a store that refuses some: what is written, in its order, and what
    /// is refused, and how many tries that took.
    fn write(records: usize, refused: &[usize]) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut written, mut found, mut tries) = (Vec::new(), Vec::new(), 0);
        let mut parts = Parts::of(records, usize::MAX);
        while let Some(part) = parts.next() {
            tries += 1;
            if !part.clone().any(|record| refused.contains(&record)) {
                written.extend(part);
            } else if !parts.halve(part.clone()) {
                found.push(part.start);
            }
        }
        (written, found, tries)
    }

    #[test]
    fn exactly_what_is_refused_is_found_and_all_else_is_written_in_order() {
        for records in 0..20 {
            for refused in [
                vec![],
                vec![0],
                vec![records / 2],
                vec![1, 2],
                (0..records).collect(),
            ] {
                let among = |record: &usize| refused.contains(record);
                let (written, found, _) = write(records, &refused);
                let expected: BTreeSet<usize> = (0..records).filter(among).collect();
                assert_eq!(found, Vec::from_iter(expected));
                assert_eq!(
                    written,
                    Vec::from_iter((0..records).filter(|record| !among(record)))
                );
            }
        }
    }

    #[test]
    fn one_among_many_costs_few_tries() {
        assert_eq!(write(2_000, &[]).2, 1);
        assert!(write(2_000, &[1_234]).2 <= 2 * 11 + 1);
    }

    #[test]
    fn nothing_is_no_part() {
        assert_eq!(Parts::of(0, 9).next(), None);
    }
}
