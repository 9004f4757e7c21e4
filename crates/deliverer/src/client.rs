//! The HTTP client of all endpoints: what it takes from them is bounded in bytes and in time.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
    vec,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection, HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower_service::Service;

use crate::shortage;

/// Less than the 5 s after which many servers close an idle connection. A request that is on its way
/// just then fails, and costs an attempt.
const IDLE: Duration = Duration::from_secs(4);

/// How long a connection may be silent before the system asks whether the other side is still there. One
/// that vanished without a word would else hold its socket as long as the endpoint's timeout allows.
const ALIVE: Duration = Duration::from_secs(15);

/// The longest head of an answer, and the most of its body that waits to be read, in bytes.
const BUFFER: usize = 64 * 1024;

/// How much a connection may read before others have their turn, in bytes.
const TURN: usize = 32 * 1024;

/// How many connections are kept for another request. Each takes some 27 KiB, with TLS more; of a thousand
/// endpoints all could have several.
const KEPT: usize = 1_024;

/// A client that follows no redirect, asks no proxy, unpacks nothing and sends no request twice.
pub(crate) struct Client {
    connections: legacy::Client<HttpsConnector<Connector>, Full<Bytes>>,
    open: Arc<AtomicUsize>,
}

impl Client {
    /// The client of all endpoints.
    ///
    /// # Errors
    /// The system's root certificates cannot be loaded.
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        let open = Arc::new(AtomicUsize::new(0));
        let connections = connections(Arc::clone(&open))?;
        Ok(Self { connections, open })
    }

    /// Sends a request; where there are connections enough already, as the last one of its own.
    pub(crate) async fn request(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, legacy::Error> {
        if self.open.load(Ordering::Relaxed) >= KEPT {
            let close = HeaderValue::from_static("close");
            request.headers_mut().insert(CONNECTION, close);
        }
        self.connections.request(request).await
    }
}

/// Counts a connection until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn one_more(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn connections(
    open: Arc<AtomicUsize>,
) -> Result<legacy::Client<HttpsConnector<Connector>, Full<Bytes>>, rustls::Error> {
    let tls = rustls::ClientConfig::builder()
        .with_platform_verifier()?
        .with_no_client_auth();
    let mut http = HttpConnector::new_with_resolver(SystemResolver);
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(ALIVE));
    http.set_keepalive_interval(Some(ALIVE));
    http.set_keepalive_retries(Some(3));
    #[cfg(target_os = "linux")]
    http.set_tcp_user_timeout(Some(ALIVE * 2));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(Connector { http, open });
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http1_max_buf_size(BUFFER)
        .build(connector))
}

/// Makes connections that take turns.
#[derive(Clone)]
struct Connector {
    http: HttpConnector<SystemResolver>,
    open: Arc<AtomicUsize>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TakesTurns>;
    type Error = <HttpConnector<SystemResolver> as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.http.call(uri);
        let open = Arc::clone(&self.open);
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            Ok(TokioIo::new(TakesTurns {
                stream,
                read: 0,
                _open: Open::one_more(&open),
            }))
        })
    }
}

/// A connection that lets others go on now and then. An answer can be of such a kind that hyper reads on
/// as long as there is something to read, such as `100 Continue` without end, and looks neither at the
/// time nor at whether anybody still waits for it.
struct TakesTurns {
    stream: TcpStream,
    /// What was read in this turn.
    read: usize,
    _open: Open,
}

impl AsyncRead for TakesTurns {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read >= TURN {
            self.read = 0;
            ready!(pin!(tokio::task::yield_now()).poll(cx)); // wakes this task after the others
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match polled {
            Poll::Ready(_) => self.read += buf.filled().len() - before,
            Poll::Pending => self.read = 0,
        }
        polled
    }
}

impl AsyncWrite for TakesTurns {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

impl Connection for TakesTurns {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

/// The system's resolver, with errors that can be told from others.
#[derive(Clone)]
struct SystemResolver;

/// A host's name that leads nowhere.
#[derive(Debug, thiserror::Error)]
#[error("{host} does not resolve")]
pub(crate) struct Unresolved {
    host: String,
    source: io::Error,
}

impl Service<Name> for SystemResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Unresolved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unresolved>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await;
            match found.map(|addresses| addresses.collect::<Vec<_>>()) {
                Ok(addresses) => Ok(addresses.into_iter()),
                Err(source) => {
                    let source = shortage::behind(source);
                    Err(Unresolved { host, source })
                }
            }
        })
    }
}
