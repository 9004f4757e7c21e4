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
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
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

/// The pause before the next connection is accepted after an error that may last.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// The pause between two warnings of the same error.
const SAID: Duration = Duration::from_secs(60);

/// The refused connections that are told why at once; those beyond are closed without a word.
const REFUSALS: usize = 32;

/// The most bytes that hyper holds of what is to be written to a client.
const WRITE_BUFFER: usize = 64 << 10;

/// The headers of every answer. A proxy must not hand one client's answer to another, so none is stored: a
/// client that wants to know whether there is news keeps `ETag` and `Last-Modified` itself.
pub const EVERYWHERE: [(HeaderName, HeaderValue); 3] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    // Access tokens stand in URLs.
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// The title of all refusals of the type `busy`.
pub const BUSY: &str = "The relay is busy";

/// The most that the clients of one server may use up.
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
    /// The setting that changes that number, for those who are told of it.
    pub per_address_setting: &'static str,
    /// Networks whose addresses stand for many clients each, and have no limits of their own.
    pub shared: Vec<Network>,
    /// Set if a connection must present a token to be kept beside others. A quarter of the connections is
    /// for those that have not, and the longest idle of them makes room for the next.
    pub tokens: bool,
    /// The most new connections a second that do not present one; counts only if `tokens` is set. Beyond it
    /// connections wait to be accepted.
    pub without_token_a_second: usize,
    /// The longest time from a head's first byte to its last.
    pub head_time: Duration,
    /// The longest time between an answer and the next request. It bounds half a head too that came along with
    /// the request before: what has been read of it counts for that request.
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
                accepted = async {
                    self.room.next().await;
                    listener.accept().await
                } => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.take(stream, address, &routes, shutdown, &open).await,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    let number = error.raw_os_error();
                    if said.is_none_or(|(said, at): (_, Instant)| said != number || at.elapsed() >= SAID) {
                        said = Some((number, Instant::now()));
                        let error = &error as &dyn std::error::Error;
                        warn!(error, "no connection can be accepted; trying again until it can");
                    }
                    if is_of_the_machine(&error) {
                        self.room.limited.count(Limit::FILES);
                        // One that says nothing may have the file that is missing.
                        self.room.evict();
                    }
                    sleep(AFTER_ERROR).await;
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
        // The system's own values hold if these cannot be set.
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
                // The answer takes a file for a moment, and only a few files are for that.
                if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
                    open.spawn(refuse(stream, refused, permit, Arc::clone(&self.room)));
                }
            }
        }
    }

    /// Serves one connection to its end.
    async fn converse(self, stream: ClientStream, peer: Peer, routes: Router, shutdown: CancellationToken) {
        let service = {
            let (peer, room) = (peer.clone(), Arc::clone(&self.room));
            service_fn(move |request: hyper::Request<Incoming>| {
                // At once: bytes that are read from now on belong to no head that is awaited.
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
        // The rest of the body stands before the next request, so no other request can come.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response.map(|body| Body::new(under_way.over(body))))
}

/// The type and the title of refusals of a request's target.
const URI_TOO_LONG: (&str, &str) = ("uri-too-long", "The address is too long");

fn uri_too_long(most: usize) -> Response<Body> {
    let (kind, title) = URI_TOO_LONG;
    let detail = format!("at most {most} bytes are allowed");
    let mut response = Response::new(Body::from(document(kind, 414, title, &detail)));
    *response.status_mut() = StatusCode::URI_TOO_LONG;
    let content_type = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().extend(EVERYWHERE);
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
    let everywhere = EVERYWHERE.map(|(name, value)| {
        let value = value.to_str().unwrap_or_default();
        format!("{name}: {value}\r\n")
    });
    let everywhere = everywhere.concat();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n{retry}{everywhere}connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// An answer to a head that hyper cannot read, of the same status as hyper's own answer, which begins with these
/// bytes.
fn unreadable(own: &[u8], limits: &Limits) -> Vec<u8> {
    let status = own.get(b"HTTP/1.1 ".len()..).and_then(|rest| rest.get(..3));
    let status = status.and_then(|status| StatusCode::from_bytes(status).ok());
    match status {
        Some(status @ StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => {
            let (bytes, headers) = (limits.head_bytes, limits.headers);
            let detail = format!("at most {bytes} bytes and {headers} headers are allowed");
            raw(status, "head-too-large", "The head is too large", &detail)
        }
        Some(status @ StatusCode::URI_TOO_LONG) => {
            let detail = format!("at most {} bytes are allowed", limits.uri_bytes);
            raw(status, URI_TOO_LONG.0, URI_TOO_LONG.1, &detail)
        }
        _ => {
            let detail = "the head of a request must be as HTTP/1.1 has it (RFC 9112)";
            raw(
                StatusCode::BAD_REQUEST,
                "not-http",
                "The request cannot be read",
                detail,
            )
        }
    }
}

/// Tells a client why it is refused.
async fn refuse(stream: TcpStream, refused: Refused, _permit: OwnedSemaphorePermit, room: Arc<Room>) {
    let detail = format!("too many connections: {}; come again later", refused.0);
    let answer = raw(StatusCode::SERVICE_UNAVAILABLE, "busy", BUSY, &detail);
    stream::farewell(stream, &answer, &room.thrown_away).await;
}

/// Tells whether an error of accept(2) concerns the connection alone, so that the next one may be accepted at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::CONNREFUSED
                | Errno::INTR
                | Errno::TIMEDOUT
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
        )
    )
}

/// Tells whether the machine or the process has no file or memory for a connection.
fn is_of_the_machine(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_one_connection_are_passed_over_at_once() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        for errno in [
            Errno::CONNABORTED,
            Errno::CONNRESET,
            Errno::PROTO,
            Errno::NETUNREACH,
        ] {
            assert!(is_of_one_connection(&error(errno)), "{errno}");
        }
        for errno in [
            Errno::INVAL,
            Errno::BADF,
            Errno::PERM,
            Errno::OPNOTSUPP,
            Errno::MFILE,
            Errno::NOMEM,
        ] {
            assert!(!is_of_one_connection(&error(errno)), "{errno}");
        }
        assert!(!is_of_one_connection(&io::Error::other("lasting")));
        assert!(is_of_the_machine(&error(Errno::MFILE)) && !is_of_the_machine(&error(Errno::INVAL)));
    }

    #[test]
    fn an_answer_without_a_request_has_the_headers_of_every_answer() {
        let raw = String::from_utf8(raw(StatusCode::SERVICE_UNAVAILABLE, "busy", BUSY, "later")).unwrap();
        let too_long = uri_too_long(10);
        for (name, value) in EVERYWHERE {
            let line = format!("\r\n{name}: {}\r\n", value.to_str().unwrap());
            assert!(raw.contains(&line), "{raw}");
            assert_eq!(too_long.headers().get(&name), Some(&value));
        }
    }

    #[test]
    fn an_unreadable_head_is_answered_with_the_status_of_hyper() {
        for (own, status) in [
            ("HTTP/1.1 400 Bad Request\r\n", "400 Bad Request"),
            (
                "HTTP/1.1 431 Request Header Fields Too Large\r\n",
                "431 Request Header Fields Too Large",
            ),
            ("HTTP/1.1 414 URI Too Long\r\n", "414 URI Too Long"),
            ("", "400 Bad Request"),
        ] {
            let answer = String::from_utf8(unreadable(own.as_bytes(), &crate::server::limits())).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        }
    }
}
