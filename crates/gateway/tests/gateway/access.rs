//! Access tokens.

use relay_event::{Event, Timestamp};
use relay_testkit::{shared_broker, wait_until};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::{
    log::record_event,
    relay::{Answer, Relay, config, folder},
};

pub(crate) const TOKEN: &str = "hunter2";

pub(crate) const PAGE: &str = "https://app.example.com";

/// A relay with a token and a page; it has events 1 to 3, of which an access token may read the first.
pub(crate) async fn relay(folder: &tempfile::TempDir, token: Option<&str>) -> Relay {
    let mut config = config(shared_broker().await, folder);
    config.token = token.map(|token| token.parse().unwrap());
    config.cors_origins = vec![PAGE.parse().unwrap(), "http://localhost:8080".parse().unwrap()];
    let relay = Relay::start_with(config).await;
    relay.until_ready().await;
    for (id, event_type, subject) in [
        ("1", "import.started", "import-42"),
        ("2", "import.started", "import-43"),
        ("3", "order.created", "import-42"),
    ] {
        record(&relay, id, event_type, subject).await;
    }
    wait_until("the gateway to see the events", || async {
        let request = relay.request(Method::GET, "/v1/feed").bearer_auth(TOKEN);
        let seen = ids(&relay.send(request).await).len();
        (seen == 3).then_some(()).ok_or(seen)
    })
    .await;
    relay
}

async fn record(relay: &Relay, id: &str, event_type: &str, subject: &str) {
    let event =
        json!({"specversion": "1.0", "id": id, "source": "/imports", "type": event_type, "subject": subject});
    record_event(relay, Event::parse(event.to_string().into()).unwrap(), &[]).await;
    relay.session().await.announce_recorded(&[]).await.unwrap();
}

async fn ask(relay: &Relay, grant: &Value) -> Answer {
    let request = relay
        .request(Method::POST, "/v1/access-tokens")
        .bearer_auth(TOKEN);
    let request = request.header("content-type", "application/json");
    relay.send(request.body(grant.to_string())).await
}

