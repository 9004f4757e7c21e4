//! The feed over HTTP. What is in the log was put there directly.

mod consumers;
mod status;

use std::time::Duration;

use relay_event::{Event, Timestamp};
use relay_store::Retention;
use relay_testkit::wait_until;
use serde_json::Value;

use crate::{
    log::{event, record_event},
    publish::confirmed::execute,
    relay::{Answer, Relay, folder},
};

/// Records an event, and tells the gateway of it as a recorder does.
async fn record(relay: &Relay, event: Event) {
    record_event(relay, event, &[]).await;
    relay.session().await.announce_recorded(&[]).await.unwrap();
}

async fn fill(relay: &Relay, count: usize) {
    for number in 0..count {
        let event_type = if number % 2 == 0 { "even" } else { "odd" };
        record_event(relay, event(&number.to_string(), event_type), &[]).await;
    }
    until_seen(relay, count).await;
}

/// Waits until the gateway knows of so many events.
async fn until_seen(relay: &Relay, count: usize) {
    relay.session().await.announce_recorded(&[]).await.unwrap();
    wait_until("the gateway to see the events", || async {
        let all = relay.get("/v1/feed?limit=1000").await;
        let known = relay.get("/v1/feed?after=now").await;
        let seen = ids(&all).len() == count && cursor_of(&known) == cursor_of(&all);
        seen.then_some(()).ok_or(all.text)
    })
    .await;
}

fn ids(page: &Answer) -> Vec<String> {
    let page = page.json();
    let events = page["events"].as_array().unwrap_or_else(|| panic!("{page}"));
    let id = |item: &Value| item["event"]["id"].as_str().unwrap().to_owned();
    events.iter().map(id).collect()
}

fn more(page: &Answer) -> bool {
    page.json()["more"].as_bool().unwrap()
}

fn cursor_of(page: &Answer) -> String {
    page.json()["next"].as_str().unwrap().to_owned()
}

fn numbers(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn pages_go_on_from_each_other() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    fill(&relay, 20).await;
    for (query, limit, expected) in [
        ("", 3, numbers(0..20)),
        ("&types=odd", 4, numbers((1..20).step_by(2))),
        ("&types=odd,even&source=/orders", 7, numbers(0..20)),
        ("&types=odd&types=even", 7, numbers(0..20)),
        (
            "&types=none&source=/orders&types=odd,none.%23",
            7,
            numbers((1..20).step_by(2)),
        ),
        ("&source=/others", 7, vec![]),
        ("&types=none.%23", 1, vec![]),
        ("&subject=none", 1, vec![]),
    ] {
        let (mut met, mut after) = (Vec::new(), "start".to_owned());
        loop {
            let page = relay
                .get(&format!("/v1/feed?after={after}&limit={limit}{query}"))
                .await;
            assert_eq!(page.status, 200, "{page:?}");
            assert!(ids(&page).len() <= limit);
            met.extend(ids(&page));
            after = cursor_of(&page);
            let pause = page.header("retry-after").unwrap();
            assert_eq!(more(&page), pause == "0", "{pause}");
            if !more(&page) {
                break;
            }
        }
        assert_eq!(met, expected, "{query}");
    }
    let page = relay.get("/v1/feed?limit=2").await.json();
    let second = page["events"][1]["cursor"].as_str().unwrap();
    assert_eq!(page["next"], second);
    assert_eq!(page["events"][0]["event"]["source"], "/orders");
}

#[tokio::test]
async fn a_feed_begins_at_a_time_or_now() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    fill(&relay, 3).await;
    let moment = Timestamp::now() + Duration::from_millis(1);
    wait_until("a later moment", || async {
        (Timestamp::now() > moment).then_some(()).ok_or(moment)
    })
    .await;
    record(&relay, event("later", "even")).await;
    until_seen(&relay, 4).await;
    let since = relay.get(&format!("/v1/feed?since={moment}")).await;
    assert_eq!(ids(&since), ["later"]);
    assert_eq!(ids(&relay.get("/v1/feed?since=1h").await).len(), 4);
    assert!(ids(&relay.get("/v1/feed?after=now").await).is_empty());
}

