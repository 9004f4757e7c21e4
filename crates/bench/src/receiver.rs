//! A webhook receiver that costs as little as it can, because it shares the machine with what is measured:
//! it keeps of each request when it came, and nothing else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use relay_testkit::wait_until_within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::event::{Events, number_of};

/// As long as a machine full of other work may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

const TAKEN: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const REFUSED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
const READ_BYTES: usize = 4096;
const MAX_HEADERS: usize = 32;

/// How requests are answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answers {
    /// With success, at once.
    AtOnce,
    /// Never.
    Never,
    /// With 500 for so many attempts of each event, then with success.
    Failing(u32),
}

/// A server on ports of its own; it ends when dropped.
pub(crate) struct Receiver {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    serving: Vec<JoinHandle<()>>,
    /// The ports while nobody listens there, so that they stay ours.
    kept: Vec<TcpSocket>,
}

struct Shared {
    answers: Answers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    first: usize,
    events: Vec<Seen>,
    succeeded: usize,
    last: Option<Instant>,
    requests: usize,
    returns: Vec<Duration>,
    foreign: usize,
}

/// What is known of one event.
#[derive(Default, Clone)]
struct Seen {
    attempts: u32,
    refused: Option<Instant>,
    succeeded: Option<Instant>,
}

impl Receiver {
    /// Listens on so many free loopback ports.
    pub(crate) async fn start(ports: usize, answers: Answers) -> Self {
        let state = Mutex::default();
        let mut receiver = Self {
            addresses: Vec::new(),
            shared: Arc::new(Shared { answers, state }),
            serving: Vec::new(),
            kept: Vec::new(),
        };
        for _ in 0..ports {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            receiver.addresses.push(listener.local_addr().unwrap());
            receiver.serve(listener);
        }
        receiver
    }

    fn serve(&mut self, listener: TcpListener) {
        let serving = tokio::spawn(accept_all(listener, Arc::clone(&self.shared)));
        self.serving.push(serving);
    }

    /// Where to post, by port.
    pub(crate) fn url(&self, port: usize) -> String {
        format!("http://{}/hook", self.addresses[port])
    }

    /// Forgets what came, and expects these.
    pub(crate) fn expect(&self, events: &Events) {
        *self.state() = State {
            first: events.first(),
            events: vec![Seen::default(); events.count()],
            ..State::default()
        };
    }

    /// Waits until so many of the expected events were taken with success, and says when the last was.
    pub(crate) async fn arrived(&self, count: usize) -> Instant {
        wait_until_within(PATIENCE, "the deliveries", || async {
            let state = self.state();
            assert_eq!(state.foreign, 0, "requests that are no events of ours came");
            if state.succeeded < count {
                return Err(format!("{} of {count}", state.succeeded));
            }
            Ok(())
        })
        .await;
        self.state().last.unwrap()
    }

    /// Waits until so many requests came, however they were answered.
    pub(crate) async fn requested(&self, count: usize) {
        wait_until_within(PATIENCE, "the requests", || async {
            let requests = self.state().requests;
            (requests >= count).then_some(()).ok_or(requests)
        })
        .await;
    }

    /// When each expected event was first taken with success, by its number.
    pub(crate) fn arrivals(&self) -> Vec<Option<Instant>> {
        self.state().events.iter().map(|seen| seen.succeeded).collect()
    }

    /// How long after each refusal the event came again.
    pub(crate) fn returns(&self) -> Vec<Duration> {
        self.state().returns.clone()
    }

    /// Closes every connection, and refuses new ones.
    pub(crate) async fn go_away(&mut self) {
        for serving in self.serving.drain(..) {
            serving.abort();
            let _ = serving.await;
        }
        for address in &self.addresses {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(*address).unwrap();
            self.kept.push(socket);
        }
    }

    /// Listens again.
    pub(crate) fn come_back(&mut self) -> Instant {
        for socket in std::mem::take(&mut self.kept) {
            self.serve(socket.listen(1024).unwrap());
        }
        Instant::now()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

async fn accept_all(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        // Without a descriptor left it waits, as a real server would, for one to be closed.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(stream, Arc::clone(&shared)));
    }
}

/// Serves one connection until the client hangs up.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut bytes = Vec::with_capacity(READ_BYTES);
    loop {
        let Some((head, end)) = measure(&bytes) else {
            match stream.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            }
        };
        let Some(answer) = shared.take(&bytes[head..end]) else {
            // It answers never, but lets go of a client that no longer waits.
            let _ = stream.read_buf(&mut bytes).await;
            return;
        };
        bytes.drain(..end);
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// Where the first request's body begins and ends, once all of it is there.
fn measure(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes).unwrap() else {
        return None;
    };
    let length = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .map_or("0", |header| std::str::from_utf8(header.value).unwrap());
    let end = head + length.parse::<usize>().unwrap();
    (bytes.len() >= end).then_some((head, end))
}

impl Shared {
    /// Notes a request, and says how to answer it.
    fn take(&self, body: &[u8]) -> Option<&'static [u8]> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap();
        state.requests += 1;
        if matches!(self.answers, Answers::Never) {
            return None;
        }
        let Some(number) = number_of(body) else {
            state.foreign += 1;
            return Some(REFUSED);
        };
        let place = number.checked_sub(state.first);
        // A late repeat of what came in an earlier round is no part of this one.
        let Some(seen) = place.and_then(|place| state.events.get_mut(place)) else {
            return Some(TAKEN);
        };
        let returned = seen.refused.take().map(|refused| now - refused);
        let again = seen.succeeded.is_some();
        seen.attempts += 1;
        let refused = matches!(self.answers, Answers::Failing(times) if seen.attempts <= times);
        if refused {
            seen.refused = Some(now);
        } else if !again {
            seen.succeeded = Some(now);
            state.succeeded += 1;
            state.last = Some(now);
        }
        state.returns.extend(returned);
        Some(if refused { REFUSED } else { TAKEN })
    }
}
