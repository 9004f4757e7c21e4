//! Clients that follow the feed in a stream and cost as little as they can.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use relay_testkit::wait_until_within;
use relay_tests::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::{http, receiver::PATIENCE};

/// An event begins so.
const MARK: &[u8] = b"\ndata: ";

/// A client of the feed, until it is dropped.
pub(crate) struct Follower {
    arrivals: Arc<Mutex<Vec<Instant>>>,
    reading: JoinHandle<()>,
}

impl Follower {
    /// Follows events of these types from now on.
    pub(crate) async fn start(world: &World, types: &str) -> Self {
        let request = http::get(world, &format!("/v1/stream?types={types}"), "");
        let mut stream = http::connect(world.api.address()).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let arrivals = Arc::default();
        let reading = tokio::spawn(read(stream, Arc::clone(&arrivals)));
        Self { arrivals, reading }
    }

    /// When each event came, once there are so many.
    pub(crate) async fn arrived(&self, count: usize) -> Vec<Instant> {
        wait_until_within(PATIENCE, "a follower's events", || async {
            let arrivals = self.arrivals.lock().unwrap();
            (arrivals.len() >= count)
                .then(|| arrivals.clone())
                .ok_or(arrivals.len())
        })
        .await
    }

    pub(crate) fn forget(&self) {
        self.arrivals.lock().unwrap().clear();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn read(mut stream: TcpStream, arrivals: Arc<Mutex<Vec<Instant>>>) {
    let mut unread = Vec::new();
    loop {
        let read = stream.read_buf(&mut unread).await.unwrap();
        assert_ne!(
            read,
            0,
            "the gateway hung up: {}",
            String::from_utf8_lossy(&unread)
        );
        let (now, begun) = (Instant::now(), marks(&unread));
        arrivals.lock().unwrap().extend(std::iter::repeat_n(now, begun));
        // A mark may have come in part.
        unread.drain(..unread.len().saturating_sub(MARK.len() - 1));
    }
}

fn marks(bytes: &[u8]) -> usize {
    let windows = bytes.windows(MARK.len());
    windows.filter(|window| *window == MARK).count()
}
