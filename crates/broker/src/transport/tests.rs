//! Frames through [`Frames`] and then through lapin's own parser, on a stack much smaller than any thread has.

use std::{ops::RangeInclusive, thread};

use amq_protocol::frame::AMQPFrame;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::fuzzing::{self, deliver, frame, limits, long, read_frames, short};

const STACK: usize = 128 * 1024;

fn field(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [&short(name)[..], &[kind], value].concat()
}

fn header(size: usize, flags: u16, values: &[u8]) -> Vec<u8> {
    fuzzing::header(size, &[&flags.to_be_bytes(), values])
}

fn headers(table: &[u8]) -> Vec<u8> {
    header(0, 1 << 13, &long(table))
}

fn passed(bytes: &[u8]) -> Vec<u8> {
    let (mut frames, mut out) = (Frames::new(limits()), Vec::new());
    frames.pass(bytes, &mut out).unwrap();
    out
}

/// All frames, as lapin reads them; an error or a rest would end the connection.
fn read(bytes: &[u8]) -> Vec<AMQPFrame> {
    let bytes = bytes.to_vec();
    let reading = move || read_frames(&bytes);
    let thread = thread::Builder::new().stack_size(STACK).spawn(reading);
    thread.unwrap().join().unwrap()
}

fn properties_of(frames: &[AMQPFrame]) -> BasicProperties {
    let header = frames.iter().find_map(|frame| match frame {
        AMQPFrame::Header(_, header) => Some(header),
        _ => None,
    });
    header.unwrap().properties.clone()
}

fn table_of(frames: &[AMQPFrame]) -> FieldTable {
    properties_of(frames).headers().clone().unwrap_or_default()
}

/// The refusal of a message to the events exchange with this content header.
fn refusal(header: &[u8]) -> String {
    refusal_by(b"relay.events", header)
}

/// The same of a message that came by this exchange.
fn refusal_by(exchange: &[u8], header: &[u8]) -> String {
    let message = [deliver(exchange, b"a.b"), header.to_vec()].concat();
    let table = table_of(&read(&passed(&message)));
    match table.inner().get(MARKER) {
        Some(AMQPValue::LongString(text)) => {
            let cut = Cut::parse(&text.to_string()).unwrap();
            cut.refusal().unwrap().to_string()
        }
        Some(other) => panic!("{other:?}"),
        None => String::new(),
    }
}

fn tables(name: &[u8], depth: usize) -> Vec<u8> {
    (0..depth).fold(Vec::new(), |inner, _| field(name, b'F', &long(&inner)))
}

fn lists(depth: usize) -> Vec<u8> {
    let inner = (1..depth).fold(Vec::new(), |inner, _| [&b"A"[..], &long(&inner)].concat());
    field(b"a", b'A', &long(&inner))
}

#[test]
fn sixteen_levels_pass_as_they_are_and_no_more_do() {
    for (table, allowed) in [
        (tables(b"a", 16), true),
        (lists(16), true),
        (tables(b"a", 17), false),
        (lists(17), false),
        (tables(b"a", 18_000), false),
        (tables(b"", 20_000), false),
        (lists(25_000), false),
    ] {
        let whole = headers(&table);
        if allowed {
            assert_eq!(passed(&whole), whole);
        } else {
            assert_eq!(refusal(&whole), "headers: nest deeper than 16");
        }
    }
}

#[test]
fn many_values_and_large_headers_are_refused() {
    let many = |count| {
        (0..count)
            .flat_map(|_| field(b"a", b'V', b""))
            .collect::<Vec<u8>>()
    };
    assert_eq!(refusal(&headers(&many(256))), "");
    assert!(refusal(&headers(&many(257))).contains("more than 256 values"));
    let list = field(b"a", b'A', &long(&[b'V'; 60_000]));
    assert!(refusal(&headers(&list)).contains("more than 256 values"));
    for bytes in [70_000, 1_000_000] {
        let large = field(b"a", b'S', &long(&vec![b'x'; bytes]));
        assert_eq!(
            refusal(&headers(&large)),
            format!("headers: have {} bytes; at most 65536 are allowed", bytes + 7)
        );
    }
}

#[test]
fn what_lapin_would_end_the_connection_over_is_refused() {
    for malformed in [
        field(b"a", b'?', b""),
        field(b"a", b'S', &[0, 0, 0, 9, b'x']),
        field(b"a", b'S', &[0xFF; 4]),
        field(b"a", b'F', &long(&[9])),
        field(b"a", b'A', &long(b"S\0\0\0\x09x")),
        vec![9],
        vec![1, b'a'],
    ] {
        assert_eq!(
            refusal(&headers(&malformed)),
            "headers: are malformed",
            "{malformed:?}"
        );
    }
    assert_eq!(
        refusal(&headers(&field(b"\xff", b't', &[1]))),
        "headers: have a name that is not UTF-8"
    );
    let nested = field(b"a", b'F', &long(&field(b"\xff", b't', &[1])));
    assert_eq!(
        refusal(&headers(&nested)),
        "headers: have a name that is not UTF-8"
    );
    // Properties that are not there, or more than there are flags for.
    assert_eq!(
        refusal(&header(0, 1 << 13, &[0, 0, 0, 9])),
        "headers: are malformed"
    );
    assert_eq!(refusal(&header(0, 0, b"more")), "headers: are malformed");
    assert_eq!(refusal(&header(0, 1, &[0, 0])), "headers: are malformed");
    assert!(refusal(&header(0, 1 << 15, &short(b"\xff"))).contains("must be UTF-8"));
    assert_eq!(
        refusal(&header(0, 1 << 3, &short(b"\xff"))),
        "",
        "nobody reads it"
    );
}

