//! Named consumers of the feed.

use relay_testkit::wait_until;
use serde_json::json;

use super::{cursor_of, fill, ids, numbers};
use crate::relay::{Relay, folder};

/// Waits until the metrics have this lag of the consumer, or none.
async fn until_told(relay: &Relay, lag: Option<i64>) {
    const SERIES: &str = "relay_feed_consumer_lag_events{consumer=\"billing\"} ";
    wait_until("the lag to be told", || async {
        let families = relay.context.registry.gather();
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .unwrap();
        let told = text.lines().find_map(|line| line.strip_prefix(SERIES));
        let told = told.map(|lag| lag.parse::<i64>().unwrap());
        (told == lag).then_some(()).ok_or(format!("{told:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_consumer_goes_on_where_it_committed() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    fill(&relay, 5).await;
    let path = "/v1/feed/billing?limit=2";
    let first = relay.get(path).await;
    assert_eq!(
        (ids(&first), ids(&relay.get(path).await)),
        (numbers(0..2), numbers(0..2))
    );
    assert_eq!(relay.get("/v1/consumers").await.json(), json!({"consumers": []}));
    let commit = async |cursor: &str, back: bool| {
        let body = json!({"cursor": cursor, "back": back});
        relay
            .call(reqwest::Method::POST, "/v1/feed/billing/commit", body)
            .await
    };
    let committed = commit(&cursor_of(&first), false).await.json();
    assert_eq!(
        (&committed["name"], &committed["lag"]),
        (&json!("billing"), &json!(3))
    );
    let second = relay.get(path).await;
    assert_eq!(ids(&second), numbers(2..4));
    commit(&cursor_of(&second), false).await;
    let stayed = commit(&cursor_of(&first), false).await.json();
    assert_eq!(stayed["cursor"], cursor_of(&second));
    assert_eq!(commit(&cursor_of(&first), true).await.json()["lag"], 3);
    until_told(&relay, Some(3)).await;
    let listed = relay.get("/v1/consumers").await.json();
    assert_eq!(listed["consumers"][0]["name"], "billing");
    let remove = || relay.request(reqwest::Method::DELETE, "/v1/feed/billing");
    assert_eq!(relay.send(remove()).await.status, 204);
    relay.send(remove()).await.problem(404, "not-found");
    until_told(&relay, None).await;
    assert_eq!(ids(&relay.get(path).await), numbers(0..2));
}

#[tokio::test]
async fn a_commit_that_makes_no_sense_changes_nothing() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    fill(&relay, 2).await;
    let here = cursor_of(&relay.get("/v1/feed").await);
    let long = "a".repeat(65);
    for (name, body, field) in [
        ("a", json!({"cursor": "rubbish"}), "cursor"),
        ("a", json!({}), "cursor"),
        ("a", json!({"cursor": here, "back": "yes"}), "back"),
        ("a", json!({"cursor": here, "more": 1}), "more"),
        ("a%20b", json!({"cursor": here}), "consumer"),
        (long.as_str(), json!({"cursor": here}), "consumer"),
    ] {
        let path = format!("/v1/feed/{name}/commit");
        let refused = relay.call(reqwest::Method::POST, &path, body).await;
        let refused = refused.problem(400, "invalid");
        let named = refused["field"].as_str() == Some(field);
        assert!(
            named || refused["detail"].as_str().unwrap().contains(field),
            "{refused}"
        );
    }
    assert_eq!(relay.get("/v1/consumers").await.json(), json!({"consumers": []}));
}
