//! Connections of clients, each of which may cost little: so long for a head, so many bytes that wait to be
//! written, and so long until some are read.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1::Builder;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long the head of a request may take, and a kept connection be idle.
const HEAD: Duration = Duration::from_secs(120);

/// How long a client may read nothing of what waits for it.
const STUCK: Duration = Duration::from_secs(30);

/// The bytes that wait for one client, and the longest head.
const BUFFER: usize = 64 << 10;

/// Takes connections until `shutdown`, and then has each end after the answer it is in.
pub(crate) async fn serve(mut listener: TcpListener, routes: Router, shutdown: &CancellationToken) {
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER);
    let service = TowerToHyperService::new(routes);
    let open = TaskTracker::new();
    loop {
        let (stream, _) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            taken = Listener::accept(&mut listener) => taken,
        };
        let connection = builder.serve_connection(TokioIo::new(limited(stream)), service.clone());
        let shutdown = shutdown.clone();
        open.spawn(async move {
            let mut connection = pin!(connection.with_upgrades());
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a client's connection broke");
            }
        });
    }
    drop(listener);
    open.close();
    open.wait().await;
}

fn limited(stream: TcpStream) -> Pin<Box<TimeoutStream<TcpStream>>> {
    // Not to be delayed is all that it asks for; if that cannot be, it is slower.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STUCK));
    Box::pin(stream)
}
