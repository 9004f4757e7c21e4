//! Entry points for fuzzers: bytes that a producer chooses, on the way that every process takes them.

use amq_protocol::frame::{AMQPFrame, parse_frame};
use bytes::Bytes;
use lapin::message::Delivery;

use crate::{
    Dispatched, Holds, Queue, dispatch,
    log::{blind_match, read_attempts, read_holds},
    topology::Topology,
    transport::{Frames, Limits},
    wire::{self, Received},
};

const EVENT_BYTES: usize = 1_000;

/// Queues, and the exchanges by which messages come to them.
const WAYS: [(Queue, &str); 8] = [
    (Queue::Work, "relay.events"),
    (Queue::Again, "relay.return"),
    (Queue::Dead, "relay.dead"),
    (Queue::WorkLate, "relay.work.late"),
    (Queue::Suspects, "relay.events"),
    (Queue::Dispatch, "relay.dispatch"),
    (Queue::Holds, "relay.holds"),
    (Queue::BlindMatches, "relay.blind"),
];
const ROUTING_KEY: &str = "a.b";

fn topology() -> Topology {
    Topology::new("relay".parse().expect("a namespace"))
}

pub(crate) fn limits() -> Limits {
    Limits::new(&topology(), EVENT_BYTES, 128 * 1024)
}

pub(crate) fn short(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a short string");
    [&[length][..], bytes].concat()
}

pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a long string");
    [&length.to_be_bytes()[..], bytes].concat()
}

pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 7][..], &long(payload), &[0xCE]].concat()
}

pub(crate) fn deliver(exchange: &[u8], routing_key: &[u8]) -> Vec<u8> {
    let tag = [0, 0, 0, 0, 0, 0, 0, 1, 0];
    let parts = [
        &[0, 60, 0, 60][..],
        &short(b"tag"),
        &tag,
        &short(exchange),
        &short(routing_key),
    ];
    frame(1, &parts.concat())
}

/// A content header: the size of the body, the property flags, and the properties.
pub(crate) fn header(size: usize, properties: &[&[u8]]) -> Vec<u8> {
    let size = (size as u64).to_be_bytes();
    frame(2, &[&[0, 60, 0, 0][..], &size, &properties.concat()].concat())
}

/// Reads frames as lapin does.
///
/// # Panics
/// lapin would end the connection over them.
pub(crate) fn read_frames(bytes: &[u8]) -> Vec<AMQPFrame> {
    let (mut rest, mut frames) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (later, frame) = parse_frame(rest).unwrap_or_else(|error| panic!("{error:?}"));
        frames.push(frame);
        rest = later;
    }
    frames
}

/// Takes one message: a byte for the way by which it comes, one for the size of the pieces in which it comes, the length of
/// its properties in two, its properties from the flags on, and its body.
///
/// # Panics
/// lapin would not read what passes.
pub fn message(data: &[u8]) {
    let [way, piece, high, low, rest @ ..] = data else {
        return;
    };
    let (queue, exchange) = WAYS[usize::from(*way) % WAYS.len()];
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
    let (properties, body) = rest.split_at(length);
    let sent = [
        deliver(exchange.as_bytes(), ROUTING_KEY.as_bytes()),
        header(body.len(), &[properties]),
        frame(3, body),
    ];
    let (mut frames, mut passed) = (Frames::new(limits()), Vec::new());
    for part in sent.concat().chunks(usize::from(*piece).max(1)) {
        if frames.pass(part, &mut passed).is_err() {
            return;
        }
    }
    let mut delivery = Delivery::mock(1, exchange.into(), ROUTING_KEY.into(), false, Vec::new());
    for frame in read_frames(&passed) {
        match frame {
            AMQPFrame::Header(_, header) => delivery.properties = header.properties,
            AMQPFrame::Body(_, body) => delivery.data.extend(body),
            _ => {}
        }
    }
    let topology = topology();
    match queue {
        Queue::Dead => {
            let letter = wire::letter(&delivery, &topology, EVENT_BYTES);
            drop(wire::death(letter, relay_event::Timestamp::default()));
        }
        Queue::Dispatch => drop(Received::read_batch(&mut delivery, queue, &topology)),
        Queue::Holds => {
            let read = Holds::read(&mut delivery, EVENT_BYTES, relay_event::Timestamp::default());
            assert!(!read.refused.is_empty() || !read.holds.is_empty());
        }
        Queue::BlindMatches => drop(blind_match(&delivery)),
        _ => event(Received::read(&mut delivery, queue, &topology, EVENT_BYTES)),
    }
}

fn event(received: Received) {
    let Ok(event) = received.event else { return };
    if received.endpoint.is_none() {
        assert_eq!(event.event_type().as_str(), ROUTING_KEY);
        let again = relay_event::Event::parse(event.body().clone());
        assert_eq!(again.as_ref(), Ok(&event), "an event is one wherever it is read");
    }
}

/// Takes any bytes that the broker might send.
pub fn frames(data: &[u8]) {
    let [piece, data @ ..] = data else { return };
    let (mut frames, mut passed) = (Frames::new(limits()), Vec::new());
    for part in data.chunks(usize::from(*piece).max(1)) {
        if frames.pass(part, &mut passed).is_err() {
            return;
        }
    }
    assert!(passed.len() <= data.len() + 64 * 1024, "little is added");
}

/// Takes a message of records, as one of attempts and as one of held deliveries.
///
/// # Panics
/// Neither a record nor a refusal is read in it.
pub fn records(data: &[u8]) {
    let (attempts, refused) = read_attempts(data);
    assert!(refused.is_some() || !attempts.is_empty());
    let (holds, refused) = read_holds(data);
    assert!(refused.is_some() || !holds.is_empty());
}

/// Takes a batch of held deliveries.
///
/// # Panics
/// It is not written as it is read.
pub fn dispatched(data: &[u8]) {
    let Ok(read) = dispatch::read(&Bytes::copy_from_slice(data)) else {
        return;
    };
    assert!((1..=dispatch::MAX_EVENTS).contains(&read.len()));
    let events = read.into_iter().map(|(head, body)| {
        Some(Dispatched {
            event: relay_event::Event::reread(body).ok()?,
            published_at: head.published_at,
            hop: head.hop,
            history: head.history,
            alone: head.alone,
        })
    });
    if let Some(batch) = events.collect::<Option<Vec<_>>>() {
        let again = dispatch::read(&dispatch::written(&batch)).expect("a batch");
        for (delivery, (head, body)) in batch.iter().zip(again) {
            assert_eq!(delivery.event.body(), &body);
            assert_eq!(
                (delivery.published_at, delivery.hop, &delivery.history),
                (head.published_at, head.hop, &head.history)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// A target's folder and its entry point.
    type Target = (&'static str, fn(&[u8]));

    #[test]
    fn what_fuzzing_found_stays_mended() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
        let targets: [Target; 4] = [
            ("message", super::message),
            ("frames", super::frames),
            ("records", super::records),
            ("dispatched", super::dispatched),
        ];
        for (name, target) in targets {
            for input in fs::read_dir(corpus.join(name)).unwrap() {
                target(&fs::read(input.unwrap().path()).unwrap());
            }
        }
    }
}
