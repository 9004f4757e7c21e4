//! The HTTP server of every process. Whoever reaches its address may use up some connections, some memory
//! and some time, and never what the process needs for its own work.

mod metrics;
mod network;
mod peer;
mod room;
mod stream;

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, Response, StatusCode, header},
};
use hyper::{body::Incoming, server::conn::http1::Builder, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use rustix::{io::Errno, net::sockopt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;
use tracing::{debug, warn};

use self::{
    peer::UnderWay,
    room::{Refused, Room},
    stream::ClientStream,
};

pub use self::{
    metrics::{Limit, Limited},
    network::Network,
    peer::Peer,
};

/// How soon a connection is accepted again after the machine had no file or memory for one.
const NO_FILE: Duration = Duration::from_millis(100);

/// How often that is said while it lasts.
const SAID: Duration = Duration::from_secs(60);

/// The refused connections that are told why at once; those beyond are closed without a word.
const REFUSALS: usize = 32;

/// The most bytes that hyper holds of what is to be written to a client.
const WRITE_BUFFER: usize = 64 << 10;

/// What the clients of one server may use up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most connections at once; fewer if the process may not open that many files.
    pub connections: usize,
    /// The setting that changes that number, for those who are told of it.
    pub connections_setting: &'static str,
    /// The files that everything else in the process may need. A server takes no connection that would leave
    /// fewer, but for the first few.
    pub other_files: u64,
    /// The most connections of one address at once; of IPv6, of one network of 64 bits.
    pub per_address: usize,
    /// Networks whose addresses stand for many clients each, and have no limits of their own.
    pub shared: Vec<Network>,
    /// Whether a connection must present a token to be kept beside others. A quarter of the connections is
    /// for those that have not, and the longest idle of them makes room for the next.
    pub tokens: bool,
    /// The longest time from a head's first byte to its last.
    pub head_time: Duration,
    /// The longest time between an answer and the next request.
    pub idle_time: Duration,
    /// The most bytes of a head.
    pub head_bytes: usize,
    /// The most header fields of a head.
    pub headers: usize,
    /// The most bytes of a request's target, in bytes.
    pub uri_bytes: usize,
    /// The most bytes of all heads under way together, beyond what each of them may have in any case.
    pub head_memory: usize,
    /// The most bytes that wait for a client to read them.
    pub unsent_bytes: usize,
    /// The longest time that a client may read nothing of what waits for it.
    pub unsent_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8_192,
            connections_setting: "--max-connections (RELAY_MAX_CONNECTIONS)",
            other_files: 128,
            per_address: 256,
            shared: Network::loopback(),
            tokens: true,
            head_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(60),
            head_bytes: 64 << 10,
            headers: 100,
            uri_bytes: 8 << 10,
            head_memory: 16 << 20,
            unsent_bytes: 256 << 10,
            unsent_time: Duration::from_secs(30),
        }
    }
}

/// An HTTP/1 server with limits. Clones share them.
#[derive(Debug, Clone)]
pub struct Server {
    room: Arc<Room>,
    builder: Builder,
    refusals: Arc<Semaphore>,
}

impl Server {
    /// Sets up a server, which `name` stands for in the metrics.
    ///
    /// # Errors
    /// There is a server of this name in the registry.
    pub fn new(name: &'static str, limits: Limits, registry: &Registry) -> prometheus::Result<Self> {
        let mut builder = Builder::new();
        builder
            // Heads are timed by the stream, which tells idle clients from slow ones.
            .header_read_timeout(None)
            .timer(TokioTimer::new())
            .max_buf_size(limits.head_bytes.max(WRITE_BUFFER))
            .max_header_size(limits.head_bytes)
            .max_headers(limits.headers);
        Ok(Self {
            room: Arc::new(Room::new(name, limits, registry)?),
            builder,
            refusals: Arc::new(Semaphore::new(REFUSALS)),
        })
    }

    /// Counts what reaches a limit.
    pub fn limited(&self) -> &Limited {
        &self.room.limited
    }

