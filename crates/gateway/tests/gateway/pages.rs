//! Pages of browsers, and what they may read.

use reqwest::Method;

use crate::{
    access::{PAGE, TOKEN, handshake, ids, relay, token},
    relay::{Relay, folder},
};

/// Browsers ask nobody before a page opens a socket, so any page could read a relay on its visitor's machine.
#[tokio::test]
async fn without_a_token_only_known_pages_open_a_socket() {
    let folder = folder();
    let relay = relay(&folder, None).await;
    let access = token(&relay, "1h").await;
    let with_access = format!("/v1/socket?access_token={access}");
    for (path, origin, status) in [
        ("/v1/socket", None, 101),
        ("/v1/socket", Some(PAGE), 101),
        ("/v1/socket", Some("https://evil.example"), 403),
        ("/v1/socket", Some("null"), 403),
        (&with_access, Some("https://evil.example"), 101),
    ] {
        let mut request = handshake(&relay, path);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        assert_eq!(request.send().await.unwrap().status(), status, "{origin:?}");
    }
}

#[tokio::test]
async fn known_pages_may_read_the_feed() {
    let folder = folder();
    let relay = relay(&folder, Some(TOKEN)).await;
    let access = token(&relay, "1h").await;
    let preflight = async |path: &str, origin: &str| {
        let request = relay.request(Method::OPTIONS, path);
        let request = request
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .header(
                "access-control-request-headers",
                "authorization,if-none-match,if-modified-since",
            );
        relay.send(request).await
    };
    let read = async |path: &str, origin: &str| {
        relay
            .send(relay.request(Method::GET, path).header("origin", origin))
            .await
    };
    let allowed = "access-control-allow-origin";
    for path in ["/v1/feed", "/v1/stream", "/v1/events/1", "/v1/events/1/stream"] {
        let asked = preflight(path, PAGE).await;
        assert_eq!((asked.status, asked.header(allowed)), (200, Some(PAGE)), "{path}");
        assert_eq!(asked.header("access-control-allow-methods"), Some("GET"));
        let headers = asked.header("access-control-allow-headers").unwrap();
        for header in ["authorization", "if-none-match", "if-modified-since"] {
            assert!(headers.contains(header), "{headers}");
        }
        assert_eq!(
            preflight(path, "https://evil.example").await.header(allowed),
            None
        );
    }
    let path = format!("/v1/feed?access_token={access}");
    let page = read(&path, "http://localhost:8080").await;
    assert_eq!(ids(&page), ["1"]);
    assert_eq!(page.header(allowed), Some("http://localhost:8080"));
    assert_eq!(
        page.header("access-control-expose-headers"),
        Some("etag,retry-after")
    );
    assert_eq!(read(&path, "https://evil.example").await.header(allowed), None);
    // A page is to see why it was refused.
    let refused = read("/v1/feed", PAGE).await;
    assert_eq!((refused.status, refused.header(allowed)), (401, Some(PAGE)));
    for path in [
        "/v1/events",
        "/v1/endpoints",
        "/v1/access-tokens",
        "/v1/feed/billing",
    ] {
        assert_eq!(preflight(path, PAGE).await.header(allowed), None, "{path}");
        let request = relay.request(Method::GET, path).bearer_auth(TOKEN);
        let answer = relay.send(request.header("origin", PAGE)).await;
        assert_eq!(answer.header(allowed), None, "{path}");
    }
}

#[tokio::test]
async fn no_page_may_read_unless_it_is_told_so() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let request = relay.request(Method::GET, "/v1/feed").header("origin", PAGE);
    let page = relay.send(request).await;
    assert_eq!(
        (page.status, page.header("access-control-allow-origin")),
        (200, None)
    );
}
