//! One connection to the receiver: requests in, answers or worse out.

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::answer::{Answer, Reply, Then};
use super::request::Request;
use super::{InFlight, Shared, Unread};
use crate::lock;

const PROMISE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const GARBAGE: &[u8] = b"\x16\x03\x01 220 mail ready\x00\xff\r\n\r\n";
const HALF: &[u8] = &[b'.'; 500];

/// Serves one connection to its end.
pub(super) async fn serve(stream: TcpStream, number: usize, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut client = Client {
        stream: BufReader::new(stream),
        shared,
    };
    let unread = lock(&client.shared.state).unread.clone();
    if let Some(unread) = unread {
        let _ = client.blurt(unread).await;
        return;
    }
    loop {
        let mut released = client.shared.released.subscribe(); // before anybody can see the request
        match Request::read(&mut client.stream, number).await {
            Ok(Some(request)) => {
                let closes = request.closes();
                let (answer, in_flight) = client.shared.record(request);
                let kept = client.give(answer, in_flight, released.changed()).await;
                if closes || !kept.unwrap_or(false) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let mut state = lock(&client.shared.state);
                return state.broken.push(error.to_string());
            }
            Ok(None) | Err(_) => return, // the client hung up
        }
    }
}

struct Client {
    stream: BufReader<TcpStream>,
    shared: Arc<Shared>,
}

impl Client {
    /// Gives the answer, and says whether the connection is good for another request.
    async fn give(&mut self, answer: Answer, in_flight: InFlight, released: impl Future) -> io::Result<bool> {
        match answer {
            Answer::Reply(reply) => {
                self.stays_for(sleep(reply.after)).await?;
                self.reply(&reply, in_flight).await?;
                Ok(!reply.closes())
            }
            Answer::Hold => {
                self.stays_for(released).await?;
                self.reply(&Reply::new(204), in_flight).await?;
                Ok(true)
            }
            Answer::CloseIdle => {
                self.reply(&Reply::new(204), in_flight).await?;
                Ok(false)
            }
            Answer::Raw(bytes, then) => self.raw(&bytes, then).await,
            Answer::Reset => self.raw(b"", Then::Reset).await,
            Answer::ResetMidway => self.raw(&[PROMISE, HALF].concat(), Then::Reset).await,
            Answer::ShortBody => self.raw(&[PROMISE, HALF].concat(), Then::Close).await,
            Answer::Garbage => self.raw(GARBAGE, Then::Close).await,
            Answer::DripBody { every, chunk } => {
                self.raw(CHUNKED, Then::Repeat(chunk_of(chunk), every)).await
            }
            Answer::EndlessBody => self.raw(CHUNKED, Then::endless(chunk_of(16 * 1024))).await,
            Answer::EndlessHeaders => {
                let header = "x-more: and more, and more, and more\r\n";
                self.raw(b"HTTP/1.1 200 OK\r\n", Then::endless(header)).await
            }
        }
    }

    /// Any bytes, and what follows; says whether the connection is good for another request.
    async fn raw(&mut self, bytes: &[u8], then: Then) -> io::Result<bool> {
        self.send(bytes).await?;
        match then {
            Then::Stay => return Ok(true),
            Then::Close => {}
            Then::Reset => self.stream.get_ref().set_zero_linger()?,
            Then::Repeat(piece, every) => loop {
                self.send(&piece).await?;
                if !every.is_zero() {
                    self.stays_for(sleep(every)).await?;
                }
            },
        }
        Ok(false)
    }

    /// Answers what was not read.
    async fn blurt(&mut self, Unread { first, bytes, then }: Unread) -> io::Result<()> {
        if !first {
            self.stream.get_ref().peek(&mut [0]).await?;
        }
        if self.raw(&bytes, then).await? {
            pending::<()>().await;
        }
        Ok(())
    }

    /// A whole answer. The request is done before the client can know, so that a client which asks again
    /// at once is never counted twice.
    async fn reply(&mut self, reply: &Reply, in_flight: InFlight) -> io::Result<()> {
        let index = in_flight.index;
        self.shared.mark(index, true);
        drop(in_flight);
        let sent = self.send(&reply.to_bytes()).await;
        sent.inspect_err(|_| self.shared.mark(index, false))
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Waits, and fails if the client hangs up meanwhile.
    async fn stays_for(&mut self, wait: impl Future) -> io::Result<()> {
        let hung_up = async {
            match self.stream.fill_buf().await {
                Ok([_, ..]) => pending().await,
                Ok([]) => io::ErrorKind::UnexpectedEof.into(),
                Err(error) => error,
            }
        };
        tokio::select! {
            error = hung_up => Err(error),
            _ = wait => Ok(()),
        }
    }
}

fn chunk_of(size: usize) -> Bytes {
    format!("{size:x}\r\n{}\r\n", ".".repeat(size)).into()
}