    /// Serves `routes` until `shutdown`, and then has each connection end after the answer it is in. Each
    /// request has its [`Peer`] as an extension.
    pub async fn serve(&self, listener: TcpListener, routes: Router, shutdown: &CancellationToken) {
        // Connections inherit it. Where it cannot be set, the system's own bound holds.
        let kernel = self.room.limits.unsent_bytes.saturating_sub(WRITE_BUFFER) / 2;
        let _ = sockopt::set_socket_send_buffer_size(&listener, kernel.max(4 << 10));
        let open = TaskTracker::new();
        let mut said = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.take(stream, address, &routes, shutdown, &open).await,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.room.limited.count(Limit::FILES);
                    if said.is_none_or(|said: Instant| said.elapsed() >= SAID) {
                        said = Some(Instant::now());
                        let error = &error as &dyn std::error::Error;
                        warn!(error, "no connection can be accepted; trying again until it can");
                    }
                    // One that says nothing may have the file that is missing.
                    self.room.evict();
                    sleep(NO_FILE).await;
                }
            }
        }
        drop(listener);
        open.close();
        open.wait().await;
    }

    async fn take(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        routes: &Router,
        shutdown: &CancellationToken,
        open: &TaskTracker,
    ) {
        // What cannot be set is the system's own then.
        let _ = stream.set_nodelay(true);
        let patience = u32::try_from(self.room.limits.unsent_time.as_millis()).unwrap_or(u32::MAX);
        let _ = sockopt::set_tcp_user_timeout(&stream, patience);
        match self.room.admit(address.ip()).await {
            Ok(peer) => {
                let stream = ClientStream::new(stream, peer.clone(), Arc::clone(&self.room));
                open.spawn(
                    self.clone()
                        .converse(stream, peer, routes.clone(), shutdown.clone()),
                );
            }
            Err(refused) => {
                // To be told takes a file for a moment, and there are only so many for that.
                if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
                    open.spawn(refuse(stream, refused, permit));
                }
            }
        }
    }

    /// Serves one connection to its end.
    async fn converse(self, stream: ClientStream, peer: Peer, routes: Router, shutdown: CancellationToken) {
        let service = {
            let (peer, room) = (peer.clone(), Arc::clone(&self.room));
            service_fn(move |request: hyper::Request<Incoming>| {
                // At once: what is read from now on belongs to no head that is awaited.
                let under_way = peer.begin();
                answer(request, under_way, peer.clone(), routes.clone(), room.clone())
            })
        };
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection.with_upgrades());
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = peer.evicted() => return,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            if error.is_parse_too_large() {
                self.room.limited.count(Limit::HEAD_BYTES);
            }
            debug!(%error, "a client's connection broke");
        }
    }
}

/// Answers one request by the routes.
async fn answer(
    request: hyper::Request<Incoming>,
    under_way: UnderWay,
    peer: Peer,
    mut routes: Router,
    room: Arc<Room>,
) -> Result<Response<Body>, Infallible> {
    let target = request.uri().path_and_query();
    let too_long = target.is_some_and(|target| target.as_str().len() > room.limits.uri_bytes);
    let mut request: Request = request.map(|body| Body::new(peer.watched(body)));
    request.extensions_mut().insert(peer.clone());
    let mut response = if too_long {
        drop(request);
        room.limited.count(Limit::URI_BYTES);
        uri_too_long(room.limits.uri_bytes)
    } else {
        routes.call(request).await?
    };
    peer.head_is_done();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        peer.upgrade();
    } else if peer.has_unread() || peer.ends() {
        // What is left of the body stands before the next request, which therefore cannot come.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response.map(|body| Body::new(under_way.over(body))))
}

fn uri_too_long(most: usize) -> Response<Body> {
    let (kind, title) = ("uri-too-long", "The address is too long");
    let detail = format!("at most {most} bytes are allowed");
    let mut response = Response::new(Body::from(document(kind, 414, title, &detail)));
    *response.status_mut() = StatusCode::URI_TOO_LONG;
    let content_type = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// A problem document (RFC 9457).
fn document(kind: &str, status: u16, title: &str, detail: &str) -> String {
    serde_json::json!({
        "type": format!("urn:event-relay:problem:{kind}"),
        "title": title,
        "status": status,
        "detail": detail,
    })
    .to_string()
}

/// An answer as it is sent where there is no request to answer.
fn raw(status: StatusCode, kind: &str, title: &str, detail: &str) -> Vec<u8> {
    let body = document(kind, status.as_u16(), title, detail);
    let retry = match status {
        StatusCode::SERVICE_UNAVAILABLE => "retry-after: 1\r\n",
        _ => "",
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n{retry}connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Tells a client why it is refused.
async fn refuse(stream: TcpStream, refused: Refused, _permit: OwnedSemaphorePermit) {
    let detail = format!("{}; come again later", refused.0);
    let answer = raw(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        "Too many connections",
        &detail,
    );
    stream::farewell(stream, &answer).await;
}

fn is_of_one_connection(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    !matches!(
        errno,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}
