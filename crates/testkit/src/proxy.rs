//! A TCP proxy that cuts, refuses and freezes real connections.

use std::collections::VecDeque;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::lock;

/// How long a side that was cut at a limit may take to close its own end.
const LINGER: Duration = Duration::from_secs(1);

/// The two ways bytes travel through a [`Proxy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// From the upstream to whoever connected.
    Client,
    /// From whoever connected to the upstream.
    Upstream,
}

/// A wire between a client and a server that a test can cut; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    url: String,
    shared: Arc<Shared>,
    _end: DropGuard,
}

#[derive(Debug)]
struct Shared {
    /// Where to, as `host:port`; the first is tried first.
    servers: Mutex<VecDeque<String>>,
    refusing: AtomicBool,
    open: AtomicUsize,
    next_cut: Mutex<Option<(Toward, usize)>>,
    frozen: watch::Sender<bool>,
    closing: watch::Sender<Closing>,
}

/// How the connections open at this moment are to end.
#[derive(Clone, Copy, Debug)]
enum Closing {
    Fin,
    Rst,
}

/// Why a connection ended other than by both of its ends.
enum Stop {
    Told(Closing),
    Limit(Toward),
    Broken,
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

impl Proxy {
    /// Listens on a free loopback port before `upstream`: `host:port`, or a URL that names both.
    ///
    /// # Panics
    /// When `upstream` names no port.
    pub async fn start(upstream: impl Display) -> Self {
        Self::start_among([upstream]).await
    }

    /// The same before several, as a TCP load balancer: each connection goes to the next of them that
    /// takes it.
    ///
    /// # Panics
    /// When there is none, or one names no port.
    pub async fn start_among(upstreams: impl IntoIterator<Item = impl Display>) -> Self {
        let upstreams: Vec<String> = upstreams.into_iter().map(|to| to.to_string()).collect();
        let servers = servers(&upstreams);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            servers: Mutex::new(servers),
            refusing: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            next_cut: Mutex::default(),
            frozen: watch::Sender::new(false),
            closing: watch::Sender::new(Closing::Fin),
        });
        let url = upstreams[0].replacen(authority(&upstreams[0]), &addr.to_string(), 1);
        let end = CancellationToken::new();
        tokio::spawn(
            end.clone()
                .run_until_cancelled_owned(accept(listener, shared.clone())),
        );
        Self {
            addr,
            url,
            shared,
            _end: end.drop_guard(),
        }
    }

    /// Where to connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The first upstream as it was given, with this proxy's address in the place of the server's.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Brings new connections to another upstream from now on; open ones stay.
    ///
    /// # Panics
    /// When it names no port.
    pub fn lead_to(&self, upstream: impl Display) {
        *lock(&self.shared.servers) = servers(&[upstream.to_string()]);
    }

    /// How many connections are open through it.
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Cuts every open connection with a RST to both sides; new ones are accepted.
    pub fn cut(&self) {
        self.shared.closing.send_replace(Closing::Rst);
    }

    /// Closes every open connection with a FIN to both sides; new ones are accepted.
    pub fn close(&self) {
        self.shared.closing.send_replace(Closing::Fin);
    }

    /// Closes new connections at once, from now on or no longer; open ones stay.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
    }

    /// Lets no byte through in either direction, from now on or no longer; connections stay open.
    pub fn freeze(&self, freeze: bool) {
        self.shared.frozen.send_replace(freeze);
    }

    /// Closes the next connection after exactly `bytes` bytes have gone `toward` one side.
    pub fn cut_after(&self, toward: Toward, bytes: usize) {
        *lock(&self.shared.next_cut) = Some((toward, bytes));
    }
}

impl Shared {
    /// A connection to the next of the servers that takes it.
    async fn connect(&self) -> Option<TcpStream> {
        let servers = {
            let mut servers = lock(&self.servers);
            let turn = servers.clone();
            servers.rotate_left(1);
            turn
        };
        for server in servers {
            if let Ok(stream) = TcpStream::connect(server).await {
                return Some(stream);
            }
        }
        None
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if shared.refusing.load(Ordering::SeqCst) {
            let _ = client.set_zero_linger();
            continue;
        }
        let closing = shared.closing.subscribe();
        let cut = lock(&shared.next_cut).take();
        connections.spawn(connection(client, cut, closing, shared.clone()));
    }
}

async fn connection(
    mut client: TcpStream,
    cut: Option<(Toward, usize)>,
    mut closing: watch::Receiver<Closing>,
    shared: Arc<Shared>,
) {
    let Some(mut server) = shared.connect().await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let _open = Open::new(&shared.open);
    let limit = |side| cut.filter(|(toward, _)| *toward == side);
    let stop = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let down = pump(from_server, to_client, limit(Toward::Client), &shared.frozen);
        let up = pump(from_client, to_server, limit(Toward::Upstream), &shared.frozen);
        tokio::select! {
            biased;
            _ = closing.changed() => Err(Stop::Told(*closing.borrow())),
            end = async { tokio::try_join!(down, up) } => end.map(drop),
        }
    };
    match stop {
        Err(Stop::Told(Closing::Rst)) => {
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
        Err(Stop::Limit(Toward::Client)) => {
            drop(server);
            finish(client).await;
        }
        Err(Stop::Limit(Toward::Upstream)) => {
            drop(client);
            finish(server).await;
        }
        Ok(()) | Err(Stop::Told(Closing::Fin) | Stop::Broken) => {}
    }
}

/// Carries bytes until the end of `from`, and then ends `to`.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    limit: Option<(Toward, usize)>,
    frozen: &watch::Sender<bool>,
) -> Result<(), Stop> {
    let mut frozen = frozen.subscribe();
    let mut limit = limit;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let room = match limit {
            Some((toward, 0)) => return Err(Stop::Limit(toward)),
            Some((_, left)) => left.min(buffer.len()),
            None => buffer.len(),
        };
        let n = from.read(&mut buffer[..room]).await?;
        let _ = frozen.wait_for(|frozen| !frozen).await;
        if n == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&buffer[..n]).await?;
        if let Some((_, left)) = &mut limit {
            *left -= n;
        }
    }
}

/// Closes so that what was written still arrives: unread bytes would turn the FIN into a RST.
async fn finish(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let _ = timeout(LINGER, io::copy(&mut stream, &mut io::sink())).await;
}

/// Counts a connection while it is held.
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn servers(upstreams: &[String]) -> VecDeque<String> {
    assert!(!upstreams.is_empty(), "no upstream");
    let server = |upstream: &String| {
        let server = authority(upstream).to_owned();
        assert!(server.contains(':'), "no host:port in {upstream:?}");
        server
    };
    upstreams.iter().map(server).collect()
}

/// The `host:port` of a URL, or the whole text if it is no URL.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests;
