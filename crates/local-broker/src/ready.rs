//! Whether a broker answers.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const POLL: Duration = Duration::from_millis(50);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What an AMQP 0-9-1 client says first.
const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// What a frame must hold to be the answer: a method on channel 0, its size, class and method.
const METHOD_FRAME: u8 = 1;
const CONNECTION_START: [u8; 4] = [0, 10, 0, 10];

/// Resolves once a broker answers on this port of loopback.
pub(crate) async fn answering(port: u16) {
    while !matches!(timeout(ANSWER_LIMIT, answers(port)).await, Ok(Ok(true))) {
        sleep(POLL).await;
    }
}

async fn answers(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(HEADER).await?;
    let mut start = [0; 11];
    stream.read_exact(&mut start).await?;
    Ok(start[0] == METHOD_FRAME && start[1..3] == [0, 0] && start[7..] == CONNECTION_START)
}
