//! Answers with a date, for clients that know no entity tags.

use std::time::{Duration, SystemTime};

use relay_testkit::wait_until;
use reqwest::Method;
use serde_json::json;

use crate::{
    log::{event, failed, record_attempt, record_event},
    relay::{Answer, Relay, folder},
};

async fn with(relay: &Relay, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = relay.request(Method::GET, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    relay.send(request).await
}

/// The date of an answer, once it has one.
async fn date(relay: &Relay, path: &str) -> String {
    wait_until("the answer to have a date", || async {
        let answer = relay.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("last-modified").map(ToOwned::to_owned)
    })
    .await
}

/// A relay with an endpoint, and an event that waits for it.
async fn start(folder: &tempfile::TempDir) -> (Relay, String) {
    let relay = Relay::start(folder).await;
    let endpoint = relay.add(&["a"]).await;
    record_event(&relay, event("1", "a"), &[&endpoint]).await;
    relay.session().await.announce_recorded(&[1]).await.unwrap();
    wait_until("the event to be seen", || async {
        relay.get("/v1/feed").await.text.contains("\"id\":\"1\"")
    })
    .await;
    (relay, endpoint)
}

#[tokio::test]
async fn an_answer_is_known_by_its_date_until_it_changes() {
    let folder = folder();
    let (relay, endpoint) = start(&folder).await;
    let one = format!("/v1/endpoints/{endpoint}");
    let paths = ["/v1/feed", "/v1/events/1", "/v1/endpoints", &one];
    let mut dates = Vec::new();
    for path in paths {
        let known = date(&relay, path).await;
        let parsed = httpdate::parse_http_date(&known).unwrap();
        assert!(parsed <= SystemTime::now(), "{known} lies in the future");
        let again = with(&relay, path, &[("if-modified-since", &known)]).await;
        assert_eq!((again.status, again.text.as_str()), (304, ""), "{path}");
        assert_eq!(again.header("last-modified"), Some(&*known), "{path}");
        assert!(again.header("etag").is_some(), "{path}");
        for unknown in [
            "Thu, 01 Jan 1970 00:00:01 GMT",
            "yesterday",
            "Fri, 31 Dec 9999 23:59:59 GMT",
        ] {
            let whole = with(&relay, path, &[("if-modified-since", unknown)]).await;
            assert_eq!(whole.status, 200, "{path} {unknown}");
        }
        dates.push(known);
    }

    record_attempt(&relay, failed(&event("1", "a"), &endpoint)).await;
    record_event(&relay, event("2", "b"), &[]).await;
    relay.session().await.announce_recorded(&[1]).await.unwrap();
    assert_eq!(
        relay.patch(&endpoint, json!({"max_in_flight": 7})).await.status,
        200
    );
    wait_until("the second event to be seen", || async {
        relay.get("/v1/feed").await.text.contains("\"id\":\"2\"")
    })
    .await;
    for (path, known) in paths.iter().zip(&dates) {
        let changed = with(&relay, path, &[("if-modified-since", known)]).await;
        assert_eq!(changed.status, 200, "{path}");
        assert_ne!(date(&relay, path).await, *known, "{path}");
    }
}

/// RFC 9110, section 13.1.3.
#[tokio::test]
async fn a_tag_counts_more_than_a_date() {
    let folder = folder();
    let (relay, endpoint) = start(&folder).await;
    let one = format!("/v1/endpoints/{endpoint}");
    for path in ["/v1/feed", "/v1/events/1", "/v1/endpoints", &one] {
        let known = date(&relay, path).await;
        let tag = relay.get(path).await.header("etag").unwrap().to_owned();
        let old = "Thu, 01 Jan 1970 00:00:01 GMT";
        for (tag, date, status) in [(&*tag, old, 304), (&tag, &known, 304), ("\"other\"", &known, 200)] {
            let headers = [("if-none-match", tag), ("if-modified-since", date)];
            assert_eq!(
                with(&relay, path, &headers).await.status,
                status,
                "{path} {tag} {date}"
            );
        }
        let either = format!("\"other\", {tag}");
        assert_eq!(
            with(&relay, path, &[("if-none-match", &either)]).await.status,
            304,
            "{path}"
        );
    }
}

/// Dates have whole seconds. What changes again within one must not pass for unchanged, whether the client
/// sends back the date it was given or the time at which it asked.
#[tokio::test]
async fn what_changes_twice_in_a_second_is_not_taken_for_unchanged() {
    let folder = folder();
    let (relay, endpoint) = start(&folder).await;
    let one = format!("/v1/endpoints/{endpoint}");
    for most in 1..=40_u16 {
        let body = json!({"max_in_flight": most});
        assert_eq!(relay.patch(&endpoint, body).await.status, 200);
        let before = relay.get(&one).await;
        let asked = before.header("last-modified").or(before.header("date"));
        let asked = asked.unwrap().to_owned();
        let body = json!({"max_in_flight": most + 100});
        assert_eq!(relay.patch(&endpoint, body).await.status, 200);
        for path in ["/v1/endpoints", &one] {
            let after = with(&relay, path, &[("if-modified-since", &asked)]).await;
            assert_eq!(after.status, 200, "{path} {asked}");
        }
    }
}

/// The list without an endpoint is older than the endpoint was, if the others' times are all there is.
#[tokio::test]
async fn a_list_is_changed_by_what_leaves_it() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (first, _second) = (relay.add(&["a"]).await, relay.add(&["b"]).await);
    let known = date(&relay, "/v1/endpoints").await;
    assert_eq!(relay.delete(&first).await.status, 204);
    let changed = with(&relay, "/v1/endpoints", &[("if-modified-since", &known)]).await;
    assert_eq!(changed.status, 200);
    let later = date(&relay, "/v1/endpoints").await;
    let parsed = |date: &str| httpdate::parse_http_date(date).unwrap();
    assert!(
        parsed(&later) >= parsed(&known) + Duration::from_secs(1),
        "{known} {later}"
    );
}
