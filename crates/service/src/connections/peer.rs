use std::{
    fmt,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::Notify;

use super::room::Room;

/// The bytes that each head may have before it draws on what all share.
const OWN_HEAD: usize = 8 << 10;

/// The client at the other end of a connection.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    address: Option<IpAddr>,
    room: Arc<Room>,
    trusted: AtomicBool,
    /// Twice the requests that were answered, and one more while one is answered.
    turn: AtomicU64,
    upgraded: AtomicBool,
    unread: AtomicBool,
    ends: AtomicBool,
    left: AtomicBool,
    heads: AtomicUsize,
    idle_key: AtomicU64,
    evicted: Notify,
    /// The task that reads the connection while an answer is under way.
    reader: AtomicWaker,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("address", &self.0.address)
            .finish_non_exhaustive()
    }
}

impl Peer {
    pub(super) fn new(address: Option<IpAddr>, room: Arc<Room>) -> Self {
        Self(Arc::new(Inner {
            address,
            room,
            trusted: AtomicBool::new(false),
            turn: AtomicU64::new(0),
            upgraded: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            left: AtomicBool::new(false),
            heads: AtomicUsize::new(0),
            idle_key: AtomicU64::new(0),
            evicted: Notify::new(),
            reader: AtomicWaker::new(),
        }))
    }

    /// The client's address; of IPv6, its network of 64 bits. `None` if many clients share the address.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.address
    }

    /// Notes that the client has presented a good token.
    pub fn trust(&self) {
        if !self.0.trusted.swap(true, Ordering::Relaxed) {
            self.0.room.trust(self);
        }
    }

    /// Tells whether the client has presented a good token over this connection.
    pub fn is_trusted(&self) -> bool {
        self.0.trusted.load(Ordering::Relaxed)
    }

    /// Has the connection end with the answer that is under way.
    pub fn end(&self) {
        self.0.ends.store(true, Ordering::Relaxed);
    }

    /// The most connections of the server at this moment.
    pub fn most(&self) -> usize {
        self.0.room.most()
    }

    pub(super) fn idle_key(&self) -> &AtomicU64 {
        &self.0.idle_key
    }

    pub(super) fn evict(&self) {
        self.0.evicted.notify_one();
    }

    /// Resolves when the connection is to make room for another.
    pub(super) async fn evicted(&self) {
        self.0.evicted.notified().await;
    }

    /// Begins an answer, which is over when what this returns is dropped.
    pub(super) fn begin(&self) -> UnderWay {
        self.0.turn.fetch_add(1, Ordering::Relaxed);
        self.0.room.works(self);
        UnderWay(self.clone())
    }

    /// Has the reader look again when the answer is over: the time of the next request begins then.
    pub(super) fn wake_when_answered(&self, waker: &Waker) {
        self.0.reader.register(waker);
    }

    /// The number of requests that were answered; `None` while one is, or the connection is no longer HTTP.
    pub(super) fn waits(&self) -> Option<u64> {
        let turn = self.0.turn.load(Ordering::Relaxed);
        let waits = turn.is_multiple_of(2) && !self.0.upgraded.load(Ordering::Relaxed);
        waits.then_some(turn / 2)
    }

    pub(super) fn upgrade(&self) {
        self.0.upgraded.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.0.upgraded.load(Ordering::Relaxed)
    }

    pub(super) fn ends(&self) -> bool {
        self.0.ends.load(Ordering::Relaxed)
    }

    /// Tells whether a request's body was given up before its end.
    pub(super) fn has_unread(&self) -> bool {
        self.0.unread.load(Ordering::Relaxed)
    }

    /// Makes room for a head that has so many bytes now, `new` of them new.
    pub(super) fn take_head(&self, bytes: usize, new: usize) -> bool {
        let drawn = bytes.saturating_sub(OWN_HEAD).min(new);
        if !self.0.room.take_head(drawn) {
            return false;
        }
        self.0.heads.fetch_add(drawn, Ordering::Relaxed);
        true
    }

    /// Gives back what the head took.
    pub(super) fn head_is_done(&self) {
        let drawn = self.0.heads.swap(0, Ordering::Relaxed);
        self.0.room.give_head(drawn);
    }

    /// Tells whether the connection is closed. What was answered over it may still be dropped.
    pub(super) fn has_left(&self) -> bool {
        self.0.left.load(Ordering::Relaxed)
    }

    /// Notes that the connection is closed.
    pub(super) fn leave(&self) {
        self.0.left.store(true, Ordering::Relaxed);
        self.head_is_done();
        self.0.room.leave(self);
    }

    /// A request's body, which tells when it is given up before its end.
    pub(super) fn watched(&self, body: Incoming) -> Watched {
        Watched {
            is_over: body.is_end_stream(),
            body,
            peer: self.clone(),
        }
    }
}

/// An answer that is under way.
pub(super) struct UnderWay(Peer);

impl UnderWay {
    /// The answer's body, with whose end the answer is over.
    pub(super) fn over(self, body: Body) -> Answer {
        Answer {
            body,
            _under_way: self,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.head_is_done();
        self.0.0.turn.fetch_add(1, Ordering::Relaxed);
        if !self.0.is_upgraded() {
            self.0.0.room.rests(&self.0);
            self.0.0.reader.wake();
        }
    }
}

/// The body of an answer.
pub(super) struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request.
pub(super) struct Watched {
    body: Incoming,
    peer: Peer,
    is_over: bool,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.is_over = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.is_over {
            self.peer.0.unread.store(true, Ordering::Relaxed);
        }
    }
}
