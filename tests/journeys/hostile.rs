//! What anybody with access to the exchange may try.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable},
};
use relay_broker::Queue;
use relay_event::DeadReason;
use relay_testkit::{Answer, Process, Receiver, shared_broker, wait_until};
use relay_tests::{Database, World, amqp};
use serde_json::json;

fn event(id: &str) -> Vec<u8> {
    json!({"specversion": "1.0", "id": id, "source": "/x", "type": "order.created"})
        .to_string()
        .into_bytes()
}

/// RabbitMQ up to 3.13 believes a client's `x-death`, and takes a message that seems to have been
/// through a queue before for a cycle.
fn forged_death(world: &World) -> AMQPValue {
    let mut deaths = FieldArray::default();
    for queue in ["retry.1s", "again", "work", "archive"] {
        let queue = format!("{}.{queue}", world.namespace);
        let mut death = amqp::headers(&[("queue", &queue), ("reason", "expired"), ("exchange", "")]);
        death.insert("count".into(), AMQPValue::LongLongInt(99));
        deaths.push(AMQPValue::FieldTable(death));
    }
    AMQPValue::FieldArray(deaths)
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_broker_headers_change_nothing() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    world
        .api
        .add(&receiver, &["order.*"], json!({"retry": ["1s"]}))
        .await;

    let mut headers = amqp::headers(&[("relay-reason", "endpoint_gone"), ("relay-endpoint", "ep_0")]);
    headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(1_000_000));
    headers.insert("relay-attempts".into(), AMQPValue::LongLongInt(1_000));
    let mut with_death = headers.clone();
    with_death.insert("x-death".into(), forged_death(&world));
    let producer = world.producer().await;
    // The first reaches the deliverer as it is; the second by way of the recorder.
    for (number, (id, headers)) in [("forged", headers), ("forged-death", with_death)]
        .into_iter()
        .enumerate()
    {
        receiver.script([Answer::status(500)]);
        let properties = amqp::structured()
            .with_headers(headers)
            .with_expiration("600000".into())
            .with_priority(9);
        producer.publish("order.created", properties, &event(id)).await;

        // It fails once, waits its second, and is delivered at its second attempt of two.
        let requests = receiver.wait_for(2 * (number + 1)).await;
        assert_eq!(requests.last().unwrap().event_id().as_deref(), Some(id));
    }
    assert_eq!(world.waiting(Queue::Dead).await, 0);
}

/// A carbon copy is one more routing key of the producer's choice. It must lead the event neither to an endpoint that
/// wants that key and not the event's type, nor anywhere a second time.
#[tokio::test(flavor = "multi_thread")]
async fn carbon_copies_change_nothing() {
    let world = World::start().await;
    let (orders, others) = (Receiver::start().await, Receiver::start().await);
    orders.script([Answer::status(500)]);
    world
        .api
        .add(&orders, &["order.*"], json!({"retry": ["1s"]}))
        .await;
    let other = world.api.add(&others, &["invoice.*"], json!({})).await;
    let mut headers = FieldTable::default();
    for (name, key) in [("CC", "invoice.sent"), ("BCC", other.id.as_str())] {
        let copies = FieldArray::from(vec![AMQPValue::LongString(key.into())]);
        headers.insert(name.into(), AMQPValue::FieldArray(copies));
    }
    let properties = amqp::structured().with_headers(headers);
    world
        .producer()
        .await
        .publish("order.created", properties, &event("copied"))
        .await;
    orders.wait_for(2).await;
    // What is published now to the other one would come after the copy.
    let last = world.api.publish("invoice.sent", json!(1)).await;
    let requests = others.wait_for(1).await;
    assert_eq!(
        (requests.len(), requests[0].webhook_id()),
        (1, Some(last.as_str()))
    );
    assert_eq!(orders.requests().len(), 2);
}

