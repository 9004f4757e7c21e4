//! The HTTP client of all endpoints: what it takes from them is bounded in bytes and in time.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    rt,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection, HttpConnector},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower_service::Service;

use crate::{resolver::Resolver, tls};

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

/// How many idle connections are kept for another request. Each takes some 27 KiB, with TLS more; of a
/// thousand endpoints all could have several.
const KEPT: usize = 1_024;

/// A client that follows no redirect, asks no proxy, unpacks nothing and sends no request twice.
pub(crate) struct Client {
    connections: legacy::Client<Whole, Full<Bytes>>,
    kept: usize,
    open: Arc<AtomicUsize>,
    busy: Arc<AtomicUsize>,
}

impl Client {
    /// The client of all endpoints.
    ///
    /// # Errors
    /// The system's root certificates cannot be loaded.
    pub(crate) fn new(resolver: Resolver) -> Result<Self, rustls::Error> {
        Self::keeping(KEPT, resolver)
    }

    fn keeping(kept: usize, resolver: Resolver) -> Result<Self, rustls::Error> {
        let open = Arc::default();
        Ok(Self {
            connections: connections(Arc::clone(&open), resolver)?,
            kept,
            open,
            busy: Arc::default(),
        })
    }

    /// Sends a request; where idle connections are enough already, as the last one of its own. What it
    /// returns beside the answer is to be held until that is read.
    pub(crate) async fn request(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Counted), legacy::Error> {
        let busy = Counted::by(&self.busy);
        if self.idle() >= self.kept {
            let close = HeaderValue::from_static("close");
            request.headers_mut().insert(CONNECTION, close);
        }
        Ok((self.connections.request(request).await?, busy))
    }

    /// Requests under way hold connections that are nobody else's to use.
    fn idle(&self) -> usize {
        let (open, busy) = (&self.open, &self.busy);
        open.load(Ordering::Relaxed)
            .saturating_sub(busy.load(Ordering::Relaxed))
    }
}

/// Counts for one until it is dropped.
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn by(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn connections(
    open: Arc<AtomicUsize>,
    resolver: Resolver,
) -> Result<legacy::Client<Whole, Full<Bytes>>, rustls::Error> {
    let mut http = HttpConnector::new_with_resolver(resolver);
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(ALIVE));
    http.set_keepalive_interval(Some(ALIVE));
    http.set_keepalive_retries(Some(3));
    #[cfg(target_os = "linux")]
    http.set_tcp_user_timeout(Some(ALIVE * 2));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls::config()?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(Connector { http, open });
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http1_max_buf_size(BUFFER)
        .build(Whole(connector)))
}

/// Makes connections that take turns.
#[derive(Clone)]
struct Connector {
    http: HttpConnector<Resolver>,
    open: Arc<AtomicUsize>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TakesTurns>;
    type Error = <HttpConnector<Resolver> as Service<Uri>>::Error;
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
                _open: Counted::by(&open),
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
    _open: Counted,
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

/// Makes connections that end as TCP's do, with TLS or without.
#[derive(Clone)]
struct Whole(HttpsConnector<Connector>);

impl Service<Uri> for Whole {
    type Response = EndsQuietly<MaybeHttpsStream<TokioIo<TakesTurns>>>;
    type Error = <HttpsConnector<Connector> as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move { connecting.await.map(EndsQuietly) })
    }
}

/// A connection whose other side may end it without TLS's `close_notify`, as many servers do. HTTP knows by
/// itself whether an answer was whole: it has a length, or chunks, or nothing but this end.
struct EndsQuietly<S>(S);

impl<S: rt::Read + Unpin> rt::Read for EndsQuietly<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            // Nothing was read, which is the end.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

impl<S: rt::Write + Unpin> rt::Write for EndsQuietly<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}

impl<S: Connection> Connection for EndsQuietly<S> {
    fn connected(&self) -> Connected {
        self.0.connected()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::BodyExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;

    /// A server that says of each request whether it is the last of its connection, and answers when told.
    struct Server {
        url: String,
        requests: mpsc::UnboundedReceiver<(bool, TcpStream)>,
        waiting: VecDeque<TcpStream>,
        back: mpsc::UnboundedSender<TcpStream>,
    }

    impl Server {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let (heard, requests) = mpsc::unbounded_channel();
            let (back, mut answered) = mpsc::unbounded_channel();
            tokio::spawn(async move {
                loop {
                    let stream = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap().0,
                        Some(stream) = answered.recv() => stream,
                    };
                    tokio::spawn(hear(stream, heard.clone()));
                }
            });
            Self {
                url,
                requests,
                waiting: VecDeque::new(),
                back,
            }
        }

        /// Whether the next request is the last of its connection.
        async fn next(&mut self) -> bool {
            let (last, stream) = self.requests.recv().await.unwrap();
            self.waiting.push_back(stream);
            last
        }

        async fn answer_first(&mut self) {
            let mut stream = self.waiting.pop_front().unwrap();
            stream
                .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                .await
                .unwrap();
            let _ = self.back.send(stream);
        }
    }

    async fn hear(mut stream: TcpStream, heard: mpsc::UnboundedSender<(bool, TcpStream)>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let _ = heard.send((head.contains("\r\nconnection: close\r\n"), stream));
    }

    async fn get(client: &Client, url: &str) {
        let request = Request::get(url).body(Full::default()).unwrap();
        let (response, _busy) = client.request(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }

    #[tokio::test]
    async fn connections_beyond_those_that_are_kept_end_with_their_request() {
        let client = Client::keeping(1, Resolver::new(None)).unwrap();
        let mut server = Server::start().await;
        let url = server.url.clone();
        let slow = get(&client, &url);
        let others = async {
            assert!(!server.next().await);
            for _ in 0..2 {
                let asked = async {
                    let last = server.next().await;
                    server.waiting.rotate_right(1);
                    server.answer_first().await;
                    last
                };
                let ((), last) = tokio::join!(get(&client, &url), asked);
                assert!(!last, "who is slow takes no connection from others");
            }
            server.answer_first().await;
        };
        tokio::join!(slow, others);
        assert_eq!(client.idle(), 2);
        let last = async {
            let last = server.next().await;
            server.answer_first().await;
            last
        };
        let ((), last) = tokio::join!(get(&client, &url), last);
        assert!(last, "one idle connection is enough");
    }
}