#[test]
fn what_can_be_read_of_bad_headers_is_kept() {
    let death = [
        field(b"queue", b'S', &long(b"relay.dead")),
        field(b"routing-keys", b'A', &long(&[b'V'; 1_000])),
    ]
    .concat();
    let table = [
        tables(b"ce-level", 900),
        field(b"ce-id", b'S', &long(b"1")),
        field(b"x-death", b'A', &long(&[&b"F"[..], &long(&death)].concat())),
    ]
    .concat();
    let message = [deliver(b"relay.dead", b""), headers(&table)].concat();
    let kept = table_of(&read(&passed(&message)));
    let names: Vec<_> = kept.inner().keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["ce-id", "ce-level", MARKER, "x-death"]);
    let level = kept.inner().get("ce-level").unwrap();
    assert_eq!(level, &AMQPValue::FieldTable(FieldTable::default()));
    let AMQPValue::FieldArray(deaths) = kept.inner().get("x-death").unwrap() else {
        panic!("{kept:?}");
    };
    let AMQPValue::FieldTable(newest) = &deaths.as_slice()[0] else {
        panic!("{kept:?}");
    };
    let names: Vec<_> = newest.inner().keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["queue"]);
}

#[test]
fn nobody_can_say_that_something_is_missing() {
    let table = [
        field(MARKER.as_bytes(), b'S', &long(b"body 9 1")),
        field(b"a", b't', &[1]),
    ]
    .concat();
    assert_eq!(refusal(&headers(&table)), "");
}

#[test]
fn texts_of_methods_are_utf8() {
    let [exchange, key] = [&b"relay.\xff"[..], b"a.\xffb"];
    for method in [
        deliver(exchange, key),
        frame(
            1,
            &[
                &[0, 60, 0, 71][..],
                &[0; 9],
                &short(exchange),
                &short(key),
                &[0; 4],
            ]
            .concat(),
        ),
        frame(
            1,
            &[
                &[0, 60, 0, 50][..],
                &[0; 2],
                &short(b"no"),
                &short(exchange),
                &short(key),
            ]
            .concat(),
        ),
    ] {
        let out = passed(&method);
        assert_eq!((out.len(), read(&out).len()), (method.len(), 1));
        assert!(format!("{:?}", read(&out)).contains(r"a.\u{1a}b"), "{out:?}");
    }
}

/// The sizes of the body frames that pass, for a message whose body comes in frames of these sizes.
fn body_frames(exchange: &[u8], sizes: &[usize]) -> (u64, Vec<usize>) {
    let mut message = [deliver(exchange, b"a.b"), header(sizes.iter().sum(), 0, b"")].concat();
    for size in sizes {
        message.extend(frame(3, &vec![b'x'; *size]));
    }
    message.extend(deliver(exchange, b"next"));
    let frames = read(&passed(&message));
    assert!(matches!(frames.last(), Some(AMQPFrame::Method(..))), "{frames:?}");
    let declared = frames.iter().find_map(|frame| match frame {
        AMQPFrame::Header(_, header) => Some(header.body_size),
        _ => None,
    });
    let bodies = frames.iter().filter_map(|frame| match frame {
        AMQPFrame::Body(_, body) => Some(body.len()),
        _ => None,
    });
    (declared.unwrap(), bodies.collect())
}

/// A letter may be larger than an event that is let in, and what is allowed is said of the event.
#[test]
fn one_limit_is_told_wherever_a_body_is_cut() {
    for exchange in [&b"relay.events"[..], b"relay.dead"] {
        assert_eq!(
            refusal_by(exchange, &header(2_001, 0, b"")),
            "event: is 2001 bytes; at most 1000 are allowed"
        );
    }
}

