//! AMQP's frames as they come from the broker: a type, a channel, a length, so many bytes, and an end. Those
//! that lapin takes apart are held until they are whole and made harmless. Bodies pass as they come, as long
//! as they are no larger than a process takes; of larger ones only the beginning does.

use std::{collections::HashMap, io, mem};

use super::{
    content::{self, HEAD},
    flaw::Cut,
};
use crate::topology::Topology;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// The first byte of what a server says that speaks another version of AMQP.
const PROTOCOL: u8 = b'A';
const PROTOCOL_BYTES: usize = 8;

/// The bytes that are kept of a body that is too large: enough to tell what it was.
const KEPT: u64 = 4 * 1024;

/// The longest content header that is held, in bytes, however long a frame may be: a producer may have agreed with
/// the broker on longer frames. What is made of it has at most 96 KiB of headers.
const HEADER_BYTES: usize = 1024 * 1024;

/// Records of attempts, and events that were let in once, whatever a process is told later.
pub(crate) const OWN_BYTES: usize = 2 * 1024 * 1024;

/// Bytes beside the event in a batch of held deliveries, and in a record of one.
const BESIDE: u64 = 16 * 1024;

/// The largest messages, by the exchange they came by.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    events: String,
    dead: String,
    dispatch: String,
    holds: String,
    event_bytes: u64,
    frame_bytes: usize,
}

/// The largest message that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageLimits {
    /// Bytes of its body.
    pub(super) body: u64,
    /// Bytes of its body as a refusal tells them: those of an event that is let in, where the body of a letter
    /// may have more.
    pub(super) allowed: u64,
    /// Bytes of its headers.
    pub(super) headers: usize,
    /// Values in its headers, those in tables and lists included.
    pub(super) values: u64,
}

impl Limits {
    /// `frame_max` is the longest frame in bytes; 0 for any length.
    pub(crate) fn new(topology: &Topology, max_event_bytes: usize, frame_max: u32) -> Self {
        let frame_bytes = usize::try_from(frame_max).unwrap_or(usize::MAX);
        Self {
            events: topology.events(),
            dead: topology.dead(),
            dispatch: topology.dispatch(),
            holds: topology.holds(),
            event_bytes: u64::try_from(max_event_bytes).unwrap_or(u64::MAX),
            frame_bytes: if frame_bytes == 0 { usize::MAX } else { frame_bytes },
        }
    }

    fn of(&self, exchange: &[u8]) -> MessageLimits {
        if exchange == self.events.as_bytes() {
            return MessageLimits {
                body: self.event_bytes,
                allowed: self.event_bytes,
                headers: 64 * 1024,
                values: 256,
            };
        }
        // A letter may be of an event that was refused for its size alone, and everything that comes by
        // the broker's own doing has headers of the broker besides.
        let own = self.event_bytes.max(OWN_BYTES as u64);
        let (body, allowed) = if exchange == self.dead.as_bytes() {
            (self.event_bytes.saturating_mul(2), self.event_bytes)
        } else if exchange == self.dispatch.as_bytes() {
            // A batch of one event has a head besides.
            let batch = own.saturating_add(BESIDE);
            (batch, batch)
        } else if exchange == self.holds.as_bytes() {
            // In a record every quotation mark of an event is two bytes, and nothing in it is more.
            let record = self.event_bytes.saturating_mul(2).max(own).saturating_add(BESIDE);
            (record, record)
        } else {
            (own, own)
        };
        MessageLimits {
            body,
            allowed,
            headers: 96 * 1024,
            values: 512,
        }
    }
}

/// A stream of frames as it comes, of which only some may pass.
pub(crate) struct Frames {
    limits: Limits,
    state: State,
    /// The frame that is not whole yet, or its head.
    held: Vec<u8>,
    contents: HashMap<u16, Content>,
}

enum State {
    /// So many bytes are needed before anything is decided.
    Held(usize),
    /// Within a body frame.
    Body(Part),
}

/// A body frame: bytes that pass, then bytes that do not, then its end.
struct Part {
    pass: usize,
    drop: usize,
    ends: bool,
}

/// A message that is on its way on a channel.
enum Content {
    /// Its header comes next.
    Announced(MessageLimits),
    /// Its body is too large: so many bytes of it still pass, and so many still come.
    Cut { pass: u64, come: u64 },
}

