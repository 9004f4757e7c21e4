//! The ids that receivers know events by, and what else knows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use lapin::types::AMQPValue;
use relay_broker::Queue;
use relay_event::{DeadReason, Event, Secret, Timestamp, WebhookId, signature};
use relay_store::{NewEvent, Record};
use relay_testkit::{Answer, Receiver, Request, wait_until};
use relay_tests::{Database, World, amqp};
use reqwest::Method;
use serde_json::{Value, json};

const WHOLE: &str = "application/cloudevents+json";

fn event(id: &str, source: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": source, "type": "order.created", "data": 1})
}

async fn publish(world: &World, event: &Value) {
    let answer = world.api.post_event(WHOLE, event.to_string()).await;
    let status = answer.status();
    assert_eq!(status, 202, "{event}: {}", answer.text().await.unwrap());
}

/// Everything but letters and digits, as a client may that encodes too much.
fn encoded(id: &str) -> String {
    let byte = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    id.bytes().map(byte).collect()
}

fn is_signed(request: &Request, secret: &str) -> bool {
    let header = |name: &str| request.header(name).unwrap();
    let (id, time, signatures) = (
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
    );
    let secret: Secret = secret.parse().unwrap();
    let now = Timestamp::now().as_secs();
    signature::verify(&[secret], id, time, signatures, &request.body, now).is_ok()
}

async fn settled(world: &World, path: &str) -> Value {
    let whole = format!("{path}?wait=30s");
    let status = world.api.json(Method::GET, &whole, None).await;
    assert_eq!(status["settled"], true, "{status}");
    status
}

/// CloudEvents has source and id together name an event, and Standard Webhooks has receivers drop what comes
/// twice by its id alone, which it signs with full stops around it.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_two_sources_with_one_id_are_two_to_their_receiver() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let added = world.api.add(&receiver, &["#"], json!({})).await;
    let producer = world.producer().await;
    let sources = ["/relay", "/orders", "/invoices", "https://example.com/"];
    let mut ids = BTreeSet::new();
    for id in ["7", "evt.1.2", "a/b"] {
        for source in sources {
            let event = event(id, source);
            match source {
                "/invoices" => {
                    let body = event.to_string();
                    producer
                        .publish_structured("order.created", body.as_bytes())
                        .await;
                }
                _ => publish(&world, &event).await,
            }
            ids.insert((source.to_owned(), id.to_owned()));
        }
    }
    let requests = receiver.wait_for(ids.len()).await;
    let mut seen = BTreeMap::new();
    for request in &requests {
        assert!(is_signed(request, &added.secret));
        let webhook_id = request.webhook_id().unwrap().to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        assert!(webhook_id.chars().all(plain), "{webhook_id}");
        let event = request.json();
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        seen.insert(webhook_id, (text("source"), text("id")));
    }
    assert_eq!(seen.get("7"), Some(&("/relay".to_owned(), "7".to_owned())));
    assert_eq!(seen.len(), ids.len(), "{seen:#?}");
    assert_eq!(seen.into_values().collect::<BTreeSet<_>>(), ids);
}

/// However often it is sent, and by whom.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_keeps_its_webhook_id_on_every_way() {
    let world = World::recorded(Database::Sqlite).await;
    let (receiver, plain) = (Receiver::start().await, Receiver::start().await);
    receiver.script([Answer::status(500)]);
    let added = world.api.add(&receiver, &["#"], json!({"retry": ["1s"]})).await;
    world.api.add(&plain, &["#"], json!({"signature": "plain"})).await;
    publish(&world, &event("evt.1", "/orders")).await;
    let webhook_id = WebhookId::of("/orders", &"evt.1".parse().unwrap()).to_string();
    receiver.wait_for(2).await;
    let path = format!("/v1/events/{webhook_id}");
    settled(&world, &path).await;

    let replay = format!("{path}/replay");
    let replayed = world.api.json(Method::POST, &replay, Some(json!({}))).await;
    assert_eq!(replayed["id"], "evt.1");
    let requests = receiver.wait_for(3).await;
    plain.wait_for(2).await;
    receiver.respond_with(Answer::status(410));
    world
        .api
        .json(Method::POST, &replay, Some(json!({"endpoint": added.id})))
        .await;
    let letters = world.dead_letters(1).await;
    assert_eq!(letters[0].reason, DeadReason::EndpointGone);
    wait_until("the endpoint to be disabled", || async {
        let endpoint = world.api.endpoint(&added.id).await;
        (endpoint["state"] == "disabled").then_some(()).ok_or(endpoint)
    })
    .await;
    receiver.respond_with(Answer::status(204));
    world.api.change(&added.id, json!({"paused": false})).await;
    let drained = world.cli(&["dlq", "drain", "--redeliver"]).await;
    assert!(drained.wait_exit().await.success(), "{}", drained.output());
    receiver.wait_for(requests.len() + 2).await;

    let target = Receiver::start().await;
    let forwarded = world.cli_with(
        &[("RELAY_SECRET", &added.secret)],
        &["reconcile", "--since", "1h", "--forward-to", &target.url()],
    );
    assert!(forwarded.wait_exit().await.success(), "{}", forwarded.output());
    target.wait_for(1).await;
    for request in [receiver.requests(), plain.requests(), target.requests()].concat() {
        assert_eq!(request.webhook_id(), Some(webhook_id.as_str()));
    }
}

/// Over HTTP, by the tool, and in a receiver's list of what it has seen.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_found_by_either_id() {
    for database in [Database::Sqlite, Database::Postgres] {
        either_id(database).await;
    }
}

