//! What a receiver may do with a request, from a good answer to bytes that are none.

use std::time::Duration;

use bytes::Bytes;

/// What to do with one request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// An honest answer; see [`Answer::status`].
    Reply(Reply),
    /// Silence until [`Receiver::release`](super::Receiver::release), then a 204.
    Hold,
    /// A RST instead of an answer.
    Reset,
    /// A good head and the half of its body, then a RST.
    ResetMidway,
    /// Bytes that are no HTTP, then the end of the connection.
    Garbage,
    /// A 200 whose body never ends: `chunk` bytes, then a pause of `every`, and again.
    DripBody {
        /// The pause between two chunks.
        every: Duration,
        /// The bytes of one chunk.
        chunk: usize,
    },
    /// A 200 whose body never ends, as fast as it is read.
    EndlessBody,
    /// A 200 whose headers never end, as fast as they are read.
    EndlessHeaders,
    /// A 200 that promises more body than comes before the end of the connection.
    ShortBody,
    /// A 204 that keeps the connection alive by its headers, and then the end of it.
    CloseIdle,
    /// Any bytes at all.
    Raw(Bytes, Then),
}

/// What follows raw bytes.
#[derive(Clone, Debug)]
pub enum Then {
    /// Nothing: the connection is kept for the next request.
    Stay,
    /// The end of the connection.
    Close,
    /// A RST.
    Reset,
    /// These bytes again and again, each time after a pause, until the client hangs up.
    Repeat(Bytes, Duration),
}

/// A status with headers and a body.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    pub(super) after: Duration,
}

impl Answer {
    /// An honest answer without a body, at once.
    pub fn status(status: u16) -> Self {
        Self::Reply(Reply::new(status))
    }

    /// These bytes, and then so.
    pub fn raw(bytes: impl Into<Bytes>, then: Then) -> Self {
        Self::Raw(bytes.into(), then)
    }

    /// With a header more.
    ///
    /// # Panics
    /// When this is no [`Answer::Reply`].
    #[track_caller]
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        let header = (name.to_owned(), value.to_string());
        self.reply().headers.push(header);
        self
    }

    /// With this body.
    ///
    /// # Panics
    /// When this is no [`Answer::Reply`].
    #[track_caller]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.reply().body = body.into();
        self
    }

    /// With a delay before it.
    ///
    /// # Panics
    /// When this is no [`Answer::Reply`].
    #[track_caller]
    pub fn after(mut self, delay: Duration) -> Self {
        self.reply().after = delay;
        self
    }

    #[track_caller]
    fn reply(&mut self) -> &mut Reply {
        match self {
            Self::Reply(reply) => reply,
            other => panic!("{other:?} takes no header, body or delay"),
        }
    }
}

impl Then {
    /// These bytes again and again, as fast as they are read.
    pub fn endless(bytes: impl Into<Bytes>) -> Self {
        Self::Repeat(bytes.into(), Duration::ZERO)
    }
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            after: Duration::ZERO,
        }
    }

    /// Whether it announces the end of the connection.
    pub(super) fn closes(&self) -> bool {
        let mut headers = self.headers.iter();
        headers.any(|(name, value)| {
            name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
        })
    }

    /// The bytes on the wire.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} \r\n", self.status);
        if !matches!(self.status, 204 | 304) {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        [head.as_bytes(), &self.body].concat()
    }
}
