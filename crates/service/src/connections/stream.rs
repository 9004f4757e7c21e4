//! A client's connection as bytes: how long it may say nothing, and how it ends so that the client reads what
//! was written to it.

use std::{
    future::poll_fn,
    io::{self, Write as _},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::http::StatusCode;
use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_io_timeout::TimeoutStream;

use super::{BUSY, Limit, peer::Peer, raw, room::Room, unreadable};

/// The time for which a connection that ends is read on after its last byte, and in all.
const SILENCE: Duration = Duration::from_secs(1);
const LINGERING: Duration = Duration::from_secs(10);

/// The most bytes that are read and thrown away at the end of a connection.
const THROWN_AWAY: usize = 64 << 20;

/// The most bytes that all connections which end throw away together in [`TURN`]: 32 MiB a second. Beyond it
/// they are read later, and their clients wait.
const THROWN_AWAY_IN_TURN: usize = (32 << 20) / 10;

/// A tenth of a second, after which more may be thrown away.
const TURN: Duration = Duration::from_millis(100);

/// A connection of a client.
pub(super) struct ClientStream {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    room: Arc<Room>,
    peer: Peer,
    /// The bytes of the head that is awaited.
    head: usize,
    /// The head that is awaited, by the number of those before.
    awaited: Option<u64>,
    until: Pin<Box<Sleep>>,
    /// The number of requests whose answers were written to the end.
    flushed: u64,
    /// The bytes still to be written of an answer that replaces hyper's own.
    replacement: Option<Bytes>,
    /// Set while the client still has to read before more is written.
    is_blocked: bool,
    /// Set once the server has ended the conversation by itself.
    is_over: bool,
    lingering: Option<Lingering>,
    /// Dropped after the stream, so that the connection counts until its file is closed.
    _leaving: Leaving,
}

/// Notes that a connection is closed.
struct Leaving(Peer);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl ClientStream {
    pub(super) fn new(stream: TcpStream, peer: Peer, room: Arc<Room>) -> Self {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(room.limits.unsent_time));
        Self {
            stream: Box::pin(stream),
            until: Box::pin(sleep_until(Instant::now() + room.limits.head_time)),
            _leaving: Leaving(peer.clone()),
            room,
            peer,
            head: 0,
            awaited: None,
            flushed: 0,
            replacement: None,
            is_blocked: false,
            is_over: false,
            lingering: None,
        }
    }

    /// Reads a part of the head that is awaited.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        answered: u64,
    ) -> Poll<io::Result<()>> {
        let (head_time, idle_time) = (self.room.limits.head_time, self.room.limits.idle_time);
        if self.awaited != Some(answered) {
            self.awaited = Some(answered);
            self.head = 0;
            let time = if answered == 0 { head_time } else { idle_time };
            self.until.as_mut().reset(Instant::now() + time);
        }
        let before = buffer.filled().len();
        if self.stream.as_mut().poll_read(cx, buffer)?.is_ready() {
            let new = buffer.filled().len() - before;
            if self.head == 0 && answered > 0 {
                self.until.as_mut().reset(Instant::now() + head_time);
            }
            self.head += new;
            if self.peer.take_head(self.head, new) {
                return Poll::Ready(Ok(()));
            }
            buffer.set_filled(before);
            self.room.limited.count(Limit::HEAD_MEMORY);
            let detail = "the heads of all requests are too large together; send it again later";
            self.end_with(cx, &raw(StatusCode::SERVICE_UNAVAILABLE, "busy", BUSY, detail));
            return self.poll_end(cx);
        }
        ready!(self.until.as_mut().poll(cx));
        let is_idle = self.head == 0 && answered > 0;
        self.room
            .limited
            .count(if is_idle { Limit::IDLE } else { Limit::HEAD_TIME });
        if self.head == 0 {
            self.is_over = true;
            return Poll::Ready(Ok(()));
        }
        let detail = format!(
            "the head of a request must arrive within {}",
            humantime::format_duration(head_time)
        );
        self.end_with(
            cx,
            &raw(
                StatusCode::REQUEST_TIMEOUT,
                "head-timeout",
                "The head took too long",
                &detail,
            ),
        );
        self.poll_end(cx)
    }

    /// Answers what is no request yet.
    fn end_with(&mut self, cx: &mut Context<'_>, answer: &[u8]) {
        self.is_over = true;
        // One that has not read the last answer would take this one for a part of it.
        if !self.is_blocked {
            let _ = self.stream.as_mut().poll_write(cx, answer);
        }
    }

    /// Waits until the client has had its time to read the answer, and then says that it has ended.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.head > 0 {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.lingering.is_none() {
            // A client that has closed already reads nothing any more.
            if ready!(self.stream.as_mut().poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
        }
        let lingering = self.lingering.get_or_insert_with(Lingering::new);
        lingering.poll(cx, self.stream.as_mut(), &self.room.thrown_away)
    }

    /// Tells whether the client may be sending bytes that nobody reads. If the connection were closed then, the
    /// client would lose the answer.
    fn may_be_sending(&self) -> bool {
        let within_a_head = self.head > 0 && self.peer.waits() == self.awaited;
        within_a_head || self.peer.has_unread() || self.peer.is_upgraded()
    }

    /// Writes an answer with the headers of every answer in place of hyper's own, which begins with these bytes.
    /// hyper answers by itself if it cannot read the head that is awaited. Returns `None` if the bytes belong to
    /// an answer of the routes.
    fn poll_replacement(&mut self, cx: &mut Context<'_>, own: &[u8]) -> Option<Poll<io::Result<()>>> {
        if self.replacement.is_none() && self.peer.waits() == Some(self.flushed) {
            self.replacement = Some(unreadable(own, &self.room.limits).into());
        }
        let left = self.replacement.as_mut()?;
        while !left.is_empty() {
            match self.stream.as_mut().poll_write(cx, left) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(bytes)) => left.advance(bytes),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        Some(Poll::Ready(Ok(())))
    }

    fn written<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.is_blocked = written.is_pending();
        if let Poll::Ready(Err(error)) = &written
            && error.kind() == io::ErrorKind::TimedOut
        {
            self.room.limited.count(Limit::UNSENT);
        }
        written
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over {
            return self.poll_end(cx);
        }
        match self.peer.waits() {
            Some(answered) => self.poll_head(cx, buffer, answered),
            None => {
                self.head = 0;
                self.peer.wake_when_answered(cx.waker());
                self.stream.as_mut().poll_read(cx, buffer)
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self.poll_replacement(cx, bytes) {
            Some(written) => written.map_ok(|()| bytes.len()),
            None => self.stream.as_mut().poll_write(cx, bytes),
        };
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bytes.first().map_or(&[][..], |first| first);
        let written = match self.poll_replacement(cx, first) {
            Some(written) => written.map_ok(|()| bytes.iter().map(|bytes| bytes.len()).sum()),
            None => self.stream.as_mut().poll_write_vectored(cx, bytes),
        };
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.as_mut().poll_flush(cx))?;
        // hyper flushes once all is written that it has of an answer.
        if let Some(answered) = self.peer.waits() {
            self.flushed = answered;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_some() || self.may_be_sending() {
            return self.poll_linger(cx).map(Ok);
        }
        self.stream.as_mut().poll_shutdown(cx)
    }
}

