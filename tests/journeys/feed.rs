//! The feed, as consumers follow it through restarts, in crowds, and without reading.

mod clients;
mod consumers;
mod crowd;
mod places;
mod restarts;
mod status;
mod stuck;

use std::time::Duration;

use relay_store::EventFilter;
use relay_testkit::wait_until_within;
use relay_tests::{Api, World, metrics_address};
use reqwest::Method;
use serde_json::{Value, json};

/// The longest that a broker, a database or a process may take to be back.
const OUTAGE: Duration = Duration::from_secs(120);

/// As in the log: an event's cursor and its id.
type Item = (String, String);

fn item(item: &Value) -> Item {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{item}")).to_owned();
    (text(&item["cursor"]), text(&item["event"]["id"]))
}

/// A page of the feed.
async fn page(api: &Api, query: &str) -> Value {
    api.json(Method::GET, &format!("/v1/feed?{query}"), None).await
}

fn items(page: &Value) -> Vec<Item> {
    page["events"].as_array().unwrap().iter().map(item).collect()
}

fn ids(items: &[Item]) -> Vec<&str> {
    items.iter().map(|(_, id)| id.as_str()).collect()
}

fn next(page: &Value) -> String {
    page["next"].as_str().unwrap().to_owned()
}

/// The whole feed as it is now, and where it ends.
async fn whole(api: &Api) -> (Vec<Item>, String) {
    let (mut all, mut after) = (Vec::new(), "start".to_owned());
    loop {
        let page = page(api, &format!("limit=1000&after={after}")).await;
        all.extend(items(&page));
        after = next(&page);
        if page["more"] == false {
            return (all, after);
        }
    }
}

/// Where the feed ends, once so many events are in it, also for those who begin with what is new.
async fn end_after(world: &World, count: usize) -> String {
    wait_until_within(OUTAGE, "the events to be in the feed", || async {
        let (all, end) = whole(&world.api).await;
        let now = next(&page(&world.api, "after=now").await);
        (all.len() == count && now == end).then_some(end).ok_or(all.len())
    })
    .await
}

/// Publishes events with these numbers as ids, each batch until it is accepted.
async fn publish(api: &Api, event_type: &str, numbers: std::ops::Range<usize>) {
    const BATCH: usize = 500;
    for first in numbers.clone().step_by(BATCH) {
        let batch: Vec<Value> = (first..numbers.end.min(first + BATCH))
            .map(
                |n| json!({"specversion": "1.0", "id": n.to_string(), "source": "/feed", "type": event_type}),
            )
            .collect();
        let batch = Value::from(batch).to_string();
        wait_until_within(OUTAGE, "a batch to be accepted", || offer(api, &batch)).await;
    }
}

async fn offer(api: &Api, batch: &str) -> Result<(), String> {
    let request = api
        .request(Method::POST, "/v1/events")
        .header("content-type", "application/cloudevents-batch+json")
        .body(batch.to_owned());
    let answer = request.send().await.map_err(|error| error.to_string())?;
    match answer.status().as_u16() {
        202 => Ok(()),
        503 => Err("503".to_owned()),
        other => panic!("{other}: {}", answer.text().await.unwrap()),
    }
}

/// The ids of all events in the order of the log, as the store has them.
async fn log(world: &World) -> Vec<String> {
    let store = world.store().await;
    let (mut ids, mut before) = (Vec::new(), None);
    loop {
        let page = store.logged_events(&EventFilter::default(), before, 1_000).await;
        let page = page.unwrap();
        ids.extend(page.events.into_iter().map(|event| event.id.to_string()));
        if page.before.is_none() {
            ids.reverse();
            return ids;
        }
        before = page.before;
    }
}

/// Waits until so many clients follow the feed in this way.
async fn until_followed(world: &World, how: &str, count: usize) {
    let metrics = metrics_address(world.gateway()).await;
    let line = format!("relay_feed_followers{{how=\"{how}\"}} {count}\n");
    wait_until_within(OUTAGE, &line, || async {
        let text = world.api.metrics(&metrics).await;
        let followers = text
            .lines()
            .filter(|line| line.starts_with("relay_feed_followers"));
        let followers: Vec<&str> = followers.collect();
        text.contains(&line).then_some(()).ok_or(followers.join(", "))
    })
    .await;
}
