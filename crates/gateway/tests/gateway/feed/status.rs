//! What becomes of one event, waited for and followed.

use super::{stream, told};
use crate::{
    log::{event, failed, record_attempt, record_event},
    relay::{Relay, folder},
};

#[tokio::test]
async fn an_event_s_status_is_waited_for() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let missing = relay.get("/v1/events/1?wait=0s").await;
    missing.problem(404, "not-found");
    assert_eq!(missing.header("retry-after"), Some("1"));

    let endpoint = relay.add(&["#"]).await;
    let path = "/v1/events/1?wait=60s";
    let settling = async {
        record_event(&relay, event("1", "a"), &[&endpoint]).await;
        let pending = relay.get("/v1/events/1").await;
        assert_eq!(pending.json()["settled"], false);
        assert_eq!(pending.header("retry-after"), Some("1"));
        let tag = pending.header("etag").unwrap().to_owned();
        let request = relay.request(reqwest::Method::GET, "/v1/events/1");
        assert_eq!(relay.send(request.header("if-none-match", tag)).await.status, 304);
        record_attempt(&relay, failed(&event("1", "a"), &endpoint)).await;
        relay.session().await.announce_recorded(&[1]).await.unwrap();
    };
    let (settled, ()) = tokio::join!(relay.get(path), settling);
    let status = settled.json();
    assert_eq!(status["settled"], true, "{status}");
    assert_eq!(status["deliveries"][0]["state"], "dead");
    assert_eq!(status["event"]["id"], "1");
    assert_eq!(settled.header("retry-after"), None);
}

#[tokio::test]
async fn an_event_s_status_is_followed_until_it_is_settled() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let endpoint = relay.add(&["#"]).await;
    record_event(&relay, event("1", "a"), &[&endpoint]).await;
    let path = "/v1/events/1/stream";
    let mut stream = stream(&relay, path).await;
    let first = told(&mut stream, "\n\n").await;
    assert!(
        first.contains("event: status\n") && first.contains("\"pending\""),
        "{first}"
    );
    record_attempt(&relay, failed(&event("1", "a"), &endpoint)).await;
    relay.session().await.announce_recorded(&[1]).await.unwrap();
    let rest = stream.text().await.unwrap();
    assert!(
        rest.contains("event: settled\n") && rest.contains("\"dead\""),
        "{rest}"
    );
    let id = rest.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let request = relay.request(reqwest::Method::GET, path);
    let again = relay.send(request.header("last-event-id", id)).await;
    assert_eq!(again.status, 204);
    assert!(relay.get(path).await.text.contains("event: settled\n"));
}
