//! Method frames that announce a message, and content headers. lapin would read them by recursion, or would not
//! understand them; this module reads all of them without recursion.

use std::ops::Range;

use super::{
    flaw::{Cut, Flaw},
    frames::MessageLimits,
};

/// The bytes before a frame's payload: type, channel, length.
pub(super) const HEAD: usize = 7;

/// The header that says what was cut. It is taken out of what producers send.
pub(crate) const MARKER: &str = "relay-cut";

/// The broker's account of why and where a message died.
const DEATHS: &[u8] = b"x-death";

/// The levels that tables and lists may nest within the headers.
const DEPTH: usize = 16;

/// Stands for a byte that is not UTF-8: the character for this, which no event's type can have.
const SUBSTITUTE: u8 = 0x1A;

/// Class, weight and body size, before the property flags.
const FIXED: usize = 2 + 2 + 8;

const HEADERS: u16 = 1 << 13;

/// The property flag that says that more flags follow. AMQP 0-9-1 has no such properties.
const MORE: u16 = 1;

/// A property's type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Table,
    Bytes(usize),
}

/// The properties in the order of their flags, from the highest bit.
const PROPERTIES: [Kind; 14] = [
    Kind::Text,     // content_type
    Kind::Text,     // content_encoding
    Kind::Table,    // headers
    Kind::Bytes(1), // delivery_mode
    Kind::Bytes(1), // priority
    Kind::Text,     // correlation_id
    Kind::Text,     // reply_to
    Kind::Text,     // expiration
    Kind::Text,     // message_id
    Kind::Bytes(8), // timestamp
    Kind::Text,     // type
    Kind::Text,     // user_id
    Kind::Text,     // app_id
    Kind::Text,     // cluster_id
];

/// The first two are the only texts that the relay reads.
const READ: usize = 2;

/// A method that announces a message has texts that are UTF-8 afterwards. Returns the exchange it came by;
/// `None` for any other method.
pub(super) fn announced(payload: &mut [u8]) -> Option<&[u8]> {
    /// Before the exchange: a short string, or so many bytes.
    enum Before {
        TextAnd(usize),
        Bytes(usize),
    }
    let before = match *payload.first_chunk()? {
        // basic.deliver: consumer tag, delivery tag, redelivered.
        [0, 60, 0, 60] => Before::TextAnd(9),
        // basic.get-ok: delivery tag, redelivered.
        [0, 60, 0, 71] => Before::Bytes(9),
        // basic.return: code, text.
        [0, 60, 0, 50] => Before::Bytes(2),
        _ => return None,
    };
    let mut at = 4;
    match before {
        Before::TextAnd(bytes) => at = text(payload, at)?.end + bytes,
        Before::Bytes(2) => at = text(payload, at + 2)?.end,
        Before::Bytes(bytes) => at += bytes,
    }
    let exchange = text(payload, at)?;
    let routing_key = text(payload, exchange.end)?;
    substitute(&mut payload[exchange.clone()]);
    substitute(&mut payload[routing_key]);
    payload.get(exchange)
}

/// The size of the body that follows a content header.
pub(super) fn body_size(frame: &mut [u8]) -> Option<&mut [u8; 8]> {
    let end = frame.len() - 1;
    let payload = frame.get_mut(HEAD..end)?;
    if payload.len() < FIXED + 2 {
        return None;
    }
    payload[4..].first_chunk_mut()
}

/// Makes a whole content header one that lapin reads without an error and without recursing deeper than
/// [`DEPTH`]. It stays as it is, byte for byte, if it is such a one already and nothing was cut.
pub(super) fn make_harmless(frame: &mut Vec<u8>, mut cut: Cut, limits: MessageLimits) {
    let (begin, end) = (HEAD + FIXED, frame.len() - 1);
    let properties = &mut frame[begin..end];
    let Some(layout) = Layout::read(properties) else {
        cut.headers = Some(Flaw::Malformed);
        let table = rebuilt(&[], cut, 0);
        replace(frame, begin..end, &[&HEADERS.to_be_bytes(), &long(&table)]);
        return;
    };
    for (number, text) in &layout.texts {
        if substitute(&mut properties[text.clone()]) && *number < READ {
            cut.headers = Some(Flaw::Property);
        }
    }
    let table = layout.table.clone().map_or(&[][..], |table| &properties[table]);
    let marked = match scan(table, limits) {
        Ok(marked) => marked,
        Err(flaw) => {
            cut.headers = Some(flaw);
            false
        }
    };
    if cut == Cut::default() && !marked {
        return;
    }
    let (room, flags) = (table.len(), layout.flags | HEADERS);
    let table = long(&rebuilt(table, cut, room));
    let old = layout.place.start + begin..layout.place.end + begin;
    replace(frame, old, &[&table]);
    frame[begin..begin + 2].copy_from_slice(&flags.to_be_bytes());
}

