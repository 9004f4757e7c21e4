use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    Health,
    connections::{Limits, Network, Server},
};

/// How long a client that is slow to ask or to read may hold up the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The limits of the clients that watch the process: less than a gateway's clients may use up.
pub(crate) fn limits() -> Limits {
    Limits {
        connections: 64,
        connections_setting: "for /live, /ready and /metrics",
        other_files: 0,
        per_address: 32,
        per_address_setting: "for /live, /ready and /metrics",
        shared: Network::loopback(),
        tokens: false,
        without_token_a_second: usize::MAX,
        head_time: Duration::from_secs(10),
        idle_time: Duration::from_secs(60),
        head_bytes: 64 << 10,
        headers: 100,
        uri_bytes: 8 << 10,
        head_memory: 4 << 20,
        unsent_bytes: 256 << 10,
        unsent_time: Duration::from_secs(30),
    }
}

/// Serves `/live`, `/ready` and `/metrics` until `shutdown`.
///
/// # Errors
/// The registry has a server of that kind.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    health: Health,
    shutdown: CancellationToken,
) -> prometheus::Result<()> {
    let server = Server::new("admin", limits(), &registry)?;
    let routes = Router::new()
        .route("/live", get(async || "ok"))
        .route("/ready", get(ready).with_state(health))
        .route("/metrics", get(metrics).with_state(registry));
    tokio::select! {
        () = server.serve(listener, routes, &shutdown) => {}
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        } => {}
    }
    Ok(())
}

async fn ready(State(health): State<Health>) -> Response {
    let report = health.report();
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report)).into_response()
}

async fn metrics(State(registry): State<Registry>) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            error!(%error, "could not write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
