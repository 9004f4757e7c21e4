//! One request as it came over the wire.

use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its place in the order of arrival, from 0.
    pub index: usize,
    /// Which request with this webhook id it is, from 1.
    pub attempt: usize,
    /// The connection it came on, from 0.
    pub connection: usize,
    /// The method, such as `POST`.
    pub method: String,
    /// The path and query.
    pub path: String,
    /// The headers in their order, duplicates kept, names in lower case.
    pub headers: Arc<[(String, String)]>,
    /// The body's bytes.
    pub body: Bytes,
    /// When its last byte was read.
    pub arrived: Instant,
    /// The same by the wall clock.
    pub arrived_at: SystemTime,
    /// Whether a whole answer was sent.
    pub answered: bool,
}

impl Request {
    /// The value of a header, the first if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).first().copied()
    }

    /// Every value of a header, in their order.
    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter();
        named
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The id that receivers know an event by: `webhook-id`, or in the plain style `x-webhook-delivery`.
    pub fn webhook_id(&self) -> Option<&str> {
        let plain = || self.header("x-webhook-delivery");
        self.header("webhook-id").or_else(plain)
    }

    /// The event's own id, which its body has; `None` for what is no event.
    pub fn event_id(&self) -> Option<String> {
        let event: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        event["id"].as_str().map(str::to_owned)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}) in {:?}", self.body))
    }

    /// One line on it, for a failing test.
    pub(super) fn summary(&self) -> String {
        let Self {
            index,
            attempt,
            method,
            path,
            answered,
            ..
        } = self;
        let id = self.webhook_id().unwrap_or("no id");
        format!("#{index} {method} {path} {id} attempt {attempt} answered {answered}")
    }

    /// Whether the client will use the connection no more.
    pub(super) fn closes(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Reads the next request of a connection; `None` when there is none.
    ///
    /// `InvalidData` is a request that is no HTTP, any other error a connection that ended within one.
    pub(super) async fn read(
        stream: &mut (impl AsyncBufRead + Unpin),
        connection: usize,
    ) -> io::Result<Option<Self>> {
        let head = read_head(stream).await?;
        if head.is_empty() {
            return Ok(None);
        }
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut parsed = httparse::Request::new(&mut fields);
        if parsed.parse(&head).map_err(invalid)?.is_partial() {
            return Err(invalid("half a request head"));
        }
        let mut request = Self {
            index: 0,
            attempt: 0,
            connection,
            method: parsed.method.unwrap_or_default().to_owned(),
            path: parsed.path.unwrap_or_default().to_owned(),
            headers: parsed.headers.iter().map(field).collect(),
            body: Bytes::new(),
            arrived: Instant::now(),
            arrived_at: SystemTime::now(),
            answered: false,
        };
        request.body = request.read_body(stream).await?.into();
        request.arrived = Instant::now();
        request.arrived_at = SystemTime::now();
        Ok(Some(request))
    }

    async fn read_body(&self, stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
        if self.header("transfer-encoding").is_some() {
            return read_chunks(stream).await;
        }
        let length = self.header("content-length").unwrap_or("0");
        let mut body = vec![0; length.parse().map_err(invalid)?];
        stream.read_exact(&mut body).await?;
        Ok(body)
    }
}

/// Every byte up to and with the first empty line; none if the connection ended before.
async fn read_head(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head).await? == 0 {
            return if head.is_empty() {
                Ok(head)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
    Ok(head)
}

async fn read_chunks(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let size = usize::from_str_radix(line.trim_end(), 16).map_err(invalid)?;
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await?;
        chunk.truncate(size);
        body.append(&mut chunk);
        if size == 0 {
            return Ok(body);
        }
    }
}

fn field(header: &httparse::Header<'_>) -> (String, String) {
    let value = String::from_utf8_lossy(header.value).into_owned();
    (header.name.to_ascii_lowercase(), value)
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