/// The places of the properties, from the flags on.
struct Layout {
    flags: u16,
    /// The short strings, with the number of their property.
    texts: Vec<(usize, Range<usize>)>,
    /// The fields of the header table.
    table: Option<Range<usize>>,
    /// The table with its length, or where it would be.
    place: Range<usize>,
}

impl Layout {
    /// `None` if the properties are not what the flags say.
    fn read(bytes: &[u8]) -> Option<Self> {
        let flags = u16::from_be_bytes(*bytes.first_chunk()?);
        if flags & MORE != 0 {
            return None;
        }
        let mut at = 2;
        let mut layout = Self {
            flags,
            texts: Vec::new(),
            table: None,
            place: 2..2,
        };
        for (number, kind) in PROPERTIES.into_iter().enumerate() {
            let there = flags & (1 << (15 - number)) != 0;
            let begin = at;
            match kind {
                Kind::Text if there => {
                    let text = text(bytes, at)?;
                    at = text.end;
                    layout.texts.push((number, text));
                }
                Kind::Table if there => {
                    let table = long_at(bytes, at)?;
                    at = table.end;
                    layout.table = Some(table);
                }
                Kind::Bytes(count) if there => at += count,
                _ => {}
            }
            if kind == Kind::Table {
                layout.place = begin..at;
            }
        }
        (at == bytes.len()).then_some(layout)
    }
}

/// Reads a table to its end. Returns whether it holds the header [`MARKER`].
fn scan(table: &[u8], limits: MessageLimits) -> Result<bool, Flaw> {
    // Tables and lists that are open, the innermost last: where each ends, and whether it is a table.
    let mut open = vec![(table.len(), true)];
    let (mut at, mut values, mut marked) = (0, 0, false);
    while let Some(&(end, is_table)) = open.last() {
        if at == end {
            open.pop();
            continue;
        }
        if is_table {
            let name = text(table, at).ok_or(Flaw::Malformed)?;
            at = name.end;
            let name = std::str::from_utf8(&table[name]).map_err(|_| Flaw::Name)?;
            marked |= open.len() == 1 && name == MARKER;
        }
        values += 1;
        if values > limits.values {
            return Err(Flaw::Many(limits.values));
        }
        let value = value(table, at).ok_or(Flaw::Malformed)?;
        if value.bytes.end > end {
            return Err(Flaw::Malformed);
        }
        at = value.bytes.end;
        if value.holds_values() {
            if open.len() > DEPTH {
                return Err(Flaw::Deep(DEPTH as u64));
            }
            at = value.bytes.start;
            open.push((value.bytes.end, value.kind == b'F'));
        }
    }
    if table.len() > limits.headers {
        return Err(Flaw::Large(table.len() as u64, limits.headers as u64));
    }
    Ok(marked)
}

/// A field's value, whose bytes lie within the table that was read from.
struct Value {
    kind: u8,
    bytes: Range<usize>,
}

impl Value {
    fn holds_values(&self) -> bool {
        matches!(self.kind, b'F' | b'A')
    }
}

/// The value that begins at `at` with its type; `None` if the type is unknown or its bytes are not there.
fn value(bytes: &[u8], at: usize) -> Option<Value> {
    let kind = *bytes.get(at)?;
    let begin = at + 1;
    let fixed = match kind {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' | b'U' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'L' | b'l' | b'd' | b'T' => 8,
        b'S' | b'x' | b'F' | b'A' => {
            let bytes = long_at(bytes, begin)?;
            return Some(Value { kind, bytes });
        }
        _ => return None,
    };
    let end = begin + fixed;
    (end <= bytes.len()).then_some(Value {
        kind,
        bytes: begin..end,
    })
}

/// The fields of a table one after the other, tables and lists among them unread, up to the first that is
/// malformed.
struct Fields<'a> {
    table: &'a [u8],
    at: usize,
}

