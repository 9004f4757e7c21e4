//! Messages that no library would send. Each becomes a dead letter with its reason, and no process stops
//! over it, nor does one that starts on what waits already.

use std::time::Duration;

use relay_broker::Queue;
use relay_event::{DeadLetter, DeadReason};
use relay_testkit::{
    Answer, Process, Receiver, private_broker,
    raw_amqp::{RawProducer, RawProperties, field, long, nested_arrays, nested_tables, short},
    wait_until, wait_until_within,
};
use relay_tests::{Database, World};
use serde_json::json;

const STRUCTURED: &[u8] = b"application/cloudevents+json";

fn event(id: &str) -> Vec<u8> {
    json!({"specversion": "1.0", "id": id, "source": "/x", "type": "a.b"})
        .to_string()
        .into_bytes()
}

fn structured(table: &[u8]) -> RawProperties {
    RawProperties::new(STRUCTURED, table)
}

/// Of [`nestings`], those that claim a death: they reach no deliverer, so they become the recorder's letter alone.
const CLAIM_A_DEATH: usize = 1;

/// Header tables that nest, the deepest as deep as fits into a frame of 128 KiB.
fn nestings() -> Vec<Vec<u8>> {
    let mixed = (0..1_000).fold(Vec::new(), |inner, _| {
        let table = field(b"", b'F', &long(&inner));
        let list = [&b"F"[..], &long(&table)].concat();
        field(b"", b'A', &long(&list))
    });
    let beside = [
        field(b"ce-id", b'S', &long(b"beside")),
        nested_tables(b"ce-level", 900),
        field(b"last", b't', &[1]),
    ]
    .concat();
    let within_death = field(
        b"x-death",
        b'A',
        &long(&[&b"F"[..], &long(&nested_tables(b"queue", 1_000))].concat()),
    );
    vec![
        nested_tables(b"a", 17),
        nested_tables(b"a", 900),
        nested_tables(b"a", 18_000),
        nested_tables(b"", 2_000),
        nested_arrays(b"a", 25_000),
        mixed,
        beside,
        within_death,
        nested_arrays(b"CC", 1_000),
    ]
}

async fn publish(world: &World, properties: &[RawProperties]) {
    let mut producer = RawProducer::connect(&world.amqp_url).await;
    let exchange = format!("{}.events", world.namespace);
    for (number, properties) in properties.iter().enumerate() {
        let body = event(&format!("poison-{number}"));
        let published = producer.publish(&exchange, b"a.b", properties, &body).await;
        published.unwrap_or_else(|why| panic!("{number}: {why}"));
    }
}

fn is_running(process: &Process) {
    assert_eq!(process.exit_status(), None, "{}", process.output());
}

fn are_of(letters: &[DeadLetter], detail: &str) {
    for letter in letters {
        let said = letter.detail.as_deref().unwrap_or_default();
        assert!(
            letter.reason == DeadReason::InvalidEvent && said.contains(detail),
            "{letter:#?}"
        );
    }
}

/// The recorder's and the deliverer's letters of what was published, and then an event that is delivered.
async fn become_letters(world: &World, receiver: &Receiver, published: usize) -> Vec<DeadLetter> {
    let count = 2 * published - CLAIM_A_DEATH;
    // RabbitMQ 4 takes many seconds to hand out the deepest.
    wait_until_within(Duration::from_secs(300), "the dead letters", || async {
        usize::try_from(world.waiting(Queue::Dead).await).unwrap() >= count
    })
    .await;
    let letters = world.dead_letters(u32::try_from(count).unwrap()).await;
    assert_eq!(letters.len(), count, "{letters:#?}");
    let good = world.api.publish("a.b", json!(1)).await;
    let requests = receiver
        .wait_until("the good event", |requests| {
            requests
                .iter()
                .any(|r| r.event_id().as_deref() == Some(good.as_str()))
        })
        .await;
    assert_eq!(requests.len(), 1, "{requests:#?}");
    for process in world.deliverers.iter().chain(&world.recorders) {
        is_running(process);
    }
    letters
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_nest_end_no_process() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let nested: Vec<_> = nestings().iter().map(|table| structured(table)).collect();
    publish(&world, &nested).await;
    let letters = become_letters(&world, &receiver, nested.len()).await;
    are_of(&letters, "nest deeper than 16");
}

