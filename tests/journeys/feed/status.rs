//! What became of an event, for whoever waits to know.

use futures_util::StreamExt;
use relay_testkit::{Answer, Receiver, private_postgres, wait_until};
use relay_tests::{Database, World};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sse_stream::Sse;

use super::clients::stream;

async fn json_of(response: Response) -> Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

fn header(response: &Response, name: &str) -> String {
    response.headers()[name].to_str().unwrap().to_owned()
}

/// How a block of a stream says that the event stands.
fn standing(block: &Sse) -> (String, Vec<String>) {
    let view: Value = serde_json::from_str(block.data.as_deref().unwrap()).unwrap();
    let name = block.event.clone().unwrap();
    assert_eq!(view["settled"], name == "settled", "{view}");
    assert!(view.get("event").is_none(), "{view}");
    let deliveries = view["deliveries"].as_array().unwrap();
    let state = |delivery: &Value| delivery["state"].as_str().unwrap().to_owned();
    (name, deliveries.iter().map(state).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_waited_for_until_its_last_delivery() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.script([Answer::status(500)]);
    world.api.add(&receiver, &["#"], json!({"retry": ["2s"]})).await;
    let id = world.api.publish("order.created", json!(1)).await;
    let path = format!("/v1/events/{id}?wait=60s");
    let answer = world.api.call(Method::GET, &path, None).await;
    assert_eq!(answer.status(), 200, "it waits also for the event itself");
    assert!(!answer.headers().contains_key("retry-after"));
    let view = json_of(answer).await;
    assert_eq!(
        (&view["settled"], &view["event"]["id"]),
        (&json!(true), &json!(id))
    );
    assert_eq!(view["deliveries"][0]["state"], "delivered");
    assert_eq!(view["deliveries"][0]["attempts"], 2);

    let missing = world.api.call(Method::GET, "/v1/events/none", None).await;
    assert_eq!(
        (missing.status().as_u16(), header(&missing, "retry-after")),
        (404, "1".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_event_ends_when_it_is_settled() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::Hold);
    world.api.add(&receiver, &["#"], json!({})).await;
    let id = world.api.publish("order.created", json!(1)).await;
    let (path, following) = (format!("/v1/events/{id}"), format!("/v1/events/{id}/stream"));
    let mut following_it = stream(&world.api, &following, None).await;
    let first = following_it.next().await.unwrap().unwrap();
    assert_eq!(
        standing(&first),
        ("status".to_owned(), vec!["pending".to_owned()])
    );

    let answer = world.api.call(Method::GET, &path, None).await;
    let tag = header(&answer, "etag");
    assert_eq!(Some(&tag), first.id.as_ref());
    let pause: u64 = header(&answer, "retry-after").parse().unwrap();
    assert!((1..=60).contains(&pause), "{pause}");
    let ask = world
        .api
        .request(Method::GET, &path)
        .header("if-none-match", &tag);
    assert_eq!(ask.send().await.unwrap().status(), 304);

    receiver.wait_for(1).await;
    receiver.respond_with(Answer::status(204));
    receiver.release();
    let mut last = first;
    while let Some(block) = following_it.next().await {
        let block = block.unwrap();
        if block.data.is_some() {
            assert_ne!(block.id, last.id, "each is a change");
            last = block;
        }
    }
    assert_eq!(
        standing(&last),
        ("settled".to_owned(), vec!["delivered".to_owned()])
    );
    let ask = world
        .api
        .request(Method::GET, &path)
        .header("if-none-match", &tag);
    let changed = ask.send().await.unwrap();
    assert_eq!(changed.status(), 200);
    assert_eq!(header(&changed, "etag"), last.id.clone().unwrap());
    let again = world.api.request(Method::GET, &following);
    let again = again.header("last-event-id", last.id.unwrap());
    assert_eq!(again.send().await.unwrap().status(), 204);
}

/// The stream stays while the database is away, and goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_followed_through_an_outage_of_the_database() {
    let mut postgres = private_postgres().await;
    let mut world = World::with_store(postgres.url()).await;
    world.add_deliverer().await;
    world.add_recorder().await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::Hold);
    world.api.add(&receiver, &["#"], json!({})).await;
    let id = world.api.publish("order.created", json!(1)).await;
    let mut following = stream(&world.api, &format!("/v1/events/{id}/stream"), None).await;
    let first = following.next().await.unwrap().unwrap();
    assert_eq!(standing(&first).1, ["pending"]);
    receiver.wait_for(1).await;

    postgres.stop().await;
    let path = format!("/v1/events/{id}?wait=30s");
    wait_until("the store to be missed", || async {
        world.api.call(Method::GET, &path, None).await.status() == 503
    })
    .await;
    receiver.respond_with(Answer::status(204));
    receiver.release();
    postgres.start().await;
    let mut last = first;
    while let Some(block) = following.next().await {
        let block = block.unwrap();
        if block.data.is_some() {
            last = block;
        }
    }
    assert_eq!(
        standing(&last),
        ("settled".to_owned(), vec!["delivered".to_owned()])
    );
}