#[tokio::test]
async fn a_client_that_has_it_is_told_so_without_the_store() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    fill(&relay, 3).await;
    let end = cursor_of(&relay.get("/v1/feed").await);
    let path = format!("/v1/feed?after={end}");
    let first = relay.get(&path).await;
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!(first.header("cache-control"), Some("no-store"));
    let ask = async |path: &str| {
        let request = relay.request(reqwest::Method::GET, path);
        relay.send(request.header("if-none-match", &tag)).await
    };
    execute(&relay, "ALTER TABLE log RENAME TO away").await;
    let again = ask(&path).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    assert_eq!(again.header("etag"), Some(tag.as_str()));
    assert!(again.header("retry-after").is_some());
    assert_eq!(relay.get(&path).await.status, 200, "nor without a tag");
    relay.get("/v1/feed").await.problem(503, "store-unavailable");
    execute(&relay, "ALTER TABLE away RENAME TO log").await;

    assert_eq!(
        ask(&format!("{path}&limit=7")).await.status,
        200,
        "another question"
    );
    record(&relay, event("new", "even")).await;
    until_seen(&relay, 4).await;
    assert_eq!(ids(&ask(&path).await), ["new"]);
}

#[tokio::test]
async fn a_page_is_waited_for() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    fill(&relay, 3).await;
    let waiting = relay.get("/v1/feed?after=now&types=odd&wait=60s");
    let publishing = async {
        wait_until("somebody to wait", || async {
            let polls = relay.metric("relay_feed_followers{how=\"poll\"}");
            (polls == 1.0).then_some(()).ok_or(polls)
        })
        .await;
        record(&relay, event("unwanted", "even")).await;
        record(&relay, event("wanted", "odd")).await;
    };
    let (page, ()) = tokio::join!(waiting, publishing);
    assert_eq!(ids(&page), ["wanted"]);
    assert_eq!(relay.metric("relay_feed_followers{how=\"poll\"}"), 0.0);
    let nothing = relay.get("/v1/feed?after=now&wait=1s").await;
    assert_eq!((nothing.status, ids(&nothing).len()), (200, 0));
}

/// What a stream says, until it has said this.
async fn told(stream: &mut reqwest::Response, until: &str) -> String {
    let mut told = String::new();
    while !told.contains(until) {
        let chunk = stream.chunk().await.unwrap();
        let chunk = chunk.unwrap_or_else(|| panic!("no {until} in {told}"));
        told.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    told
}

async fn stream(relay: &Relay, path: &str) -> reqwest::Response {
    let request = relay.request(reqwest::Method::GET, path);
    request.send().await.unwrap()
}

#[tokio::test]
async fn those_who_wait_are_answered_at_the_end() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    fill(&relay, 1).await;
    let mut stream = stream(&relay, "/v1/stream?after=start").await;
    let begun = told(&mut stream, "\n\nid: ").await;
    assert!(begun.starts_with("retry: 2000\n"), "{begun}");
    let stopping = async {
        wait_until("a poll to wait", || async {
            let polls = relay.metric("relay_feed_followers{how=\"poll\"}");
            (polls == 1.0).then_some(()).ok_or(polls)
        })
        .await;
        relay.context.shutdown.cancel();
    };
    let (page, ()) = tokio::join!(relay.get("/v1/feed?after=now&wait=60s"), stopping);
    assert_eq!((page.status, ids(&page).len()), (200, 0));
    stream.text().await.unwrap();
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_by_name() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    fill(&relay, 3).await;
    let other = tempfile::tempdir().unwrap();
    let others = Relay::start(&other).await;
    let foreign = cursor_of(&others.get("/v1/feed").await);
    let list = relay.get("/v1/events?limit=1").await.json()["next"].clone();
    let list = list.as_str().unwrap();
    for (query, field) in [
        ("after=rubbish".to_owned(), "after"),
        (format!("after={foreign}"), "after"),
        (format!("after={list}"), "after"),
        ("after=now&since=1h".to_owned(), "since"),
        ("since=soon".to_owned(), "since"),
        ("types=%23.%23.%23".to_owned(), "types[0]"),
        ("types=a,b&types=c&types=%23.%23.%23".to_owned(), "types[3]"),
        ("source=/orders&source=/orders".to_owned(), "source"),
        ("until=1h".to_owned(), "until"),
    ] {
        for path in ["/v1/feed", "/v1/stream"] {
            let refused = relay
                .get(&format!("{path}?{query}"))
                .await
                .problem(400, "invalid");
            assert_eq!(refused["field"], field, "{path}?{query}");
        }
    }
    for (query, field) in [("limit=0", "limit"), ("wait=1h", "wait")] {
        let refused = relay
            .get(&format!("/v1/feed?{query}"))
            .await
            .problem(400, "invalid");
        assert_eq!(refused["field"], field);
    }
    for id in ["rubbish", foreign.as_str()] {
        let request = relay.request(reqwest::Method::GET, "/v1/stream");
        let refused = relay.send(request.header("last-event-id", id)).await;
        assert_eq!(refused.problem(400, "invalid")["field"], "last-event-id");
    }
    relay.get("/v1/socket").await.problem(426, "upgrade-required");
}

