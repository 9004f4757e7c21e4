//! What every answer says of itself, whatever it is an answer to.

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::Response,
};

/// The headers of every answer. A proxy must not hand one client's answer to another, so none is stored: a
/// client that wants to know whether there is news keeps `ETag` and `Last-Modified` itself.
const EVERYWHERE: [(HeaderName, HeaderValue); 3] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    // Access tokens stand in URLs.
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// Adds them to an answer, in place of what it says of the same.
pub(crate) async fn add(mut response: Response) -> Response {
    for (name, value) in EVERYWHERE {
        response.headers_mut().insert(name, value);
    }
    response
}
