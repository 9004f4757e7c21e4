//! Headers of every answer, whatever it is an answer to. hyper's own answers to what is no request of HTTP/1
//! (`400`, `431`) have none of them.

use axum::response::Response;
use relay_service::connections::EVERYWHERE;

/// Adds them to an answer, in place of what it says of the same.
pub(crate) async fn add(mut response: Response) -> Response {
    for (name, value) in EVERYWHERE {
        response.headers_mut().insert(name, value);
    }
    response
}