#[tokio::test]
async fn who_missed_something_is_told() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let start = cursor_of(&relay.get("/v1/feed?after=now").await);
    fill(&relay, 3).await;
    let everything = Retention {
        events_before: Timestamp::now() + Duration::from_secs(60),
        attempts_before: Timestamp::default(),
    };
    relay.store.forget(&everything, 2).await.unwrap();
    relay.session().await.announce_recorded(&[]).await.unwrap();
    let path = format!("/v1/feed?after={start}");
    let expired = wait_until("what was forgotten to be missed", || async {
        let answer = relay.get(&path).await;
        (answer.status == 410).then_some(answer)
    })
    .await;
    let problem = expired.problem(410, "cursor-expired");
    let oldest = problem["oldest"].as_str().unwrap();
    assert_eq!(ids(&relay.get(&format!("/v1/feed?after={oldest}")).await), ["2"]);
    let stream = relay.get(&format!("/v1/stream?after={start}")).await;
    assert_eq!(stream.problem(410, "cursor-expired")["oldest"], oldest);
    assert_eq!(ids(&relay.get("/v1/feed").await), ["2"]);
}

#[tokio::test]
async fn a_pretty_event_streams_as_it_is() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let body = "{\"specversion\": \"1.0\",\r\n \"id\": \"1\",\n \"source\": \"/s\", \"type\": \"a\"}";
    record_event(&relay, Event::parse(body.into()).unwrap(), &[]).await;
    let mut stream = stream(&relay, "/v1/stream?since=1h").await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert!(!stream.headers().contains_key("content-encoding"));
    let told = told(&mut stream, "}\n\n").await;
    let lines = told.lines();
    let data: Vec<_> = lines.filter_map(|line| line.strip_prefix("data: ")).collect();
    let data: Value = serde_json::from_str(&data.join("\n")).unwrap();
    assert_eq!(data["id"], "1");
}

/// The lines of a stream that name its messages, up to the last of these events.
async fn names(relay: &Relay, query: &str, last: &str) -> Vec<String> {
    let mut stream = stream(relay, &format!("/v1/stream?after=start{query}")).await;
    assert_eq!(stream.status(), 200, "{query}");
    let told = told(&mut stream, &format!("\"id\":\"{last}\"")).await;
    let names = told.lines().filter_map(|line| line.strip_prefix("event: "));
    names.map(ToOwned::to_owned).collect()
}

/// A page's `onmessage` hears all types of a pattern, which the page cannot know in advance.
#[tokio::test]
async fn a_stream_may_leave_out_the_names_of_its_messages() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    fill(&relay, 4).await;
    assert_eq!(names(&relay, "", "3").await, ["even", "odd", "even", "odd"]);
    assert_eq!(names(&relay, "&names=on&types=odd", "3").await, ["odd", "odd"]);
    assert!(names(&relay, "&names=off", "3").await.is_empty());
    let refused = relay.get("/v1/stream?names=none").await;
    assert_eq!(refused.problem(400, "invalid")["field"], "names");
    for path in ["/v1/feed?names=off", "/v1/socket?names=off"] {
        let request = crate::access::handshake(&relay, path);
        let refused = relay.send(request).await;
        assert_eq!(refused.problem(400, "invalid")["field"], "names", "{path}");
    }
}

/// `EventSource` has events of its own by these names: a broken connection, say, is an `error`.
#[tokio::test]
async fn no_event_is_taken_for_one_of_a_browser_s_own() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    for (number, event_type) in ["error", "open", "message", "error.disk", "Error"]
        .iter()
        .enumerate()
    {
        record_event(&relay, event(&number.to_string(), event_type), &[]).await;
    }
    until_seen(&relay, 5).await;
    assert_eq!(names(&relay, "", "4").await, ["error.disk", "Error"]);
}

#[tokio::test]
async fn a_page_is_compressed_for_who_asks() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    fill(&relay, 20).await;
    let request = relay.request(reqwest::Method::GET, "/v1/feed");
    let response = request.header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let plain = relay.get("/v1/feed").await;
    assert_eq!(
        plain.header("etag"),
        response.headers()["etag"].to_str().ok(),
        "it says the same"
    );
    assert!(response.bytes().await.unwrap().len() < plain.text.len() / 3);
}
