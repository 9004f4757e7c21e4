//! Where a client may go on, and where it cannot.

use std::{fs, time::Duration};

use futures_util::StreamExt;
use relay_event::Timestamp;
use relay_store::Retention;
use relay_testkit::{shared_broker, wait_until};
use relay_tests::{Database, World};
use reqwest::Method;
use serde_json::Value;
use sqlx::Connection;
use tokio_tungstenite::tungstenite::Error;

use super::{clients, end_after, ids, item, items, log, next, page, publish};

async fn world(events: usize) -> (World, String) {
    let mut world = World::on(shared_broker().await, Database::Sqlite).await;
    world.add_recorder().await;
    publish(&world.api, "order.created", 0..events).await;
    let end = end_after(&world, events).await;
    (world, end)
}

/// How each of the ways refuses this cursor.
async fn refusals(world: &World, cursor: &str) -> Vec<Value> {
    let mut refusals = Vec::new();
    for path in ["/v1/feed", "/v1/stream"] {
        let path = format!("{path}?after={cursor}");
        refusals.push(refusal(world.api.request(Method::GET, &path)).await);
    }
    let again = world.api.request(Method::GET, "/v1/stream?after=start");
    refusals.push(refusal(again.header("last-event-id", cursor)).await);
    match clients::socket(&world.api, &format!("/v1/socket?after={cursor}")).await {
        Err(Error::Http(answer)) => {
            let body = answer.body().as_deref().unwrap();
            refusals.push(serde_json::from_slice(body).unwrap());
        }
        other => panic!("{other:?}"),
    }
    refusals
}

async fn refusal(request: reqwest::RequestBuilder) -> Value {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_something_else_is_refused() {
    let (world, _) = world(3).await;
    let (_other, foreign) = self::world(3).await;
    let list = world.api.json(Method::GET, "/v1/events?limit=1", None).await;
    let list = next(&list);
    for (cursor, reason) in [
        ("rubbish", ""),
        (&foreign, "another relay's feed"),
        (&list, ""),
        ("17", ""),
    ] {
        for refusal in refusals(&world, cursor).await {
            assert_eq!(refusal["status"], 400, "{refusal}");
            let field = refusal["field"].as_str().unwrap();
            assert!(["after", "last-event-id"].contains(&field), "{refusal}");
            assert!(refusal["detail"].as_str().unwrap().contains(reason), "{refusal}");
        }
    }
}

/// Its places beyond the backup will be those of other events.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_from_before_a_restored_backup_is_refused_while_it_can_be_known() {
    let (mut world, kept) = world(3).await;
    let (file, backup) = (world.folder().join("relay.db"), world.folder().join("backup.db"));
    let url = format!("sqlite:{}", file.display());
    let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("VACUUM INTO $1")
        .bind(backup.to_str())
        .execute(&mut database)
        .await
        .unwrap();
    database.close().await.unwrap();
    publish(&world.api, "order.created", 3..5).await;
    let lost = end_after(&world, 5).await;

    world.gateway().kill_9();
    world.recorders.remove(0).kill_9();
    for journal in ["relay.db-wal", "relay.db-shm"] {
        let _ = fs::remove_file(world.folder().join(journal));
    }
    fs::rename(backup, file).unwrap();
    world.replace_gateway().await;
    for refusal in refusals(&world, &lost).await {
        assert_eq!(refusal["status"], 400, "{refusal}");
        assert!(refusal["detail"].as_str().unwrap().contains("ahead"), "{refusal}");
    }
    let rest = page(&world.api, &format!("after={kept}")).await;
    assert_eq!((items(&rest).len(), next(&rest)), (0, kept));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_missed_something_is_told_and_goes_on_with_the_oldest() {
    let (world, _) = world(5).await;
    let first = items(&page(&world.api, "limit=1").await).remove(0).0;
    let old = Retention {
        events_before: Timestamp::now() + Duration::from_secs(60),
        attempts_before: Timestamp::default(),
    };
    world.store().await.forget(&old, 3).await.unwrap();
    let path = format!("/v1/feed?after={first}");
    wait_until("the gateway to know", || async {
        world.api.call(Method::GET, &path, None).await.status() == 410
    })
    .await;
    assert_eq!(log(&world).await, ["3", "4"]);
    for refusal in refusals(&world, &first).await {
        assert_eq!(refusal["status"], 410, "{refusal}");
        assert_eq!(refusal["type"], "urn:event-relay:problem:cursor-expired");
        let oldest = refusal["oldest"].as_str().unwrap();

        let page = page(&world.api, &format!("after={oldest}")).await;
        assert_eq!(ids(&items(&page)), ["3", "4"]);
        let mut stream = clients::stream(&world.api, "/v1/stream", Some(oldest)).await;
        assert_eq!(stream.next().await.unwrap().unwrap().id.as_deref(), Some(oldest));
        let event = stream.next().await.unwrap().unwrap();
        assert_eq!(event.id, Some(items(&page)[0].0.clone()));
        let path = format!("/v1/socket?after={oldest}");
        let mut socket = clients::socket(&world.api, &path).await.unwrap();
        let told = socket.next().await.unwrap().unwrap().into_text().unwrap();
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(item(&told), items(&page)[0]);
    }
}

/// A filter that matches nothing for long must not let the client's place grow old.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_events_says_where_it_is() {
    let (world, _) = world(3).await;
    let path = "/v1/stream?types=invoice.%23&after=start";
    let mut stream = clients::stream(&world.api, path, None).await;
    let begun = stream.next().await.unwrap().unwrap();
    assert_eq!((begun.retry, begun.data), (Some(2_000), None));
    publish(&world.api, "order.created", 3..100).await;
    let end = end_after(&world, 100).await;

    let beat = stream.next().await.unwrap().unwrap();
    assert_eq!(
        (&beat.event, &beat.data, beat.id.as_ref()),
        (&None, &None, Some(&end))
    );
    assert_ne!(beat.id, begun.id);
    drop(stream);
    publish(&world.api, "order.created", 100..110).await;
    publish(&world.api, "invoice.sent", 110..112).await;
    let mut again = clients::stream(&world.api, path, beat.id.as_deref()).await;
    assert_eq!(again.next().await.unwrap().unwrap().id, beat.id);
    for expected in ["110", "111"] {
        assert_eq!(clients::next_event(&mut again).await["id"], expected);
    }
}