/// A token for the first event, good for so long.
pub(crate) async fn token(relay: &Relay, expires_in: &str) -> String {
    let grant = json!({"types": ["import.*"], "subject": "import-42", "expires_in": expires_in});
    let granted = ask(relay, &grant).await;
    assert_eq!(granted.status, 201, "{granted:?}");
    assert_eq!(granted.header("cache-control"), Some("no-store"));
    text(&granted.json()["access_token"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned()
}

pub(crate) fn ids(page: &Answer) -> Vec<String> {
    assert_eq!(page.status, 200, "{page:?}");
    let page = page.json();
    let items = page["events"].as_array().unwrap();
    items.iter().map(|item| text(&item["event"]["id"])).collect()
}

pub(crate) fn handshake(relay: &Relay, path: &str) -> RequestBuilder {
    let request = relay.request(Method::GET, path);
    request
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// All that comes before `end`, with it.
async fn until(response: &mut Response, end: &str) -> String {
    let mut heard = String::new();
    while !heard.contains(end) {
        let chunk = response.chunk().await.unwrap();
        let chunk = chunk.unwrap_or_else(|| panic!("ended without {end:?}: {heard}"));
        heard += std::str::from_utf8(&chunk).unwrap();
    }
    heard
}

/// What a socket says until its end, or until `end`, with the bytes of its frames.
async fn spoken(response: Response, end: &[u8]) -> Vec<u8> {
    let mut socket = response.upgrade().await.unwrap();
    let mut heard = Vec::new();
    while !heard.windows(end.len()).any(|part| part == end) {
        if socket.read_buf(&mut heard).await.unwrap() == 0 {
            break;
        }
    }
    heard
}

#[tokio::test]
async fn it_reads_what_matches_and_nothing_else() {
    let folder = folder();
    let relay = relay(&folder, Some(TOKEN)).await;
    let access = token(&relay, "1h").await;
    let with = |path: &str| format!("{path}access_token={access}");

    assert_eq!(ids(&relay.get(&with("/v1/feed?limit=9&")).await), ["1"]);
    let by_header = relay.request(Method::GET, "/v1/feed").bearer_auth(&access);
    assert_eq!(ids(&relay.send(by_header).await), ["1"]);

    let stream = relay.request(Method::GET, &with("/v1/stream?after=start&"));
    let mut stream = stream.send().await.unwrap();
    let socket = handshake(&relay, &with("/v1/socket?after=start&"));
    let socket = socket.send().await.unwrap();
    assert_eq!((stream.status().as_u16(), socket.status().as_u16()), (200, 101));
    record(&relay, "4", "import.started", "import-43").await;
    record(&relay, "5", "import.finished", "import-42").await;
    let streamed = until(&mut stream, r#""id":"5""#).await;
    let spoken = spoken(socket, br#""id":"5""#).await;
    for heard in [streamed, String::from_utf8_lossy(&spoken).into_owned()] {
        assert!(heard.contains(r#""id":"1""#), "{heard}");
        for other in ["2", "3", "4"] {
            assert!(!heard.contains(&format!(r#""id":"{other}""#)), "{heard}");
        }
    }

    let shown = relay.get(&with("/v1/events/1?")).await;
    assert_eq!(
        (shown.status, shown.json()["id"] == "1"),
        (200, true),
        "{shown:?}"
    );
    let followed = relay.get(&with("/v1/events/1/stream?")).await;
    assert!(followed.text.contains("event: settled"), "{followed:?}");
    for others in ["2", "3", "4", "none"] {
        let hidden = relay.get(&with(&format!("/v1/events/{others}?"))).await;
        hidden.problem(404, "not-found");
    }
    let hidden = relay.get(&with("/v1/events/2/stream?")).await;
    hidden.problem(404, "not-found");
}

#[tokio::test]
async fn it_does_nothing_else() {
    let folder = folder();
    let relay = relay(&folder, Some(TOKEN)).await;
    let access = token(&relay, "1h").await;
    for (method, path) in [
        (Method::POST, "/v1/access-tokens"),
        (Method::POST, "/v1/events"),
        (Method::GET, "/v1/events"),
        (Method::GET, "/v1/events/1/attempts"),
        (Method::POST, "/v1/events/1/replay"),
        (Method::POST, "/v1/events/1"),
        (Method::HEAD, "/v1/feed"),
        (Method::POST, "/v1/feed"),
        (Method::GET, "/v1/feed/billing"),
        (Method::DELETE, "/v1/feed/billing"),
        (Method::POST, "/v1/feed/billing/commit"),
        (Method::GET, "/v1/consumers"),
        (Method::GET, "/v1/deliveries"),
        (Method::GET, "/v1/endpoints"),
        (Method::POST, "/v1/endpoints"),
        (Method::GET, "/v1/else"),
    ] {
        let in_query = relay.request(method.clone(), &format!("{path}?access_token={access}"));
        let by_header = relay.request(method.clone(), path).bearer_auth(&access);
        for request in [in_query, by_header] {
            let answer = relay.send(request).await;
            assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge, Some(r#"Bearer error="insufficient_scope""#));
            if method != Method::HEAD {
                answer.problem(403, "forbidden");
            }
        }
    }
}

#[tokio::test]
async fn no_filter_stands_beside_it() {
    let folder = folder();
    let relay = relay(&folder, Some(TOKEN)).await;
    let access = token(&relay, "1h").await;
    for (path, query, field) in [
        ("/v1/feed", "types=import.%23", "types"),
        ("/v1/feed", "types=import.*&subject=import-42", "types"),
        ("/v1/feed", "source=/imports", "source"),
        ("/v1/stream", "subject=import-43", "subject"),
        ("/v1/stream", "types=%23", "types"),
        ("/v1/events/1", "source=/imports", "source"),
        ("/v1/events/1/stream", "source=/imports", "source"),
    ] {
        let refused = relay.get(&format!("{path}?access_token={access}&{query}")).await;
        assert_eq!(refused.problem(400, "invalid")["field"], field, "{path}?{query}");
    }
    let socket = handshake(
        &relay,
        &format!("/v1/socket?subject=import-43&access_token={access}"),
    );
    let refused = relay.send(socket).await;
    assert_eq!(refused.problem(400, "invalid")["field"], "subject");
    let unknown = relay
        .get(&format!("/v1/feed?access_token={access}&until=1h"))
        .await;
    assert_eq!(unknown.problem(400, "invalid")["field"], "until");
}

#[tokio::test]
async fn only_this_relays_tokens_count() {
    let (folder, other) = (folder(), folder());
    let relay = relay(&folder, Some(TOKEN)).await;
    let access = token(&relay, "1h").await;
    let mut changed = config(shared_broker().await, &other);
    changed.token = Some("hunter3".parse().unwrap());
    let changed = Relay::start_with(changed).await;
    changed.until_ready().await;
    let foreign = changed.get(&format!("/v1/feed?access_token={access}")).await;
    foreign.problem(401, "unauthorized");
    let garbled = format!("x{access}");
    for (in_query, by_header) in [
        (Some(garbled.as_str()), None),
        (None, Some(garbled.as_str())),
        (Some(""), None),
        (Some(TOKEN), None),
        (Some(access.as_str()), Some(access.as_str())),
        (Some(access.as_str()), Some(TOKEN)),
    ] {
        let path = in_query.map_or("/v1/feed".to_owned(), |given| {
            format!("/v1/feed?access_token={given}")
        });
        let mut request = relay.request(Method::GET, &path);
        if let Some(given) = by_header {
            request = request.bearer_auth(given);
        }
        let refused = relay.send(request).await;
        refused.problem(401, "unauthorized");
        assert!(
            !refused.text.contains(&access) && !refused.text.contains(TOKEN),
            "{refused:?}"
        );
    }
    let twice = format!("/v1/feed?access_token={access}&access_token={access}");
    relay.get(&twice).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn it_ends_what_is_open_when_it_expires() {
    let folder = folder();
    let relay = relay(&folder, Some(TOKEN)).await;
    let grant = json!({"subject": "import-42", "expires_in": "5s"});
    let granted = ask(&relay, &grant).await.json();
    let access = text(&granted["access_token"]);
    let expires_at: Timestamp = text(&granted["expires_at"]).parse().unwrap();
    let with = |path: &str| format!("{path}access_token={access}");

    let stream = relay.request(Method::GET, &with("/v1/stream?")).send().await;
    let socket = handshake(&relay, &with("/v1/socket?")).send().await.unwrap();
    let poll = with("/v1/feed?after=now&wait=60s&");
    let (poll, stream, socket) = tokio::join!(
        relay.get(&poll),
        async { stream.unwrap().text().await.unwrap() },
        spoken(socket, b"expired"),
    );
    assert!(Timestamp::now() >= expires_at);
    assert_eq!(ids(&poll).len(), 0);
    assert!(!stream.contains("data:"), "{stream}");
    let policy = 1008_u16.to_be_bytes();
    assert!(socket.windows(2).any(|code| code == policy), "{socket:?}");
    for path in ["/v1/feed?", "/v1/stream?", "/v1/events/1?", "/v1/endpoints?"] {
        let expired = relay.get(&with(path)).await;
        expired.problem(401, "access-expired");
        let challenge = expired.header("www-authenticate");
        assert_eq!(challenge, Some(r#"Bearer error="invalid_token""#));
    }
}

#[tokio::test]
async fn nobody_gets_everything_by_mistake() {
    let folder = folder();
    let relay = relay(&folder, Some(TOKEN)).await;
    let long = "x".repeat(4_000);
    for (grant, field) in [
        (json!({"expires_in": "1h"}), "types"),
        (json!({"types": [], "expires_in": "1h"}), "types"),
        (json!({"types": ["#.#.#"], "expires_in": "1h"}), "types[0]"),
        (json!({"subject": "import-42", "expires_in": "25h"}), "expires_in"),
        (json!({"subject": "import-42", "expires_in": "0s"}), "expires_in"),
        (
            json!({"subject": "import-42", "topic": "", "expires_in": "1h"}),
            "topic",
        ),
        (json!({"subject": long, "expires_in": "1h"}), "body"),
    ] {
        let refused = ask(&relay, &grant).await.problem(400, "invalid");
        assert_eq!(refused["field"], field, "{grant}");
    }
    let forever = ask(&relay, &json!({"subject": "import-42"})).await;
    assert!(
        forever.problem(400, "invalid")["detail"]
            .to_string()
            .contains("expires_in")
    );
    let all = ask(&relay, &json!({"types": ["#"], "expires_in": "24h"}))
        .await
        .json();
    let path = format!("/v1/feed?access_token={}", text(&all["access_token"]));
    assert_eq!(ids(&relay.get(&path).await), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_relay_without_a_token_applies_it_all_the_same() {
    let folder = folder();
    let relay = relay(&folder, None).await;
    let access = token(&relay, "1h").await;
    let path = format!("/v1/feed?access_token={access}");
    assert_eq!(ids(&relay.get("/v1/feed").await), ["1", "2", "3"]);
    assert_eq!(ids(&relay.get(&path).await), ["1"]);
    let elsewhere = relay.get(&format!("/v1/endpoints?access_token={access}")).await;
    elsewhere.problem(403, "forbidden");
    relay.get(&format!("{path}x")).await.problem(401, "unauthorized");
    let any = relay.request(Method::GET, "/v1/feed").bearer_auth("any");
    assert_eq!(ids(&relay.send(any).await), ["1", "2", "3"]);
}
