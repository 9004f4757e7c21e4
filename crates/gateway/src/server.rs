use std::{
    io,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::authorize,
    endpoints, events,
    gateway::Gateway,
    problem::{Kind, Problem},
    secrets,
};

/// How long a client that is slow to ask or to read may hold up the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Takes requests until `shutdown`, and then finishes those under way; each has its own limits.
pub(crate) async fn serve(
    listener: TcpListener,
    gateway: &Gateway,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let routes = routes(gateway.clone());
    let serving = axum::serve(listener, routes).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        served = serving.into_future() => served,
        () = async {
            shutdown.cancelled().await;
            gateway.finish().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        } => Ok(()),
    }
}

fn routes(gateway: Gateway) -> Router {
    let endpoint = get(endpoints::show)
        .patch(endpoints::change)
        .delete(endpoints::remove);
    Router::new()
        .route("/v1/events", post(events::publish))
        .route("/v1/endpoints", get(endpoints::list).post(endpoints::create))
        .route("/v1/endpoints/{id}", endpoint)
        .route("/v1/endpoints/{id}/rotate-secret", post(secrets::rotate))
        .route("/v1/endpoints/{id}/secrets", get(secrets::list))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(gateway.clone(), authorize))
        .layer(from_fn_with_state(gateway.clone(), observe))
        .with_state(gateway)
}

async fn no_such_path() -> Problem {
    Problem::new(Kind::NotFound, "there is nothing at this path")
}

async fn no_such_method(method: Method) -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{method} is not possible here; the Allow header names what is"),
    )
}

async fn observe(
    State(gateway): State<Gateway>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let _under_way = gateway.begin();
    let started = Instant::now();
    let method = request.method().clone();
    let response = next.run(request).await;
    gateway.metrics.answered(
        route.as_ref().map(MatchedPath::as_str),
        method.as_str(),
        response.status().as_u16(),
        started.elapsed(),
    );
    response
}