/// Headers cannot be split into frames, so what a producer put there must not grow on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_of_any_shape_is_set_aside_at_the_first_try() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let producer = world.producer().await;
    let name = "A".repeat(200_000);
    let odd = format!(r#"{{"specversion":"1.0","id":"1","source":"/x","type":"a.b","{name}":1}}"#);
    producer.publish_structured("a.b", odd.as_bytes()).await;
    let value = "v".repeat(100_000);
    let wide =
        BasicProperties::default().with_headers(amqp::headers(&[("ce-id", "wide"), ("ce-odd", &value)]));
    producer.publish("a.b", wide, b"{}").await;

    let letters = world.dead_letters(2).await;
    assert!(
        letters
            .iter()
            .all(|letter| letter.reason == DeadReason::InvalidEvent),
        "{letters:#?}"
    );
    assert!(
        letters
            .iter()
            .any(|letter| letter.event_id.as_deref() == Some("wide")),
        "{letters:#?}"
    );
    let metrics = world
        .api
        .metrics(&relay_tests::metrics_address(&world.deliverers[0]).await)
        .await;
    assert!(
        metrics.contains("relay_broker_connections_total 1"),
        "the connection did not end over it: {metrics}"
    );
}

/// Base64 makes an event larger than it came.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_grows_in_structured_mode_is_judged_by_that() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    receiver.script([Answer::status(500)]);
    world.api.add(&receiver, &["#"], json!({"retry": ["1s"]})).await;
    let producer = world.producer().await;
    let attributes = |id| {
        [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/x"),
            ("ce-type", "a.b"),
        ]
    };
    let binary = |id| BasicProperties::default().with_headers(amqp::headers(&attributes(id)));
    producer
        .publish("a.b", binary("too-large"), &vec![0; 200 * 1024])
        .await;
    producer
        .publish("a.b", binary("fits"), &vec![0; 190 * 1024])
        .await;
    let letters = world.dead_letters(1).await;
    assert_eq!(
        (letters.len(), letters[0].event_id.as_deref()),
        (1, Some("too-large"))
    );
    let requests = receiver.wait_for(2).await;
    assert!(
        requests
            .iter()
            .all(|request| request.event_id().as_deref() == Some("fits"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_valid_event_is_set_aside_with_its_reason() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let producer = world.producer().await;
    let plain = BasicProperties::default;
    let large = format!(
        r#"{{"specversion":"1.0","id":"large","source":"/x","type":"a.b","data":"{}"}}"#,
        "x".repeat(262_144)
    );
    let binary = |entries: &[(&str, &str)]| plain().with_headers(amqp::headers(entries));

    let table: [(&str, BasicProperties, &[u8], &str); 9] = [
        ("a.b", plain(), b"hello", "neither structured"),
        ("a.b", amqp::structured(), b"", "must be a JSON object"),
        (
            "a.b",
            amqp::structured(),
            b"{\"specversion\":\"1.0\"",
            "must be a JSON object",
        ),
        (
            "a.b",
            amqp::structured(),
            b"\xff\xfe\x00",
            "must be a JSON object",
        ),
        (
            "a.b",
            amqp::structured(),
            br#"{"specversion":"1.0","source":"/x","type":"a.b"}"#,
            "id: is missing",
        ),
        (
            "a.b",
            amqp::structured(),
            br#"{"specversion":"1.0","id":"1","source":"/x","type":"other"}"#,
            "routing key",
        ),
        (
            "a.b",
            amqp::structured(),
            large.as_bytes(),
            "bytes; at most 262144 are allowed",
        ),
        (
            "a.b",
            binary(&[("ce-id", "7"), ("ce-type", "a.b"), ("ce-source", "/x")]),
            b"{}",
            "specversion: is missing",
        ),
        (
            "a.b",
            binary(&[("ce-id", "8"), ("ce-Type", "a.b")]).with_content_type("text/plain".into()),
            b"x",
            "Type",
        ),
    ];
    let count = table.len();
    for (key, properties, body, _) in &table {
        producer.publish(key, properties.clone(), body).await;
    }
    producer.publish_structured("order.created", &event("good")).await;

    let letters = world.dead_letters(u32::try_from(count).unwrap()).await;
    assert_eq!(letters.len(), count);
    for (_, _, body, reason) in &table {
        let found = letters.iter().any(|letter| {
            letter.reason == DeadReason::InvalidEvent
                && letter
                    .detail
                    .as_deref()
                    .is_some_and(|detail| detail.contains(reason))
        });
        assert!(
            found,
            "no letter says {reason:?} of {:?}: {letters:#?}",
            String::from_utf8_lossy(&body[..body.len().min(80)])
        );
    }
    let seven = letters
        .iter()
        .find(|letter| letter.event_id.as_deref() == Some("7"))
        .unwrap();
    assert_eq!(seven.event_type.as_deref(), Some("a.b"));
    assert_eq!(receiver.wait_for(1).await[0].event_id().as_deref(), Some("good"));
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_at_the_size_limit_passes_by_both_doors() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let frame = r#"{"specversion":"1.0","id":"full","source":"/x","type":"a.b","data":""}"#;
    let full = frame.replace(
        r#""data":"""#,
        &format!(r#""data":"{}""#, "x".repeat(262_144 - frame.len())),
    );
    assert_eq!(full.len(), 262_144);
    world
        .producer()
        .await
        .publish_structured("a.b", full.as_bytes())
        .await;
    assert_eq!(receiver.wait_for(1).await[0].body, full);
    let accepted = world
        .api
        .post_event("application/cloudevents+json", full.replace("full", "http"))
        .await;
    assert_eq!(accepted.status().as_u16(), 202);
    assert_eq!(receiver.wait_for(2).await[1].event_id().as_deref(), Some("http"));
    // What is filled in counts: the event would be too large for the deliverer.
    let filled = world
        .api
        .post_event("application/json", full.replace("full", "time"))
        .await;
    assert_eq!(filled.status().as_u16(), 413);
    let over = json!({"type": "a.b", "data": "x".repeat(262_144)});
    let refused = world
        .api
        .call(reqwest::Method::POST, "/v1/events", Some(over))
        .await;
    assert_eq!(refused.status().as_u16(), 413);
}

/// A message that ends every deliverer that takes it must not go round for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_returned_again_and_again_is_set_aside() {
    let mut world = World::without_deliverer(shared_broker().await).await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    world
        .producer()
        .await
        .publish_structured("order.created", &event("deadly"))
        .await;
    let session = world.session().await;
    // First among others, and then alone.
    for (queue, next) in [(Queue::Work, Queue::WorkLate), (Queue::WorkLate, Queue::Dead)] {
        let mut consumer = session.consume(queue, 1).await.unwrap();
        for _ in 0..21 {
            consumer.next().await.unwrap().give_back().await;
        }
        wait_until(format!("it to be in {next}"), || async {
            world.waiting(next).await == 1
        })
        .await;
        consumer.stop().await;
    }
    session.close().await;
    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.reason, letter.event_id.as_deref(), letter.endpoint),
        (DeadReason::DeliveryLimit, Some("deadly"), None)
    );

    // It was for nobody yet; its redelivery is for all that want it.
    world.add_deliverer().await;
    let drained = world.cli(&["dlq", "drain", "--redeliver"]).await;
    assert!(drained.exit_status().unwrap().success(), "{}", drained.output());
    let requests = receiver.wait_for(1).await;
    assert_eq!(requests[0].event_id().as_deref(), Some("deadly"));
    assert_eq!(world.waiting(Queue::Dead).await, 0);
}

/// Settings hold passwords, and help and refusals are read by others.
#[tokio::test]
async fn no_process_shows_a_password() {
    let secrets = [
        ("RELAY_AMQP_URL", "amqp://relay:hunter2@127.0.0.1/%2f"),
        ("RELAY_STORE_URL", "postgres://relay:hunter2@127.0.0.1/relay"),
        ("RELAY_TOKEN", "hunter2"),
    ];
    for process in ["relay-gateway", "relay-deliverer", "relay-recorder"] {
        let help = Process::spawn(process, &secrets, &["--help"]);
        help.wait_exit().await;
        assert!(help.output().contains("RELAY_STORE_URL"), "{}", help.output());
        let wrong = ["--store", "mysql://relay:hunter2@127.0.0.1/relay"];
        let refused = Process::spawn(process, &secrets, &wrong);
        assert!(!refused.wait_exit().await.success());
        for said in [help.output(), refused.output()] {
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