/// The bytes that connections throw away at their end, all together.
#[derive(Debug, Default)]
pub(super) struct ThrownAway(Mutex<Turn>);

/// A turn, since its beginning.
#[derive(Debug, Default)]
struct Turn {
    begun: Option<Instant>,
    bytes: usize,
}

impl ThrownAway {
    /// Counts bytes that were thrown away. Returns the end of this turn if nothing more may be before it.
    fn add(&self, bytes: usize) -> Option<Instant> {
        let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let begun = match turn.begun {
            Some(begun) if now < begun + TURN => begun,
            _ => {
                *turn = Turn {
                    begun: Some(now),
                    bytes: 0,
                };
                now
            }
        };
        turn.bytes += bytes;
        (turn.bytes >= THROWN_AWAY_IN_TURN).then(|| begun + TURN)
    }
}

/// The end of a connection, in which what comes is read and thrown away.
struct Lingering {
    until: Pin<Box<Sleep>>,
    end: Instant,
    left: usize,
    /// Set while `until` is not the end of the client's silence but of a turn.
    is_waiting: bool,
}

impl Lingering {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            until: Box::pin(sleep_until(now + SILENCE)),
            end: now + LINGERING,
            left: THROWN_AWAY,
            is_waiting: false,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut impl AsyncRead>,
        thrown_away: &ThrownAway,
    ) -> Poll<()> {
        let mut bytes = [0; 8 << 10];
        loop {
            if self.is_waiting {
                ready!(self.until.as_mut().poll(cx));
                self.is_waiting = false;
                self.hear_on();
            }
            if Instant::now() >= self.end {
                return Poll::Ready(());
            }
            if let Some(next) = thrown_away.add(0) {
                self.is_waiting = true;
                self.until.as_mut().reset(next.min(self.end));
                continue;
            }
            let mut buffer = ReadBuf::new(&mut bytes);
            match stream.as_mut().poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && buffer.filled().len() <= self.left => {
                    self.left -= buffer.filled().len();
                    thrown_away.add(buffer.filled().len());
                    self.hear_on();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.until.as_mut().poll(cx),
            }
        }
    }

    /// Waits for the client's next bytes from now on.
    fn hear_on(&mut self) {
        let silence = Instant::now() + SILENCE;
        self.until.as_mut().reset(silence.min(self.end));
    }
}

/// Sends a last answer to a client that may be sending itself, and closes.
pub(super) async fn farewell(stream: TcpStream, answer: &[u8], thrown_away: &ThrownAway) {
    // The first bytes of a connection always have room.
    let sent = stream.into_std().and_then(|mut stream| {
        stream.write_all(answer)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        TcpStream::from_std(stream)
    });
    if let Ok(mut stream) = sent {
        let mut lingering = Lingering::new();
        poll_fn(|cx| lingering.poll(cx, Pin::new(&mut stream), thrown_away)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connections_that_end_throw_no_more_away_together_than_fits() {
        let thrown_away = ThrownAway::default();
        let begun = Instant::now();
        let all = (0..20).map(|_| async {
            let mut lingering = Lingering::new();
            let mut endless = tokio::io::repeat(0);
            poll_fn(|cx| lingering.poll(cx, Pin::new(&mut endless), &thrown_away)).await;
            THROWN_AWAY - lingering.left
        });
        let read: usize = futures_util::future::join_all(all).await.iter().sum();
        assert_eq!(begun.elapsed().as_secs(), LINGERING.as_secs());
        let most = 101 * (THROWN_AWAY_IN_TURN + (8 << 10));
        assert!(read <= most && read > most / 2, "{read} of {most} bytes");
    }
}
