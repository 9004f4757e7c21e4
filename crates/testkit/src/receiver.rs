//! A webhook receiver on a real socket, which records every request and misbehaves on demand.

mod answer;
mod connection;
mod request;

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Display};
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use answer::{Answer, Reply, Then};
pub use request::Request;

use crate::lock;
use crate::wait::wait_until;

/// An HTTP/1.1 server on a free loopback port; it answers 204 unless told otherwise, and ends when dropped.
#[derive(Debug)]
pub struct Receiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
    door: Mutex<Option<Door>>,
}

/// The port: served, or held without listening so that nobody else takes it.
#[derive(Debug)]
enum Door {
    Open(DropGuard, JoinHandle<()>),
    Closed(TcpSocket),
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Changes at every [`Receiver::release`].
    released: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    /// How many of the requests have this webhook id, or none.
    attempts: HashMap<Option<String>, usize>,
    script: VecDeque<Answer>,
    otherwise: Otherwise,
    /// How to answer every connection whose requests are not read.
    unread: Option<Unread>,
    in_flight: usize,
    max_in_flight: usize,
    /// What came that was no HTTP request.
    broken: Vec<String>,
}

/// What is said on a connection from which nothing is read.
#[derive(Clone, Debug)]
struct Unread {
    /// Whether it is said before anything came.
    first: bool,
    bytes: Bytes,
    then: Then,
}

/// How to answer once the script is at its end.
#[derive(Clone)]
enum Otherwise {
    Always(Answer),
    By(Arc<dyn Fn(&Request) -> Answer + Send + Sync>),
}

impl Default for Otherwise {
    fn default() -> Self {
        Self::Always(Answer::status(204))
    }
}

impl fmt::Debug for Otherwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always(answer) => answer.fmt(f),
            Self::By(_) => f.write_str("By(..)"),
        }
    }
}

impl Receiver {
    /// Listens on a free loopback port.
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// The same with a window of some kilobytes, which a large request fills.
    pub async fn narrow() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self::on(socket.listen(1024).unwrap())
    }

    fn on(listener: TcpListener) -> Self {
        let addr = listener.local_addr().unwrap();
        let shared = Arc::default();
        let door = Mutex::new(Some(open(listener, &shared)));
        Self { addr, shared, door }
    }

    /// Where to POST.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.addr)
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers every next request so, once the script is at its end.
    pub fn respond_with(&self, answer: Answer) {
        lock(&self.shared.state).otherwise = Otherwise::Always(answer);
    }

    /// Decides by the request (see [`Request::webhook_id`] and [`Request::attempt`]), once the script is
    /// at its end.
    pub fn respond_by(&self, decide: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        lock(&self.shared.state).otherwise = Otherwise::By(Arc::new(decide));
    }

    /// Answers the first bytes of every next connection so, whatever they are, and reads none of them.
    pub fn respond_unread(&self, bytes: impl Into<Bytes>, then: Then) {
        self.unread(false, bytes.into(), then);
    }

    /// Begins every next connection so, as servers of other protocols do, and reads nothing from it.
    pub fn greet_with(&self, bytes: impl Into<Bytes>, then: Then) {
        self.unread(true, bytes.into(), then);
    }

    fn unread(&self, first: bool, bytes: Bytes, then: Then) {
        lock(&self.shared.state).unread = Some(Unread { first, bytes, then });
    }

    /// Appends to the script: one answer for each next request.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.shared.state).script.extend(answers);
    }

    /// Lets every [`Answer::Hold`] of this moment go, with a 204; later ones are held again.
    pub fn release(&self) {
        self.shared.released.send_replace(());
    }

    /// Every request so far, in order of arrival.
    ///
    /// # Panics
    /// When something came that is no HTTP request.
    pub fn requests(&self) -> Vec<Request> {
        let state = lock(&self.shared.state);
        assert!(state.broken.is_empty(), "not HTTP: {:?}", state.broken);
        state.requests.clone()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.state).requests.len()
    }

    /// How many requests came for one webhook id.
    pub fn attempts_of(&self, id: &str) -> usize {
        let state = lock(&self.shared.state);
        state.attempts.get(&Some(id.to_owned())).copied().unwrap_or(0)
    }

    /// How many requests wait for their answer now; a client that hangs up no longer waits.
    pub fn in_flight(&self) -> usize {
        lock(&self.shared.state).in_flight
    }

    /// The most requests that ever waited at once.
    pub fn max_in_flight(&self) -> usize {
        lock(&self.shared.state).max_in_flight
    }

    /// Waits for at least `n` requests in all, and returns all.
    ///
    /// # Panics
    /// When they do not come.
    #[track_caller]
    pub fn wait_for(&self, n: usize) -> impl Future<Output = Vec<Request>> {
        self.wait_until(format!("{n} requests"), move |requests| requests.len() >= n)
    }

    /// Waits until the requests are as wanted, and returns all.
    ///
    /// # Panics
    /// When they never are.
    #[track_caller]
    pub fn wait_until(
        &self,
        what: impl Display,
        wanted: impl Fn(&[Request]) -> bool,
    ) -> impl Future<Output = Vec<Request>> {
        let what = format!("{what} at {}", self.url());
        wait_until(what, move || {
            let requests = self.requests();
            ready(if wanted(&requests) {
                Ok(requests)
            } else {
                let last = requests.last().map(Request::summary).unwrap_or_default();
                Err(format!("{} requests, the last {last:?}", requests.len()))
            })
        })
    }

    /// Closes every connection and refuses new ones until [`Receiver::restart`]; the port stays its own.
    pub async fn stop(&self) {
        let door = lock(&self.door).take();
        let socket = match door.expect("one stop or restart at a time") {
            Door::Closed(socket) => socket,
            Door::Open(guard, serving) => {
                drop(guard);
                serving.await.unwrap();
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_reuseaddr(true).unwrap();
                socket.bind(self.addr).unwrap();
                socket
            }
        };
        *lock(&self.door) = Some(Door::Closed(socket));
    }

    /// Stops, and serves again on the same port.
    pub async fn restart(&self) {
        self.stop().await;
        let mut door = lock(&self.door);
        if let Some(Door::Closed(socket)) = door.take() {
            *door = Some(open(socket.listen(1024).unwrap(), &self.shared));
        }
    }
}