#[test]
fn only_the_beginning_of_a_body_that_is_too_large_passes() {
    let events = b"relay.events";
    assert_eq!(body_frames(events, &[600, 400]), (1_000, vec![600, 400]));
    assert_eq!(body_frames(events, &[600, 401]), (1_000, vec![600, 400]));
    assert_eq!(body_frames(events, &[600, 400, 5_000]), (1_000, vec![600, 400]));
    assert_eq!(body_frames(events, &[60_000, 60_000]), (1_000, vec![1_000]));
    assert_eq!(body_frames(events, &[]), (0, vec![]));
    assert_eq!(body_frames(b"relay.dead", &[2_000]), (2_000, vec![2_000]));
    assert_eq!(body_frames(b"relay.dead", &[2_001]), (1_000 * 2, vec![2_000]));
    let mib = 1 << 20;
    assert_eq!(
        body_frames(b"relay.attempts", &[mib, mib]),
        (2 << 20, vec![mib, mib])
    );
    assert_eq!(
        body_frames(b"relay.attempts", &[mib, mib, 1]),
        (4_096, vec![4_096])
    );
    assert_eq!(
        refusal(&header(16_777_216, 0, b"")),
        "event: is 16777216 bytes; at most 1000 are allowed"
    );
}

#[test]
fn another_protocol_is_passed_on_and_garbage_is_not() {
    assert_eq!(passed(b"AMQP\0\0\x09\x01"), b"AMQP\0\0\x09\x01");
    let garbage = |bytes: &[u8]| Frames::new(limits()).pass(bytes, &mut Vec::new());
    assert!(garbage(b"HTTP/1.1 400").is_err());
    assert!(garbage(&[2, 0, 1, 0xFF, 0, 0, 0]).is_err(), "a frame of 4 GiB");
}

/// A value that holds no others, with its type.
fn simple_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![b'V']),
        any::<u8>().prop_map(|byte| vec![b't', byte]),
        any::<[u8; 8]>().prop_map(|bytes| [&b"T"[..], &bytes].concat()),
        vec(any::<u8>(), 0..20).prop_map(|text| [&b"S"[..], &long(&text)].concat()),
    ]
}

/// A value with its type, well-formed or not, nested up to 20 deep.
fn any_value() -> impl Strategy<Value = Vec<u8>> {
    let simple = prop_oneof![4 => simple_value(), 1 => vec(any::<u8>(), 0..6)];
    nested(simple, 0..=255, 20)
}

/// A well-formed value, nested so little that five of them have fewer than 256 values.
fn good_value() -> impl Strategy<Value = Vec<u8>> {
    nested(simple_value(), 32..=126, 2)
}

/// These values in tables and lists, so many deep, under names of these bytes.
fn nested(
    simple: impl Strategy<Value = Vec<u8>> + 'static,
    names: RangeInclusive<u8>,
    depth: u32,
) -> impl Strategy<Value = Vec<u8>> {
    simple.prop_recursive(depth, 400, 6, move |inner| {
        let table = vec((vec(names.clone(), 0..4), inner.clone()), 0..6).prop_map(|fields| {
            let fields = fields
                .iter()
                .map(|(name, value)| [&short(name)[..], value].concat());
            [&b"F"[..], &long(&fields.collect::<Vec<_>>().concat())].concat()
        });
        let list = vec(inner, 0..6).prop_map(|values| [&b"A"[..], &long(&values.concat())].concat());
        prop_oneof![table, list]
    })
}

fn any_header() -> impl Strategy<Value = Vec<u8>> {
    let table = vec((vec(32_u8..127, 0..4), any_value()), 0..6).prop_map(|fields| {
        let fields = fields
            .iter()
            .map(|(name, value)| [&short(name)[..], value].concat());
        headers(&fields.collect::<Vec<_>>().concat())
    });
    let anything =
        (any::<u16>(), vec(any::<u8>(), 0..200)).prop_map(|(flags, values)| header(9, flags, &values));
    // A header of which some bytes after the fixed part were changed.
    let changed =
        (table, vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)).prop_map(|(mut header, changes)| {
            let end = header.len() - 1;
            for (place, byte) in changes {
                let part = &mut header[19..end];
                part[place.index(part.len())] = byte;
            }
            header
        });
    prop_oneof![3 => changed, 1 => anything]
}

proptest! {
    /// Whatever a header is, lapin reads it; in whatever pieces it comes, the same passes.
    #[test]
    fn any_header_is_one_that_lapin_reads(header in any_header(), piece in 1_usize..50, body in 0_usize..3_000) {
        let mut message = deliver(b"relay.events", b"a.b");
        message.extend(&header);
        message.extend(frame(3, &vec![b'x'; body]));
        let out = passed(&message);
        prop_assert!(read(&out).len() >= 2);
        let (mut frames, mut pieces) = (Frames::new(limits()), Vec::new());
        for part in message.chunks(piece) {
            frames.pass(part, &mut pieces).unwrap();
        }
        prop_assert_eq!(&pieces, &out);
    }

    /// A well-formed header within the limits stays as it is, byte for byte.
    #[test]
    fn a_harmless_header_stays_as_it_is(values in vec(good_value(), 0..6)) {
        let fields: Vec<u8> = values.iter().flat_map(|value| [&short(b"a")[..], value].concat()).collect();
        let header = headers(&fields);
        for exchange in [&b"relay.events"[..], b"relay.dead"] {
            let message = [deliver(exchange, b"a.b"), header.clone()].concat();
            let out = passed(&message);
            prop_assert!(read(&out).len() == 2 && out == message);
        }
    }
}
