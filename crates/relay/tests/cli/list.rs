use relay_broker::{DeadLetters, Queue};
use relay_event::DeadReason::{AttemptsExhausted, EndpointGone};
use relay_testkit::wait_until;

use crate::support::{World, ids};

#[tokio::test]
async fn looking_changes_nothing() {
    let world = World::new().await;
    let endpoint = world.kill("order.created", &ids("a", 4), AttemptsExhausted).await;
    world.kill_garbage(b"no event").await;

    let first = world.run(&["dlq", "list", "--json"]).await.json();
    world.wait_dead(5).await;
    let shown = world.run(&["dlq", "show", "a-2"]).await.ok();
    world.wait_dead(5).await;
    let nameless = world.run(&["dlq", "show", "--without-event"]).await.ok();
    assert!(nameless.contains("bm8gZXZlbnQ="), "{nameless}");
    world.wait_dead(5).await;
    let dry = world.run(&["dlq", "drain", "--discard", "--dry-run"]).await.ok();
    world.wait_dead(5).await;
    let second = world.run(&["dlq", "list", "--json"]).await.json();
    world.wait_dead(5).await;

    assert_eq!(first, second);
    assert_eq!(first["total"], 5);
    assert_eq!(dry, "5 dead letters would be discarded");
    for fact in [
        "a-2",
        "attempts_exhausted",
        endpoint.as_str(),
        "500",
        "\"b\": 1.50",
    ] {
        assert!(shown.contains(fact), "{fact}: {shown}");
    }
}

#[tokio::test]
async fn a_table_of_those_that_fit_and_how_many_more() {
    let world = World::new().await;
    world.kill("order.created", &ids("a", 3), AttemptsExhausted).await;
    let gone = world.kill("user.left", &ids("b", 2), EndpointGone).await;

    let table = world.run(&["dlq", "list", "--limit", "1"]).await.ok();
    assert!(table.contains("user.left") && table.contains("b-1"), "{table}");
    assert!(table.contains("the newest 1 of 5"), "{table}");
    world.wait_dead(5).await;
    for filter in [
        ["--type", "user.*"],
        ["--reason", "endpoint_gone"],
        ["--endpoint", gone.as_str()],
    ] {
        let table = world.run(&[&["dlq", "list"], &filter[..]].concat()).await.ok();
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(table.contains("b-0") && !table.contains("a-0"), "{table}");
        world.wait_dead(5).await;
    }
    let none = world.run(&["dlq", "list", "--older-than", "1h"]).await.ok();
    assert_eq!(none, "no such dead letters");
}

/// New letters are what one looks for, however many lie before them.
#[tokio::test]
async fn the_newest_come_first() {
    let world = World::new().await;
    for id in ids("a", 3) {
        world.kill("order.created", &[id], AttemptsExhausted).await;
    }
    let newest = world.run(&["dlq", "list", "--json", "--limit", "2"]).await.json();
    let letters = newest["dead_letters"].as_array().unwrap();
    let ids: Vec<&str> = letters
        .iter()
        .map(|letter| letter["event_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["a-2", "a-1"]);
    assert_eq!(newest["total"], 3);
}

/// RabbitMQ puts letters that were looked at back in another order, above all where a look ends early.
#[tokio::test]
async fn looks_do_not_change_which_letters_are_the_newest_and_the_oldest() {
    let world = World::new().await;
    world.kill("given.up", &ids("x", 50), AttemptsExhausted).await;
    for part in 0..7 {
        let ids = ids(&format!("p{part}"), 100);
        world
            .kill(&format!("part.p{part}"), &ids, AttemptsExhausted)
            .await;
    }
    world.wait_dead(750).await;
    let wait_for = async |fits: fn(u32) -> bool| {
        wait_until("the letters to be held or back", || async {
            let depth = world.depth(Queue::Dead).await;
            if fits(depth) { Ok(()) } else { Err(depth) }
        })
        .await;
    };
    let slow = ["dlq", "drain", "--discard", "--type", "given.*", "--rate", "1/s"];
    let draining = world.start(&slow);
    wait_for(|depth| depth < 600).await;
    draining.signal("KILL");
    draining.wait_exit().await;
    wait_for(|depth| depth >= 700).await;
    world.run(&slow[..5]).await.ok();
    world.wait_dead(700).await;
    for taken in [300, 700, 150] {
        let session = world.another_session().await;
        let mut letters = DeadLetters::open(&session).await.unwrap();
        for _ in 0..taken {
            let message = letters.next().await.unwrap().unwrap();
            letters.keep(message).await.unwrap();
        }
        session.close().await;
        world.wait_dead(700).await;
    }

    let newest = ["dlq", "list", "--json", "--limit", "150"];
    let first = world.run(&newest).await.json();
    world.wait_dead(700).await;
    assert_eq!(world.run(&newest).await.json(), first);
    let letters = first["dead_letters"].as_array().unwrap();
    for (place, letter) in letters.iter().enumerate() {
        let part = if place < 100 { "p6-" } else { "p5-" };
        assert!(
            letter["event_id"].as_str().unwrap().starts_with(part),
            "{place}: {letter}"
        );
    }

    world.wait_dead(700).await;
    let drain = ["dlq", "drain", "--discard", "--limit", "250"];
    let done = world.run(&drain).await.ok();
    assert!(done.starts_with("250 dead letters discarded"), "{done}");
    world.wait_dead(450).await;
    let left = world.dead_ids().await;
    for (part, expected) in [0, 0, 50, 100, 100, 100, 100].into_iter().enumerate() {
        let prefix = format!("p{part}-");
        let count = left.iter().filter(|id| id.starts_with(&prefix)).count();
        assert_eq!(count, expected, "{prefix}");
    }
}

/// More than one consumer holds at once.
#[tokio::test]
async fn thousands_are_all_seen() {
    let world = World::new().await;
    world
        .kill("order.created", &ids("a", 2_500), AttemptsExhausted)
        .await;
    let mut seen = world.dead_ids().await;
    seen.sort();
    let mut all = ids("a", 2_500);
    all.sort();
    assert_eq!(seen, all);
    world.wait_dead(2_500).await;
}

#[tokio::test]
async fn an_unknown_event_and_an_unreachable_broker_are_errors() {
    let world = World::new().await;
    let unknown = world.run(&["dlq", "show", "nobody"]).await.failed(1);
    assert!(
        unknown.contains("no such dead letter of event nobody"),
        "{unknown}"
    );

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://a:hunter2@{}/%2f", free.local_addr().unwrap());
    drop(free);
    let env = [("RELAY_AMQP_URL", url.as_str())];
    let process = relay_testkit::Process::spawn("relay", &env, &["dlq", "list"]);
    let refused = crate::support::ended(process).await.failed(1);
    assert!(refused.contains("not to be running"), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
}

#[tokio::test]
async fn no_relay_at_all_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let env = [("RELAY_DATA", folder.path().to_str().unwrap())];
    for args in [&["dlq", "list"][..], &["endpoint", "list"]] {
        let process = relay_testkit::Process::spawn("relay", &env, args);
        let refused = crate::support::ended(process).await.failed(1);
        assert!(
            refused.contains("`relay up`") && !refused.contains("cargo"),
            "{refused}"
        );
    }
}