fn open(listener: TcpListener, shared: &Arc<Shared>) -> Door {
    let end = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, end.clone(), Arc::clone(shared)));
    Door::Open(end.drop_guard(), serving)
}

async fn serve(listener: TcpListener, end: CancellationToken, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    for number in 0.. {
        let accepted = end.run_until_cancelled(listener.accept()).await;
        let Some(accepted) = accepted else { break };
        let (stream, _) = accepted.expect("the receiver accepts");
        while connections.try_join_next().is_some() {}
        connections.spawn(connection::serve(stream, number, Arc::clone(&shared)));
    }
    drop(listener);
    connections.shutdown().await;
}

impl Shared {
    /// Takes a request into the records, and says how to answer it.
    fn record(self: &Arc<Self>, mut request: Request) -> (Answer, InFlight) {
        let mut state = lock(&self.state);
        request.index = state.requests.len();
        let id = request.webhook_id().map(str::to_owned);
        let attempts = state.attempts.entry(id).or_default();
        *attempts += 1;
        request.attempt = *attempts;
        state.requests.push(request.clone());
        state.in_flight += 1;
        state.max_in_flight = state.max_in_flight.max(state.in_flight);
        let otherwise = match state.script.pop_front() {
            Some(answer) => Otherwise::Always(answer),
            None => state.otherwise.clone(),
        };
        drop(state); // the decision may ask the receiver
        let in_flight = InFlight {
            index: request.index,
            shared: Arc::clone(self),
        };
        match otherwise {
            Otherwise::Always(answer) => (answer, in_flight),
            Otherwise::By(decide) => (decide(&request), in_flight),
        }
    }

    fn mark(&self, index: usize, answered: bool) {
        lock(&self.state).requests[index].answered = answered;
    }
}

/// One request that waits for its answer.
struct InFlight {
    index: usize,
    shared: Arc<Shared>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        lock(&self.shared.state).in_flight -= 1;
    }
}

#[cfg(test)]
mod tests;
