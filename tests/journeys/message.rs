//! Properties and headers that a producer may set beside the event: types that CloudEvents does not have, an
//! encoding, a time to live, a time of its own, and bodies of any size.

use std::{io::Write, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use lapin::{
    BasicProperties,
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable},
};
use relay_broker::Queue;
use relay_event::DeadReason;
use relay_testkit::{
    Answer, Process, Receiver, private_broker_with, shared_broker, wait_until, wait_until_within,
};
use relay_tests::{Database, World, amqp};
use reqwest::Method;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

fn event(id: &str) -> Vec<u8> {
    json!({"specversion": "1.0", "id": id, "source": "/x", "type": "a.b"})
        .to_string()
        .into_bytes()
}

/// An event in binary mode with one more header.
fn binary(id: &str, name: &str, value: AMQPValue) -> BasicProperties {
    let mut headers = amqp::headers(&[
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/x"),
        ("ce-type", "a.b"),
    ]);
    headers.insert(name.into(), value);
    BasicProperties::default()
        .with_headers(headers)
        .with_content_type("application/json".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_an_attribute_or_a_reason_to_refuse_the_event() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let producer = world.producer().await;
    let taken = [
        ("text", AMQPValue::LongString("high".into()), json!("high")),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into()), json!("AP8=")),
        ("truth", AMQPValue::Boolean(true), json!("true")),
        ("number", AMQPValue::LongInt(-7), json!("-7")),
        ("large", AMQPValue::LongLongInt(1 << 40), json!("1099511627776")),
        ("time", AMQPValue::Timestamp(0), json!("1970-01-01T00:00:00.000Z")),
        ("void", AMQPValue::Void, Value::Null),
    ];
    for (id, value, _) in &taken {
        let properties = binary(id, "ce-level", value.clone());
        producer.publish("a.b", properties, b"{}").await;
    }
    let requests = receiver.wait_for(taken.len()).await;
    for (id, _, level) in &taken {
        let request = requests
            .iter()
            .find(|r| r.event_id().as_deref() == Some(*id))
            .unwrap();
        assert_eq!(&request.json()["level"], level, "{id}");
    }

    let refused = [
        ("double", AMQPValue::Double(0.5), "is a double"),
        ("float", AMQPValue::Float(0.5), "is a float"),
        (
            "decimal",
            AMQPValue::DecimalValue(DecimalValue { scale: 1, value: 5 }),
            "is a decimal",
        ),
        (
            "table",
            AMQPValue::FieldTable(FieldTable::default()),
            "is a table",
        ),
        ("list", AMQPValue::FieldArray(FieldArray::default()), "is a list"),
        (
            "latin",
            AMQPValue::LongString(vec![0xE9].into()),
            "is a text that is not UTF-8",
        ),
        (
            "milliseconds",
            AMQPValue::Timestamp(1_700_000_000_000),
            "beyond the year 9999",
        ),
    ];
    for (id, value, _) in &refused {
        let properties = binary(id, "ce-level", value.clone());
        producer.publish("a.b", properties, b"{}").await;
    }
    let letters = world.dead_letters(u32::try_from(refused.len()).unwrap()).await;
    for (id, _, why) in &refused {
        let letter = letters
            .iter()
            .find(|l| l.event_id.as_deref() == Some(id))
            .unwrap();
        let detail = letter.detail.as_deref().unwrap();
        assert!(
            letter.reason == DeadReason::InvalidEvent
                && detail.starts_with("header ce-level: ")
                && detail.contains(why),
            "{letter:#?}"
        );
    }
    // Sent on without what made it invalid, it would be another event.
    let drained = world.cli(&["dlq", "drain", "--redeliver"]).await;
    assert!(drained.output().contains("7 stay"), "{}", drained.output());
    // A header without the prefix is no attribute, so its type does not matter.
    let other = binary("other", "level", AMQPValue::Double(0.5));
    producer.publish("a.b", other, b"{}").await;
    let requests = receiver.wait_for(taken.len() + 1).await;
    assert_eq!(requests[taken.len()].event_id().as_deref(), Some("other"));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_says_gzip_is_unpacked_up_to_the_size_of_an_event() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    receiver.script([Answer::status(500)]);
    world.api.add(&receiver, &["#"], json!({"retry": ["1s"]})).await;
    let producer = world.producer().await;
    let encoded =
        |properties: BasicProperties, encoding: &str| properties.with_content_encoding(encoding.into());
    let packed = gzip(&event("packed"));
    producer
        .publish("a.b", encoded(amqp::structured(), "gzip"), &packed)
        .await;
    // Its retry is the event, and not packed twice.
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[1].body, event("packed"));
    let text = encoded(binary("text", "ce-level", AMQPValue::Void), "gzip");
    producer.publish("a.b", text, &gzip(b"{\"n\": 1}")).await;
    let plain = encoded(amqp::structured(), "utf-8");
    producer.publish("a.b", plain, &event("plain")).await;
    let requests = receiver.wait_for(4).await;
    let text = requests
        .iter()
        .find(|r| r.event_id().as_deref() == Some("text"))
        .unwrap();
    assert_eq!(text.json()["data"], json!({"n": 1}));

    let bomb = gzip(&vec![b' '; 100 * MIB]);
    let refused: [(&str, &[u8], &str); 4] = [
        ("gzip", &bomb, "is more than 262144 bytes when unpacked"),
        ("gzip", &packed[..packed.len() - 2], "no whole gzip file"),
        ("gzip", b"{}", "no whole gzip file"),
        ("deflate", b"{}", "\"deflate\" is not known; send gzip or none"),
    ];
    for (encoding, body, _) in &refused {
        producer
            .publish("a.b", encoded(amqp::structured(), encoding), body)
            .await;
    }
    let letters = world.dead_letters(u32::try_from(refused.len()).unwrap()).await;
    for (_, _, why) in &refused {
        let says = |detail: &str| detail.contains(why);
        assert!(
            letters
                .iter()
                .any(|letter| letter.detail.as_deref().is_some_and(says)),
            "{why}: {letters:#?}"
        );
    }
}

