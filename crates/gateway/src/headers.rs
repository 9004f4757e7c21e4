//! Headers of every answer, whatever it is an answer to.

use axum::response::Response;
use relay_service::connections::EVERYWHERE;

/// Adds them to an answer, in place of what it says of the same.
pub(crate) async fn add(mut response: Response) -> Response {
    for (name, value) in EVERYWHERE {
        response.headers_mut().insert(name, value);
    }
    response
}