struct Field<'a> {
    name: &'a [u8],
    kind: u8,
    value: &'a [u8],
    /// All of it.
    bytes: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let name = text(self.table, self.at)?;
        let value = value(self.table, name.end)?;
        let begin = std::mem::replace(&mut self.at, value.bytes.end);
        Some(Field {
            name: &self.table[name],
            kind: value.kind,
            value: &self.table[value.bytes.clone()],
            bytes: &self.table[begin..value.bytes.end],
        })
    }
}

impl Field<'_> {
    fn has_text_name(&self) -> bool {
        std::str::from_utf8(self.name).is_ok()
    }

    fn holds_values(&self) -> bool {
        matches!(self.kind, b'F' | b'A')
    }

    fn is_simple(&self) -> bool {
        self.has_text_name() && !self.holds_values()
    }
}

fn fields(table: &[u8]) -> Fields<'_> {
    Fields { table, at: 0 }
}

/// A table of what is harmless in this one and is read by somebody: the newest of the broker's deaths, and
/// simple values, as many as fit into `room` bytes; and first what was cut. Tables and lists are left empty.
fn rebuilt(table: &[u8], cut: Cut, room: usize) -> Vec<u8> {
    const AT_LEAST: usize = 1_024;
    const AT_MOST: usize = 64 * 1024;
    const VALUES: usize = 200;
    let room = room.clamp(AT_LEAST, AT_MOST);
    let mut kept = Vec::new();
    if cut != Cut::default() {
        kept.extend(field(MARKER.as_bytes(), b'S', cut.to_string().as_bytes()));
    }
    if fields(table).any(|field| field.name == DEATHS) {
        // Even without an entry that can be read, for the broker would read it.
        let newest = newest_death(table, room / 2);
        kept.extend(newest.unwrap_or_else(|| self::field(DEATHS, b'A', &[])));
    }
    let named =
        |field: &Field<'_>| field.has_text_name() && ![MARKER.as_bytes(), DEATHS].contains(&field.name);
    for field in fields(table).filter(named).take(VALUES) {
        let emptied = field
            .holds_values()
            .then(|| self::field(field.name, field.kind, &[]));
        let bytes = emptied.as_deref().unwrap_or(field.bytes);
        if kept.len() + bytes.len() <= room {
            kept.extend_from_slice(bytes);
        }
    }
    kept
}

/// The header `x-death` with nothing but the simple values of its first entry.
fn newest_death(table: &[u8], room: usize) -> Option<Vec<u8>> {
    const VALUES: usize = 32;
    let deaths = fields(table).find(|field| field.name == DEATHS && field.kind == b'A')?;
    let newest = value(deaths.value, 0).filter(|value| value.kind == b'F')?;
    let simple = fields(&deaths.value[newest.bytes]).filter(Field::is_simple);
    let entry: Vec<u8> = simple
        .take(VALUES)
        .flat_map(|field| field.bytes.to_vec())
        .collect();
    let deaths = [&b"F"[..], &long(&entry)].concat();
    (deaths.len() <= room).then(|| field(DEATHS, b'A', &deaths))
}

/// A field whose value begins with its length.
fn field(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    [&[length][..], name, &[kind], &long(value)].concat()
}

/// Bytes after their length in four bytes.
fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// The bytes of a short string whose length is at `at`.
fn text(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let begin = at + 1;
    let end = begin + usize::from(*bytes.get(at)?);
    (end <= bytes.len()).then_some(begin..end)
}

/// The bytes of what has its length in four bytes at `at`.
fn long_at(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let length = u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?);
    let begin = at + 4;
    let end = begin.checked_add(usize::try_from(length).ok()?)?;
    (end <= bytes.len()).then_some(begin..end)
}

/// Makes a text UTF-8; `false` if it was.
fn substitute(text: &mut [u8]) -> bool {
    if std::str::from_utf8(text).is_ok() {
        return false;
    }
    for byte in text.iter_mut().filter(|byte| !byte.is_ascii()) {
        *byte = SUBSTITUTE;
    }
    true
}

/// Puts these bytes in the place of others, and the frame's new length into its head.
fn replace(frame: &mut Vec<u8>, old: Range<usize>, new: &[&[u8]]) {
    frame.splice(old, new.concat());
    let payload = frame.len() - HEAD - 1;
    let length = u32::try_from(payload).unwrap_or(u32::MAX).to_be_bytes();
    frame[3..HEAD].copy_from_slice(&length);
}