/// The event's record, once there is one and all its deliveries have ended.
async fn settled(world: &World, id: &str) -> Value {
    let path = format!("/v1/events/{id}");
    wait_until(format!("the deliveries of {id}"), || async {
        let answer = world.api.call(Method::GET, &path, None).await;
        if !answer.status().is_success() {
            return Err(format!("{}", answer.status()));
        }
        let event: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let deliveries = event["deliveries"].as_array().unwrap().len();
        if event["settled"] == json!(true) && deliveries > 0 {
            Ok(event)
        } else {
            Err(event.to_string())
        }
    })
    .await
}

/// The broker counts a producer's time to live wherever the message waits. An event that outlives it goes to its
/// endpoint all the same, now or later, and into the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_producers_expiration_loses_nothing() {
    let mut world = World::without_deliverer(shared_broker().await).await;
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    let endpoint = world.api.add(&receiver, &["#"], json!({"paused": true})).await;
    world.api.add(&other, &["#"], json!({})).await;
    let mortal = amqp::structured()
        .with_expiration("50".into())
        .with_headers(amqp::headers(&[("relay-reason", "endpoint_gone")]));
    world
        .producer()
        .await
        .publish("a.b", mortal, &event("mortal"))
        .await;
    for late in [Queue::WorkLate, Queue::ArchiveLate] {
        wait_until(format!("it to expire into {late}"), || async {
            world.waiting(late).await == 1
        })
        .await;
    }

    world.add_deliverer().await;
    world.add_recorder().await;
    assert_eq!(other.wait_for(1).await[0].event_id().as_deref(), Some("mortal"));
    world.wait_until_held(&endpoint.id, |held| held == 1).await;
    world.api.change(&endpoint.id, json!({"paused": false})).await;
    assert_eq!(
        receiver.wait_for(1).await[0].event_id().as_deref(),
        Some("mortal")
    );
    let event = settled(&world, "mortal").await;
    for delivery in event["deliveries"].as_array().unwrap() {
        assert_eq!(delivery["state"], json!("delivered"), "{event}");
    }
    assert_eq!(world.waiting(Queue::Dead).await, 0);
}

