//! The way from the broker to lapin. lapin reads header tables by recursion and believes every length, so
//! what a producer put into a message is made harmless before lapin sees it: see [`frames`] and [`content`].

mod content;
mod flaw;
mod frames;

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt, TLSConfig},
    uri::AMQPUri,
};

pub(crate) use self::{
    content::MARKER,
    flaw::Cut,
    frames::{Frames, Limits, OWN_BYTES},
};

/// Bytes that are read from the socket at once.
const READ: usize = 32 * 1024;

type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// Connects, as lapin would by itself, through a [`Guarded`] stream.
pub(crate) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    limits: Limits,
) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let net = Net {
        tokio: tokio.clone(),
        limits: limits.clone(),
    };
    let connecting = async move |uri: AMQPUri, _: Runtime<RuntimeParts<Tokio, Net>>| {
        let runtime = Runtime::new(tokio.clone());
        let socket = uri
            .connect_with_config_async(TLSConfig::default(), &runtime)
            .await?;
        Ok(AsyncTcpStream::Plain(Guarded::new(socket, limits.clone())))
    };
    let runtime = Runtime::new(RuntimeParts::new(net.tokio.clone(), net));
    Connection::connector(uri, runtime, connecting, properties).await
}

/// Tokio's sockets, guarded. lapin asks for them by this type only.
#[derive(Debug, Clone)]
pub(crate) struct Net {
    tokio: Tokio,
    limits: Limits,
}

impl Reactor for Net {
    type TcpStream = Guarded;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(period)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Guarded>> + Send + 'static {
        let (connecting, limits) = (self.tokio.tcp_connect_addr(address), self.limits.clone());
        async move { Ok(Guarded::new(AsyncTcpStream::Plain(connecting.await?), limits)) }
    }
}

/// A socket to the broker. What comes from there is what [`Frames`] lets through.
pub(crate) struct Guarded {
    socket: Socket,
    frames: Frames,
    raw: Box<[u8]>,
    /// Bytes for lapin, of which those up to `given` are with it.
    ready: Vec<u8>,
    given: usize,
}

impl Guarded {
    fn new(socket: Socket, limits: Limits) -> Self {
        Self {
            socket,
            frames: Frames::new(limits),
            raw: vec![0; READ].into_boxed_slice(),
            ready: Vec::new(),
            given: 0,
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let waiting = &this.ready[this.given..];
            if !waiting.is_empty() || buffer.is_empty() {
                let count = waiting.len().min(buffer.len());
                buffer[..count].copy_from_slice(&waiting[..count]);
                this.given += count;
                return Poll::Ready(Ok(count));
            }
            this.ready.clear();
            this.given = 0;
            // None of what came may be for lapin yet, and nothing at all would mean the end.
            match Pin::new(&mut this.socket).poll_read(context, &mut this.raw) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(count)) => this.frames.pass(&this.raw[..count], &mut this.ready)?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context)
    }
}

#[cfg(test)]
mod tests;