impl Frames {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Held(HEAD),
            held: Vec::new(),
            contents: HashMap::new(),
        }
    }

    /// Takes what came from the broker, in pieces of any size, and adds what may pass to `out`.
    ///
    /// # Errors
    /// This is not AMQP.
    pub(crate) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Held(needed) => {
                    let missing = *needed - self.held.len();
                    let (now, later) = bytes.split_at(missing.min(bytes.len()));
                    self.held.extend_from_slice(now);
                    bytes = later;
                    if self.held.len() == *needed {
                        self.decide(out)?;
                    }
                }
                State::Body(part) => {
                    bytes = part.take(bytes, out);
                    if part.is_over() {
                        self.state = State::Held(HEAD);
                    }
                }
            }
        }
        Ok(())
    }

    /// Decides on what is held: a head, or a whole frame.
    fn decide(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let (kind, channel) = (self.held[0], u16::from_be_bytes([self.held[1], self.held[2]]));
        if self.held.len() > HEAD {
            match kind {
                METHOD => self.method(channel),
                HEADER => self.header(channel)?,
                _ => {}
            }
            out.append(&mut self.held);
            self.state = State::Held(HEAD);
            return Ok(());
        }
        let size = u32::from_be_bytes([self.held[3], self.held[4], self.held[5], self.held[6]]);
        let size = usize::try_from(size).map_err(io::Error::other)?;
        self.state = match kind {
            PROTOCOL => State::Held(PROTOCOL_BYTES),
            BODY => State::Body(self.body(channel, size, out)),
            HEADER if size <= self.limits.frame_bytes.max(HEADER_BYTES) => State::Held(HEAD + size + 1),
            METHOD | HEARTBEAT if size <= self.limits.frame_bytes => State::Held(HEAD + size + 1),
            METHOD | HEADER | HEARTBEAT => return Err(wrong(format!("a frame of {size} bytes"))),
            other => return Err(wrong(format!("a frame of type {other}"))),
        };
        Ok(())
    }

    /// Remembers the message that a method announces.
    fn method(&mut self, channel: u16) {
        let end = self.held.len() - 1;
        if let Some(exchange) = content::announced(&mut self.held[HEAD..end]) {
            let limits = self.limits.of(exchange);
            self.contents.insert(channel, Content::Announced(limits));
        }
    }

    fn header(&mut self, channel: u16) -> io::Result<()> {
        let limits = match self.contents.remove(&channel) {
            Some(Content::Announced(limits)) => limits,
            _ => self.limits.of(self.limits.events.as_bytes()),
        };
        let size =
            content::body_size(&mut self.held).ok_or_else(|| wrong("a short content header".into()))?;
        let come = u64::from_be_bytes(*size);
        let mut cut = Cut::default();
        if come > limits.body {
            let pass = KEPT.min(limits.body);
            *size = pass.to_be_bytes();
            self.contents.insert(channel, Content::Cut { pass, come });
            cut.body = Some((come, limits.allowed));
        }
        content::make_harmless(&mut self.held, cut, limits);
        Ok(())
    }

    /// Lets the head of a body frame pass, with the length of what does of its bytes.
    fn body(&mut self, channel: u16, size: usize, out: &mut Vec<u8>) -> Part {
        let mut head = mem::take(&mut self.held);
        let Some(Content::Cut { pass, come }) = self.contents.get_mut(&channel) else {
            out.append(&mut head);
            self.held = head; // its memory
            return Part {
                pass: size,
                drop: 0,
                ends: true,
            };
        };
        let passing = size.min(usize::try_from(*pass).unwrap_or(usize::MAX));
        *pass -= passing as u64;
        *come = come.saturating_sub(size as u64);
        if *come == 0 {
            self.contents.remove(&channel);
        }
        if passing > 0 {
            let length = u32::try_from(passing).unwrap_or(u32::MAX).to_be_bytes();
            out.extend_from_slice(&head[..3]);
            out.extend_from_slice(&length);
        }
        Part {
            pass: passing,
            drop: size - passing,
            ends: passing > 0,
        }
    }
}

impl Part {
    /// Lets pass what may of these bytes, and returns those that belong to it no more.
    fn take<'a>(&mut self, bytes: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let (now, later) = bytes.split_at(self.pass.min(bytes.len()));
        out.extend_from_slice(now);
        self.pass -= now.len();
        let dropped = self.drop.min(later.len());
        self.drop -= dropped;
        match later[dropped..].split_first() {
            Some((end, rest)) => {
                if self.ends {
                    out.push(*end);
                }
                self.drop = usize::MAX; // over
                rest
            }
            None => &[],
        }
    }

    fn is_over(&self) -> bool {
        self.drop == usize::MAX
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the broker sent {what}"))
}