/// An older version died of such messages, again and again, and left them in the queues.
#[tokio::test(flavor = "multi_thread")]
async fn processes_start_on_queues_that_are_poisoned() {
    let mut world = World::without_deliverer(relay_testkit::shared_broker().await).await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let nested: Vec<_> = nestings().iter().map(|table| structured(table)).collect();
    publish(&world, &nested).await;
    world.add_deliverer().await;
    world.add_recorder().await;
    become_letters(&world, &receiver, nested.len()).await;
}

/// The tool reads the dead-letter queue itself, whoever put there what.
#[tokio::test(flavor = "multi_thread")]
async fn the_tool_works_through_letters_that_nest() {
    let world = World::without_deliverer(relay_testkit::shared_broker().await).await;
    let mut producer = RawProducer::connect(&world.amqp_url).await;
    let exchange = format!("{}.dead", world.namespace);
    // RabbitMQ writes the headers anew each time a message comes back, which takes it long for deeper ones.
    let nestings = [
        nested_tables(b"a", 5_000),
        nested_arrays(b"a", 900),
        nested_tables(b"ce-id", 900),
    ];
    for table in &nestings {
        let properties = structured(table);
        producer
            .publish(&exchange, b"", &properties, &event("poison"))
            .await
            .unwrap();
    }
    let file = world.folder().join("letters.ndjson");
    // Exit code 3: letters were meant, and stay.
    let works = async |there: usize, args: &[&str], code: i32, said: &str| {
        // Those that were looked at are back a little later.
        wait_until("the letters", || async {
            match usize::try_from(world.waiting(Queue::Dead).await).unwrap() {
                count if count == there => Ok(()),
                count => Err(count),
            }
        })
        .await;
        let tool = world.cli(args).await;
        let status = tool.wait_exit().await;
        assert!(
            status.code() == Some(code) && tool.output().contains(said),
            "{args:?}: {status}: {}",
            tool.output()
        );
    };
    works(3, &["dlq", "list"], 0, "invalid_event").await;
    works(3, &["dlq", "list", "--json"], 0, "nest deeper than 16").await;
    works(3, &["dlq", "drain", "--redeliver"], 3, "stay").await;
    works(
        3,
        &["dlq", "drain", "--export", file.to_str().unwrap(), "--limit", "2"],
        0,
        "2 dead letters exported",
    )
    .await;
    works(1, &["dlq", "drain", "--discard"], 0, "1 dead letter discarded").await;
    let exported = std::fs::read_to_string(file).unwrap();
    assert_eq!(exported.lines().count(), 2, "{exported}");
}

/// Headers `x-death` of a form that RabbitMQ never writes.
fn forged_deaths() -> Vec<Vec<u8>> {
    let list = |entry: &[u8]| field(b"x-death", b'A', &long(entry));
    let table = |fields: &[u8]| list(&[&b"F"[..], &long(fields)].concat());
    let (queue, reason) = (
        field(b"queue", b'S', &long(b"q")),
        field(b"reason", b'S', &long(b"rejected")),
    );
    vec![
        list(&[&b"S"[..], &long(b"x")].concat()),
        table(&[queue, reason, field(b"count", b'S', &long(b"x"))].concat()),
        table(&nested_tables(b"queue", 100)),
        field(b"x-death", b'I', &[0; 4]),
    ]
}

/// RabbitMQ before version 4 believes the form of `x-death` when it moves a message, and the process that moves those of
/// all queues ends over a wrong one, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_death_beside_a_large_body_ends_nobodys_retries() {
    let broker = private_broker().await; // of its own: others would suffer
    let mut world = World::without_deliverer(broker.amqp_url()).await;
    world.add_deliverer().await;
    world.add_recorder().await;
    let (victim, other) = (Receiver::start().await, Receiver::start().await);
    world.api.add(&victim, &["a.b"], json!({})).await;
    other.script([Answer::status(500)]);
    world.api.add(&other, &["other"], json!({"retry": ["1s"]})).await;
    let forged = forged_deaths();
    let mut producer = RawProducer::connect(&world.amqp_url).await;
    let exchange = format!("{}.events", world.namespace);
    let large = vec![b' '; 300 * 1024];
    for table in &forged {
        producer
            .publish(&exchange, b"a.b", &structured(table), &large)
            .await
            .unwrap();
    }
    let letters = world.dead_letters(u32::try_from(forged.len()).unwrap()).await;
    assert_eq!(letters.len(), forged.len(), "{letters:#?}");
    for letter in &letters {
        let detail = letter.detail.as_deref().unwrap_or_default();
        assert!(
            detail.contains("the first 4096 of its 307200 bytes"),
            "{letter:#?}"
        );
    }
    world.api.publish("other", json!(1)).await;
    other.wait_for(2).await;
}