/// A few kilobytes may be an event that no broker takes once it is unpacked.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_unpacked_is_set_aside_also_when_it_expires() {
    let broker = private_broker_with("max_message_size = 2097152").await;
    let mut world = World::on(broker.amqp_url(), Database::Sqlite).await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["a.b"], json!({"paused": true})).await;
    world.api.add(&receiver, &["good.one"], json!({})).await;
    let large = json!({
        "specversion": "1.0", "id": "packed", "source": "/x", "type": "a.b", "data": "x".repeat(3 * MIB),
    });
    let mortal = amqp::structured()
        .with_content_encoding("gzip".into())
        .with_expiration("0".into());
    let body = gzip(large.to_string().as_bytes());
    world.producer().await.publish("a.b", mortal, &body).await;
    for late in [Queue::WorkLate, Queue::ArchiveLate] {
        wait_until(format!("it to expire into {late}"), || async {
            world.waiting(late).await == 1
        })
        .await;
    }

    world.add_deliverer().await;
    world.add_recorder().await;
    // The deliverer's, and the recorder's.
    for letter in world.dead_letters(2).await {
        assert_eq!(letter.reason, DeadReason::InvalidEvent, "{letter:#?}");
        let detail = letter.detail.unwrap();
        assert!(
            detail.contains("more than 262144 bytes when unpacked"),
            "{detail}"
        );
    }
    let good = world.api.publish("good.one", json!(1)).await;
    // Its attempt comes after the copy of the letter, in the same queue.
    settled(&world, &good).await;
    let path = "/v1/events/packed";
    assert_eq!(world.api.call(Method::GET, path, None).await.status(), 404);
    there(&world, 2).await;
    let drained = world.cli(&["dlq", "drain", "--redeliver"]).await.output();
    assert!(drained.contains("2 stay"), "{drained}");
    // The tool holds many letters at once, so it keeps this one as it came.
    there(&world, 2).await;
    let shown = world.cli(&["dlq", "show", "packed", "--json"]).await;
    shown.wait_exit().await;
    let shown = shown.output();
    assert!(shown.contains(r#""content_encoding": "gzip""#), "{shown:.1000}");
    assert!(shown.len() < 100 * 1024, "{} bytes", shown.len());
}

/// A time that cannot be is not believed, and a delivery never stands by one that nothing can follow.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_time_changes_nothing() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({"retry": []})).await;
    let producer = world.producer().await;
    let now = i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap();
    let day = 24 * 60 * 60 * 1_000;
    for (id, millis) in [
        ("year-9999", 253_402_300_799_999),
        ("tomorrow", now + day),
        ("last-year", now - 365 * day),
        ("epoch", 0),
        ("minus", -1),
        ("largest", i64::MAX),
    ] {
        receiver.respond_with(Answer::status(500));
        let mut headers = amqp::headers(&[("relay-first-attempt", "1"), ("relay-attempts", "9")]);
        headers.insert("relay-published-at".into(), AMQPValue::LongLongInt(millis));
        let forged = amqp::structured().with_headers(headers);
        producer.publish("a.b", forged, &event(id)).await;
        let dead = settled(&world, id).await;
        assert_eq!(dead["deliveries"][0]["state"], json!("dead"), "{dead}");
        let published = dead["published_at"].as_str().unwrap_or_default();
        let published: i64 = published
            .parse::<relay_event::Timestamp>()
            .map_or(now, relay_event::Timestamp::as_millis);
        assert!((now - 1_000..now + 60_000).contains(&published), "{id}: {dead}");
        receiver.respond_with(Answer::status(204));
        let replay = format!("/v1/events/{id}/replay");
        let replayed = world.api.call(Method::POST, &replay, Some(json!({}))).await;
        assert!(replayed.status().is_success(), "{id}");
        wait_until(format!("the replay of {id}"), || async {
            let event = settled(&world, id).await;
            if event["deliveries"][0]["state"] == json!("delivered") {
                Ok(())
            } else {
                Err(event)
            }
        })
        .await;
    }
}