async fn either_id(database: Database) {
    let world = World::recorded(database).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::status(500));
    world.api.add(&receiver, &["#"], json!({"retry": []})).await;
    let long = "ü".repeat(512);
    let names = [
        ("/orders", "a/b"),
        ("/orders", "two words?#%25"),
        ("/orders", "."),
        ("/orders", "日本 / 語"),
        ("/relay", "plain-1"),
        ("/orders", "plain-1"),
        ("/invoices", "plain-1"),
        ("/relay", &"x".repeat(1_024)),
        ("/orders", &long),
    ];
    for (source, id) in names {
        publish(&world, &event(id, source)).await;
    }
    receiver.wait_for(names.len()).await;
    world.dead_letters(u32::try_from(names.len()).unwrap()).await;
    let mut webhook_ids = BTreeSet::new();
    for (source, id) in names {
        let webhook_id = WebhookId::of(source, &id.parse().unwrap()).to_string();
        let status = settled(&world, &format!("/v1/events/{webhook_id}")).await;
        for status in [&status, &status["event"]] {
            assert_eq!((&status["id"], &status["source"]), (&json!(id), &json!(source)));
        }
        assert_eq!(status["webhook_id"], webhook_id);
        let attempts = format!("/v1/events/{webhook_id}/attempts");
        let attempts = world.api.json(Method::GET, &attempts, None).await;
        assert_eq!(attempts["attempts"].as_array().unwrap().len(), 1);
        if id != "." {
            let path = format!("/v1/events/{}?source={}", encoded(id), encoded(source));
            let found = world.api.json(Method::GET, &path, None).await;
            assert_eq!(found["webhook_id"], webhook_id);
            let shown = world.cli(&["events", "show", id, "--source", source]).await;
            assert!(shown.output().contains(&webhook_id), "{}", shown.output());
        }
        let shown = world.cli(&["events", "show", &webhook_id, "--attempts"]).await;
        assert!(shown.wait_exit().await.success(), "{}", shown.output());
        let dead = world.cli(&["dlq", "show", &webhook_id, "--json"]).await;
        let dead: Value = serde_json::from_str(&dead.lines().join("\n")).unwrap();
        let letters = dead["dead_letters"].as_array().unwrap();
        let of_it: Vec<&Value> = letters
            .iter()
            .filter(|letter| letter["webhook_id"] == webhook_id)
            .collect();
        assert_eq!(of_it.len(), 1, "{dead}");
        assert_eq!(of_it[0]["event"]["source"], source);
        webhook_ids.insert(webhook_id);
    }
    // A webhook id that is also another event's own id names the event that receivers know by it.
    let plain = world.api.json(Method::GET, "/v1/events/plain-1", None).await;
    assert_eq!(plain["source"], "/relay");

    let of = |list: &Value| -> BTreeSet<String> {
        let ids = list.as_array().unwrap().iter();
        ids.map(|item| item["webhook_id"].as_str().unwrap().to_owned())
            .collect()
    };
    for (path, list) in [
        ("events", "events"),
        ("deliveries", "deliveries"),
        ("feed?after=start", "events"),
    ] {
        let page = world.api.json(Method::GET, &format!("/v1/{path}"), None).await;
        assert_eq!(of(&page[list]), webhook_ids, "{path}");
    }

    let (seen, all) = (world.folder().join("seen"), webhook_ids.len());
    let lines: Vec<&str> = webhook_ids.iter().skip(1).map(String::as_str).collect();
    fs::write(&seen, lines.join("\n")).unwrap();
    let compared = world
        .cli(&["reconcile", "--since", "1h", "--seen", seen.to_str().unwrap()])
        .await;
    let said = format!("{all} events looked at, 1 missed");
    assert!(compared.output().contains(&said), "{}", compared.output());
}

/// An older version let in what is no CloudEvent by today's rules. What it accepted is still delivered.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_let_in_is_still_delivered() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.script([Answer::status(500)]);
    let added = world.api.add(&receiver, &["#"], json!({"retry": ["1s"]})).await;
    let data = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let old = format!(
        r#"{{"specversion":"1.0","id":"old","source":"http://[bad","type":"a.b","rate":1.5,"data":{data}}}"#
    );
    // A retry under way: the relay's own, on its way back.
    let producer = world.producer().await;
    let mut headers = amqp::headers(&[("relay-endpoint", &added.id)]);
    headers.insert("relay-wire".into(), AMQPValue::LongLongInt(1));
    let properties = amqp::structured().with_headers(headers);
    producer
        .publish_to("return", "", properties, old.as_bytes())
        .await;
    receiver.wait_for(2).await;

    // In the log, and replayed from there.
    let logged = NewEvent {
        event: Event::reread(old.clone().into()).unwrap(),
        published_at: None,
        routed_to: Vec::new(),
    };
    let store = world.store().await;
    store
        .record(&[Record::Event(logged)], Timestamp::now())
        .await
        .unwrap();
    wait_until("both attempts in the log", || async {
        let attempts = world.api.json(Method::GET, "/v1/events/old/attempts", None).await;
        let count = attempts["attempts"].as_array().unwrap().len();
        (count == 2).then_some(()).ok_or(attempts)
    })
    .await;
    world
        .api
        .json(Method::POST, "/v1/events/old/replay", Some(json!({})))
        .await;
    let requests = receiver.wait_for(3).await;
    for request in &requests {
        assert_eq!(request.body, old.as_bytes());
    }
    assert_eq!(world.waiting(Queue::Dead).await, 0);
    let shown = world.cli(&["events", "show", "old"]).await;
    assert!(shown.output().contains("http://[bad"), "{}", shown.output());
}