/// The broker itself moves an event that expires in a queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_death_on_an_event_that_would_expire_ends_nobodys_dead_letters() {
    let broker = private_broker().await; // of its own: others would suffer
    let mut world = World::without_deliverer(broker.amqp_url()).await;
    let receiver = Receiver::start().await;
    let endpoint = world.api.add(&receiver, &["a.b"], json!({"paused": true})).await;
    let mut producer = RawProducer::connect(&world.amqp_url).await;
    let exchange = format!("{}.events", world.namespace);
    let forged = forged_deaths();
    let expires = |table: &[u8], milliseconds: &[u8]| structured(table).with(8, &short(milliseconds));
    for (number, table) in forged.iter().enumerate() {
        let body = event(&format!("forged-{number}"));
        producer
            .publish(&exchange, b"a.b", &expires(table, b"600000"), &body)
            .await
            .unwrap();
    }
    producer
        .publish(&exchange, b"a.b", &expires(b"", b"0"), &event("mortal"))
        .await
        .unwrap();
    // Only the broker can have moved it.
    for late in [Queue::WorkLate, Queue::ArchiveLate] {
        wait_until(format!("the mortal one in {late}"), || async {
            world.waiting(late).await == 1
        })
        .await;
    }
    for queue in [Queue::Work, Queue::Archive] {
        assert_eq!(world.waiting(queue).await, 0, "a forged death is in {queue}");
    }

    world.add_recorder().await;
    world.add_deliverer().await;
    world.wait_until_held(&endpoint.id, |held| held == 4).await;
    world.api.change(&endpoint.id, json!({"paused": false})).await;
    // All but the one whose headers cannot be read whole, and the mortal one.
    let requests = receiver.wait_for(forged.len()).await;
    let ids: std::collections::BTreeSet<_> = requests.iter().filter_map(|r| r.event_id()).collect();
    let expected = ["forged-0", "forged-1", "forged-3", "mortal"].map(str::to_owned);
    assert_eq!(ids, expected.into(), "{requests:#?}");
    let letters = world.dead_letters(1).await;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    are_of(&letters, "nest deeper than 16");
}

/// Bytes that are not UTF-8 where AMQP has texts, and everything else that a broker lets through.
#[tokio::test(flavor = "multi_thread")]
async fn texts_that_are_no_utf8_end_no_connection() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    let mut producer = RawProducer::connect(&world.amqp_url).await;
    let exchange = format!("{}.events", world.namespace);
    let inner = long(&field(b"\xff", b't', &[1]));
    let refused = [
        (&b"a.\xff"[..], structured(b""), "routing key"),
        (b"a.b", structured(&field(b"\xff\xfe", b't', &[1])), "UTF-8"),
        (b"a.b", structured(&field(b"a", b'F', &inner)), "UTF-8"),
        (b"a.b", RawProperties::new(b"application/\xff", b""), "UTF-8"),
    ];
    for (key, properties, _) in &refused {
        producer
            .publish(&exchange, key, properties, &event("odd"))
            .await
            .unwrap();
    }
    let letters = world
        .dead_letters(2 * u32::try_from(refused.len()).unwrap())
        .await;
    assert_eq!(letters.len(), 2 * refused.len(), "{letters:#?}");
    for (_, _, detail) in &refused {
        let says = |letter: &&DeadLetter| letter.detail.as_deref().is_some_and(|said| said.contains(detail));
        assert!(letters.iter().filter(says).count() >= 2, "{detail}: {letters:#?}");
    }
    // Properties that the relay does not read say nothing about the event.
    let ignored = structured(&field(b"a", b'S', &long(b"\xff")))
        .with(11, &[9])
        .with(10, &short(b"\xff"))
        .with(9, &short(b"\xff"))
        .with(7, &short(b"\xff"))
        .with(6, &u64::MAX.to_be_bytes())
        .with(5, &short(b"\xff"))
        .with(3, &short(b"\xff"));
    producer
        .publish(&exchange, b"a.b", &ignored, &event("fine"))
        .await
        .unwrap();
    let requests = receiver.wait_for(1).await;
    assert_eq!(requests[0].event_id().as_deref(), Some("fine"));
    for process in world.deliverers.iter().chain(&world.recorders) {
        is_running(process);
        let address = relay_tests::metrics_address(process).await;
        let metrics = world.api.metrics(&address).await;
        assert!(
            metrics.contains("relay_broker_connections_total 1"),
            "the connection did not end over it: {metrics}"
        );
    }
}