/// The most memory a process has needed so far, in bytes.
fn peak(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Waits until this many letters are in the dead-letter queue and held by nobody.
async fn there(world: &World, count: u32) {
    wait_until_within(Duration::from_secs(180), "the letters", || async {
        match world.waiting(Queue::Dead).await {
            waiting if waiting == count => Ok(()),
            waiting => Err(waiting),
        }
    })
    .await;
}

/// Prefetch counts messages, and a message may be as large as the broker allows.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_any_size_cost_little_memory() {
    const COUNT: usize = 6;
    // Waiting messages of this size may make a broker hold up its publishers.
    let broker = private_broker_with("vm_memory_high_watermark.relative = 0.8").await;
    let mut world = World::on(broker.amqp_url(), Database::Sqlite).await;
    world.add_deliverer().await;
    world.add_recorder().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let idle = [peak(&world.deliverers[0]), peak(&world.recorders[0])];
    world.deliverers.remove(0).kill_9();
    world.recorders.remove(0).kill_9();
    let body = vec![b'x'; 16 * MIB];
    let producer = world.producer().await;
    for _ in 0..COUNT {
        producer.publish("a.b", amqp::structured(), &body).await;
    }
    world.add_deliverer().await;
    world.add_recorder().await;

    let expected = 2 * u32::try_from(COUNT).unwrap();
    there(&world, expected).await;
    let letters = world.dead_letters(expected).await;
    for letter in &letters {
        let detail = letter.detail.as_deref().unwrap();
        assert!(detail.contains("16777216"), "{letter:#?}");
        assert_eq!(letter.reason, DeadReason::InvalidEvent);
    }
    assert_eq!(letters.len(), 2 * COUNT);
    for (process, idle) in [&world.deliverers[0], &world.recorders[0]].into_iter().zip(idle) {
        let grown = peak(process).saturating_sub(idle);
        assert!(grown < 48 * MIB, "{} MiB more than idle", grown / MIB);
    }

    // The tool takes no more of them than it says, and removes none that it does not have whole.
    let file = world.folder().join("letters.ndjson");
    let path = file.to_str().unwrap();
    let export = ["dlq", "drain", "--export", path];
    there(&world, expected).await;
    let cut = world.cli(&export).await.output();
    assert!(
        cut.contains("12 stay") && cut.contains("RELAY_MAX_EVENT_BYTES=16777216"),
        "{cut}"
    );
    there(&world, expected).await;
    let tool = world.cli_with(
        &[("RELAY_MAX_EVENT_BYTES", "16777216")],
        &[&export[..], &["--limit", "1"]].concat(),
    );
    wait_until_within(Duration::from_secs(180), "the export", || async {
        tool.exit_status().ok_or("still running")
    })
    .await;
    assert!(tool.wait_exit().await.success(), "{}", tool.output());
    let exported = std::fs::read_to_string(&file).unwrap();
    for line in exported.lines() {
        let letter: Value = serde_json::from_str(line).unwrap();
        let whole = STANDARD.decode(letter["body_base64"].as_str().unwrap()).unwrap();
        assert!(whole == body, "{} bytes", whole.len());
    }
    assert_eq!(exported.lines().count(), 1);
    there(&world, expected - 1).await;
    let discarded = world.cli(&["dlq", "drain", "--discard"]).await.output();
    assert!(discarded.contains("11 dead letters discarded"), "{discarded}");
    let good = world.api.publish("a.b", json!(1)).await;
    receiver.wait_for(1).await;
    settled(&world, &good).await;
}
