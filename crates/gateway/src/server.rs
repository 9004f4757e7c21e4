use std::time::{Duration, Instant};

use axum::{
    Extension, Router,
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::{Next, from_fn_with_state, map_response},
    response::Response,
};
use relay_service::connections::Server;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access,
    auth::{by_access, by_token},
    cors, endpoints, events,
    feed::{consumers, poll, socket, stream},
    gateway::Gateway,
    headers, log, openapi,
    problem::{Kind, Problem},
    recover, replay, secrets, stats, waiting,
};

/// How long a client that is slow to ask or to read may hold up the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Takes requests until `shutdown`, and then finishes those under way; each has its own limits.
pub(crate) async fn serve(
    server: &Server,
    listener: TcpListener,
    gateway: &Gateway,
    shutdown: &CancellationToken,
) {
    let serving = server.serve(listener, routes(gateway.clone()), shutdown);
    tokio::select! {
        () = serving => {}
        () = async {
            shutdown.cancelled().await;
            gateway.finish().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        } => {}
    }
}

fn routes(gateway: Gateway) -> Router {
    let Described {
        open,
        readable,
        closed,
        api,
    } = Described::routes();
    for (route, method, status) in openapi::successes(&api) {
        gateway.metrics.expect(&route, method, &status);
    }
    let closed = closed
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(CompressionLayer::new())
        .layer(from_fn_with_state(gateway.clone(), by_token));
    let readable = readable
        .method_not_allowed_fallback(no_such_method)
        .layer(CompressionLayer::new())
        .layer(from_fn_with_state(gateway.clone(), by_access));
    // Around the rest, so that pages see refusals too.
    let readable = match cors::layer(&gateway.config.cors_origins) {
        Some(cors) => readable.layer(cors),
        None => readable,
    };
    open.method_not_allowed_fallback(no_such_method)
        .layer(Extension(openapi::Document::of(&api)))
        .merge(readable)
        .merge(closed)
        .layer(from_fn_with_state(gateway.clone(), observe))
        .layer(map_response(headers::add))
        .with_state(gateway)
}

/// All routes, and what they are.
struct Described {
    open: Router<Gateway>,
    readable: Router<Gateway>,
    closed: Router<Gateway>,
    api: OpenApi,
}

impl Described {
    fn routes() -> Self {
        let open = OpenApiRouter::with_openapi(openapi::base()).routes(routes!(openapi::show));
        let (open, mut api) = open.split_for_parts();
        let (readable, mut by_access) = readable().split_for_parts();
        let (closed, mut by_token) = closed().split_for_parts();
        openapi::behind(&mut by_access, &[openapi::TOKEN, openapi::ACCESS_TOKEN]);
        openapi::behind(&mut by_token, &[openapi::TOKEN]);
        api.merge(by_access);
        api.merge(by_token);
        Self {
            open,
            readable,
            closed,
            api,
        }
    }
}

/// What an access token may read, and pages of other origins.
fn readable() -> OpenApiRouter<Gateway> {
    OpenApiRouter::default()
        .routes(routes!(log::status::show))
        .routes(routes!(log::status::follow))
        .routes(routes!(poll::poll))
        .routes(routes!(stream::stream))
        .routes(routes!(socket::open))
}

/// What needs the token.
fn closed() -> OpenApiRouter<Gateway> {
    OpenApiRouter::default()
        .routes(routes!(access::create))
        .routes(routes!(events::publish, log::events::list))
        .routes(routes!(events::publish_batch))
        .routes(routes!(log::attempts::list))
        .routes(routes!(replay::replay))
        .routes(routes!(waiting::retry_event))
        .routes(routes!(waiting::cancel_event))
        .routes(routes!(waiting::retry_endpoint))
        .routes(routes!(log::deliveries::list))
        .routes(routes!(endpoints::list, endpoints::create))
        .routes(routes!(endpoints::show, endpoints::change, endpoints::remove))
        .routes(routes!(secrets::rotate))
        .routes(routes!(secrets::list))
        .routes(routes!(stats::show))
        .routes(routes!(recover::recover))
        .routes(routes!(consumers::list))
        .routes(routes!(consumers::read, consumers::remove))
        .routes(routes!(consumers::commit))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_always_the_same() {
        let json = || Described::routes().api.to_pretty_json().unwrap();
        assert_eq!(json(), json());
    }
}
