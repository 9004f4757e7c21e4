//! One connection to the receiver: requests in, answers or worse out.

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::answer::{Answer, Reply};
use super::request::Request;
use super::{InFlight, Shared};
use crate::lock;

const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const PROMISE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
const GARBAGE: &[u8] = b"\x16\x03\x01 220 mail ready\x00\xff\r\n\r\n";
const HALF: &[u8] = &[b'.'; 500];

/// Serves one connection to its end.
pub(super) async fn serve(stream: TcpStream, number: usize, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut client = Client {
        stream: BufReader::new(stream),
        shared,
    };
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
                return Ok(!reply.closes());
            }
            Answer::Hold => {
                self.stays_for(released).await?;
                self.reply(&Reply::new(204), in_flight).await?;
                return Ok(true);
            }
            Answer::CloseIdle => self.reply(&Reply::new(204), in_flight).await?,
            Answer::Reset => self.reset()?,
            Answer::ResetMidway => {
                self.send(&[PROMISE, HALF].concat()).await?;
                self.reset()?;
            }
            Answer::ShortBody => self.send(&[PROMISE, HALF].concat()).await?,
            Answer::Garbage => self.send(GARBAGE).await?,
            Answer::DripBody { every, chunk } => {
                self.send(CHUNKED).await?;
                loop {
                    self.send(&chunk_of(chunk)).await?;
                    self.stays_for(sleep(every)).await?;
                }
            }
            Answer::EndlessBody => {
                self.send(CHUNKED).await?;
                self.send_forever(&chunk_of(16 * 1024)).await?;
            }
            Answer::EndlessHeaders => {
                self.send(b"HTTP/1.1 200 OK\r\n").await?;
                self.send_forever(b"x-more: and more, and more, and more\r\n")
                    .await?;
            }
        }
        Ok(false)
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

    async fn send_forever(&mut self, bytes: &[u8]) -> io::Result<()> {
        loop {
            self.send(bytes).await?;
        }
    }

    fn reset(&self) -> io::Result<()> {
        self.stream.get_ref().set_zero_linger()
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

fn chunk_of(size: usize) -> Vec<u8> {
    format!("{size:x}\r\n{}\r\n", ".".repeat(size)).into_bytes()
}
