use std::fmt::Write as _;

use relay_broker::Queue;
use relay_testkit::{PrivateBroker, private_broker, wait_until};

use crate::support::{World, ended, ids, line};

fn lines(ids: &[String]) -> String {
    ids.iter().fold(String::new(), |mut text, id| {
        let _ = writeln!(text, "{}", line(id, "order.created"));
        text
    })
}

#[tokio::test]
async fn a_file_is_published_and_blank_lines_are_not_counted() {
    let world = World::new().await;
    let path = world.write("events.ndjson", &format!("\n{}\n \n", lines(&ids("a", 165))));
    let output = world.run(&["publish", "--file", &path]).await.ok();
    assert!(output.starts_with("165 events confirmed in "), "{output}");
    world.wait_depth(Queue::Archive, 165).await;
}

#[tokio::test]
async fn one_bad_line_keeps_all_from_being_published() {
    let world = World::new().await;
    let bad = line("x", "order.created").replace("\"1.0\"", "\"0.3\"");
    let large = line(&"x".repeat(300 * 1024), "order.created");
    let good = lines(&ids("a", 3));
    let path = world.write("events.ndjson", &format!("{good}{bad}\n{good}{large}\n"));
    let output = world.run(&["publish", "--file", &path]).await.failed(1);
    assert!(output.contains("nothing was published"), "{output}");
    assert!(output.contains("line 4: specversion:"), "{output}");
    assert!(
        output.contains("line 8: event: is 307297 bytes; at most 262144"),
        "{output}"
    );
    assert_eq!(world.depth(Queue::Archive).await, 0);

    let missing = world.run(&["publish", "--file", "/no/such"]).await.failed(1);
    assert!(missing.contains("cannot read /no/such"), "{missing}");
    let folder = world.folder.path().to_str().unwrap();
    world.run(&["publish", "--file", folder]).await.failed(1);
}

/// RabbitMQ writes down half a second late which quorum queues it has. One that is killed before does
/// not bring the queue back, and confirms nothing for it.
async fn registered(broker: &PrivateBroker, queue: &str) {
    let folder = broker
        .folder()
        .join("data/relay@localhost/quorum/relay@localhost");
    wait_until("the queue to be on the disk", || async {
        let names = std::fs::read(folder.join("names.dets")).unwrap_or_default();
        // Another name may begin with this one, and go on with a dot.
        let is = |text: &[u8]| {
            text.strip_prefix(queue.as_bytes())
                .is_some_and(|next| next != b".")
        };
        names.windows(queue.len() + 1).any(is)
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_dies_and_comes_back_confirms_all() {
    const EVENTS: usize = 10_000;
    let mut broker = private_broker().await;
    let mut world = World::at(broker.amqp_url()).await;
    let path = world.write("events.ndjson", &lines(&ids("a", EVENTS)));
    for queue in ["archive", "work"] {
        registered(&broker, &world.name(queue)).await;
    }
    let publishing = world.start(&["publish", "--file", &path]);
    wait_until("the first events", || async {
        world.depth(Queue::Archive).await > 0
    })
    .await;
    broker.kill().await;
    publishing
        .wait_for_output("the connection to the broker was lost")
        .await;
    broker.start().await;

    let output = ended(publishing).await.ok();
    assert!(output.contains("10000 events confirmed in "), "{output}");
    assert_eq!(output.matches("was lost").count(), 1, "{output}");
    world.reconnect().await;
    assert_eq!(world.take_ids(Queue::Archive, EVENTS).await.len(), EVENTS);
}

#[tokio::test]
async fn ctrl_c_tells_from_which_line_to_go_on() {
    const EVENTS: usize = 30_000;
    let world = World::new().await;
    let path = world.write("events.ndjson", &lines(&ids("a", EVENTS)));
    let publishing = world.start(&["publish", "--file", &path]);
    wait_until("the first events", || async {
        world.depth(Queue::Archive).await > 0
    })
    .await;
    publishing.signal("INT");
    let output = ended(publishing).await.failed(130);
    let (_, rest) = output.split_once("go on with --from-line ").unwrap();
    let from: String = rest.chars().take_while(char::is_ascii_digit).collect();
    assert!(output.contains(" events confirmed in "), "{output}");

    let rest = ["publish", "--file", &path, "--from-line", &from];
    world.run(&rest).await.ok();
    assert_eq!(world.take_ids(Queue::Archive, EVENTS).await.len(), EVENTS);
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_an_error_at_once() {
    let mut broker = private_broker().await;
    let world = World::at(broker.amqp_url()).await;
    let path = world.write("events.ndjson", &lines(&ids("a", 1)));
    broker.stop().await;
    let output = world.run(&["publish", "--file", &path]).await.failed(1);
    assert!(output.contains("not to be running"), "{output}");
}
