//! What is published: events of about 1 KiB, made by writing two numbers into one text, since whoever
//! makes them shares the machine with what is measured.

use std::ops::Range;

const HEAD: &[u8] = br#"{"specversion":"1.0","id":"event-"#;
const MIDDLE: &[u8] = br#"","source":"/bench","datacontenttype":"application/json","type":"bench.t"#;
const TAIL: &[u8] = br#"","data":{"padding":""#;
const END: &[u8] = br#""}}"#;
const SIZE: usize = 1024;

const NUMBER: Range<usize> = HEAD.len()..HEAD.len() + 8;
const KIND: Range<usize> = NUMBER.end + MIDDLE.len()..NUMBER.end + MIDDLE.len() + 4;
const TYPE: Range<usize> = KIND.start - "bench.t".len()..KIND.end;

/// One event's bytes, to be written again for the next.
pub(crate) struct EventBytes(Vec<u8>);

impl EventBytes {
    pub(crate) fn new() -> Self {
        let mut text = [HEAD, b"00000000", MIDDLE, b"0000", TAIL].concat();
        text.resize(SIZE - END.len(), b'x');
        text.extend(END);
        Self(text)
    }

    /// The event of this number and kind.
    pub(crate) fn write(&mut self, number: usize, kind: usize) -> &[u8] {
        digits(&mut self.0[NUMBER], number);
        digits(&mut self.0[KIND], kind);
        &self.0
    }
}

fn digits(place: &mut [u8], mut value: usize) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap();
        value /= 10;
    }
}

/// The type of events of this kind, which is their routing key.
pub(crate) fn event_type(kind: usize) -> String {
    format!("bench.t{kind:04}")
}

/// Which event this is; `None` if it is none of ours, or not as it was published.
pub(crate) fn number_of(body: &[u8]) -> Option<usize> {
    if body.len() != SIZE || !body.starts_with(HEAD) || !body.ends_with(END) {
        return None;
    }
    debug_assert!(body[TYPE].starts_with(b"bench.t"));
    std::str::from_utf8(&body[NUMBER]).ok()?.parse().ok()
}

/// Some events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Events {
    first: usize,
    count: usize,
    first_kind: usize,
    kinds: usize,
}

impl Events {
    /// So many of one kind.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            first: 0,
            count,
            first_kind: 0,
            kinds: 1,
        }
    }

    /// The same with other numbers, for ids are not used twice in one relay.
    pub(crate) fn of_round(self, round: usize) -> Self {
        let first = round * self.count;
        Self { first, ..self }
    }

    /// The same, numbered from here on.
    pub(crate) fn from(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// Of the kinds from this one on, in turns.
    pub(crate) fn of_kinds(self, kinds: Range<usize>) -> Self {
        Self {
            first_kind: kinds.start,
            kinds: kinds.len(),
            ..self
        }
    }

    pub(crate) fn first(&self) -> usize {
        self.first
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// So many of them from this place on; `None` behind the end.
    pub(crate) fn part(&self, place: usize, size: usize) -> Option<Self> {
        let rest = self.count.checked_sub(place).filter(|rest| *rest > 0)?;
        let (first, count) = (self.first + place, rest.min(size));
        Some(Self {
            first,
            count,
            ..*self
        })
    }

    /// The number and the kind of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let Self {
            first,
            count,
            first_kind,
            kinds,
        } = *self;
        (first..first + count).map(move |number| (number, first_kind + number % kinds))
    }
}

#[cfg(test)]
mod tests {
    use relay_event::Event;

    use super::*;

    #[test]
    fn events_are_valid_and_tell_their_number() {
        let mut bytes = EventBytes::new();
        let text = bytes.write(12_345, 67).to_vec();
        assert_eq!(text.len(), SIZE);
        assert_eq!(number_of(&text), Some(12_345));
        let event = Event::parse(text.into()).unwrap();
        assert_eq!(event.id().as_str(), "event-00012345");
        assert_eq!(event.event_type().as_str(), event_type(67));
        assert_eq!(number_of(b"{}"), None);
    }

    #[test]
    fn rounds_share_no_number_and_kinds_take_turns() {
        let events = Events::new(3).of_round(2).of_kinds(10..12);
        let all: Vec<_> = events.iter().collect();
        assert_eq!(all, [(6, 10), (7, 11), (8, 10)]);
        let rest: Vec<_> = events.part(1, 5).unwrap().iter().collect();
        assert_eq!(rest, all[1..]);
        assert!(events.part(3, 5).is_none());
    }
}
