//! Which pages of browsers may read the feed (the Fetch standard, section 3.3).

use std::{str::FromStr, time::Duration};

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};
use url::Url;

/// How long a browser need not ask again what it may do.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// Where pages come from, as browsers write it; or anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str = "must be an origin as browsers send it, such as https://app.example.com or http://localhost:8080, without a path; or * for any";
        // No browser knows patterns, though a host may have a star.
        let is_origin = |url: Url| url.origin().ascii_serialization() == text && !text.contains('*');
        if text == "*" || Url::parse(text).is_ok_and(is_origin) {
            return HeaderValue::from_str(text).map(Self).map_err(|_| ALLOWED);
        }
        Err(ALLOWED)
    }
}

impl Origin {
    fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

/// Whether pages from there may read.
pub(crate) fn allows(origins: &[Origin], origin: &HeaderValue) -> bool {
    origins
        .iter()
        .any(|allowed| allowed.is_any() || allowed.0 == origin)
}

/// Tells browsers so; nothing if no page may.
pub(crate) fn layer(origins: &[Origin]) -> Option<CorsLayer> {
    const LAST_EVENT_ID: HeaderName = HeaderName::from_static(crate::feed::LAST_EVENT_ID);
    let allowed = match origins {
        [] => return None,
        any if any.iter().any(Origin::is_any) => AllowOrigin::any(),
        these => AllowOrigin::list(these.iter().map(|origin| origin.0.clone())),
    };
    let cors = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET])
        .allow_headers([
            header::AUTHORIZATION,
            header::IF_MODIFIED_SINCE,
            header::IF_NONE_MATCH,
            LAST_EVENT_ID,
        ])
        .expose_headers([header::ETAG, header::RETRY_AFTER])
        .max_age(REMEMBERED);
    Some(cors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for text in [
            "*",
            "https://app.example.com",
            "http://127.0.0.1:8080",
            "http://[::1]:1",
        ] {
            assert!(text.parse::<Origin>().is_ok(), "{text}");
        }
        for text in [
            "",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com:443",
            "https://App.example.com",
            "https://*.example.com",
            "https://user@app.example.com",
            "https://app.example.com/page",
            "file:///page.html",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_pages_of_these_origins_may_read() {
        let origins = |given: &[&str]| given.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let app = HeaderValue::from_static("https://app.example.com");
        assert!(allows(
            &origins(&["http://localhost", "https://app.example.com"]),
            &app
        ));
        assert!(allows(&origins(&["*"]), &app));
        assert!(!allows(&origins(&["https://app.example.com:8443"]), &app));
        assert!(!allows(&[], &app));
        assert!(layer(&[]).is_none());
    }
}
