//! Files as others' tools write them, and no file at all.

use relay_broker::Queue;
use relay_testkit::Answer;
use serde_json::json;

use crate::{
    gateway::{Gateway, ok, page},
    support::{World, ended, line},
};

const BOM: &str = "\u{feff}";

fn utf16(text: &str) -> Vec<u8> {
    let units = std::iter::once(0xfeff).chain(text.encode_utf16());
    units.flat_map(u16::to_le_bytes).collect()
}

#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_the_first_line() {
    let world = World::new().await;
    let (first, second) = (line("a", "order.created"), line("b", "order.created"));
    let path = world.write("events", &format!("{BOM}{first}\r\n{BOM}{second}\r\n"));
    let output = world.run(&["publish", "--file", &path]).await.ok();
    assert!(output.starts_with("2 events confirmed"), "{output}");
    assert_eq!(world.take_ids(Queue::Archive, 2).await.len(), 2);

    let data = format!("{BOM}{{\"n\": 1.50}}");
    world.run(&["publish", "--type", "a", "--data", &data]).await.ok();
    world.wait_depth(Queue::Archive, 1).await;

    let gateway = Gateway::start().await;
    let seen = world.write("seen", &format!("{BOM}a\r\nb\r\n"));
    gateway
        .receiver
        .respond_with(page(&[("c1", "a"), ("c2", "b")], "c2", false));
    let none = gateway
        .run(&["reconcile", "--since", "1h", "--seen", &seen])
        .await
        .ok();
    assert_eq!(none, "2 events looked at, 0 missed");
    // Nor of the files that the relay itself keeps, once somebody has edited them.
    let token = world.write("token", &format!("{BOM}abc\r\n"));
    let folder = world.folder.path().to_str().unwrap();
    gateway.receiver.respond_with(ok(200, &json!({"endpoints": []})));
    let url = format!("http://{}", gateway.receiver.addr());
    let env = [("RELAY_DATA", folder), ("RELAY_URL", &url)];
    let listing = relay_testkit::Process::spawn("relay", &env, &["endpoint", "list"]);
    ended(listing).await.ok();
    std::fs::remove_file(token).unwrap();
}

#[tokio::test]
async fn utf_16_is_named() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let path = world.path("wide");
    for text in [line("a", "order.created"), "a\nb\n".to_owned()] {
        let wide = utf16(&text);
        for bytes in [&wide[..], &wide[2..]] {
            std::fs::write(&path, bytes).unwrap();
            let refused = world.run(&["publish", "--file", &path]).await.failed(1);
            assert!(refused.contains("is UTF-16, and must be UTF-8"), "{refused}");
            assert!(refused.contains(&path), "{refused}");
            let reconcile = ["reconcile", "--since", "1h", "--seen", &path];
            let refused = gateway.run(&reconcile).await.failed(1);
            assert!(refused.contains("is UTF-16, and must be UTF-8"), "{refused}");
        }
    }
    assert_eq!(world.depth(Queue::Archive).await, 0);
    assert!(gateway.asked().is_empty());
}

#[tokio::test]
async fn a_file_may_come_from_a_pipe() {
    let world = World::new().await;
    let path = world.write(
        "events",
        &format!(
            "{}\n{}\n{}\n",
            line("a", "order.created"),
            line("b", "order.created"),
            line("c", "order.created")
        ),
    );
    let publish = |more: &str| format!("cat {path} | relay publish --file - {more}");
    let output = ended(world.start_in_shell(&[], &publish("--from-line 2")))
        .await
        .ok();
    assert!(output.starts_with("2 events confirmed"), "{output}");
    assert_eq!(world.take_ids(Queue::Archive, 2).await.len(), 2);

    // It is checked as a whole before any of it is published.
    let bad = format!("{{ cat {path}; echo no event; }} | relay publish --file -");
    let refused = ended(world.start_in_shell(&[], &bad)).await.failed(1);
    assert!(
        refused.contains("stdin") && refused.contains("line 4") && refused.contains("nothing was published"),
        "{refused}"
    );
    world.wait_depth(Queue::Archive, 0).await;

    let gateway = Gateway::start().await;
    gateway.answer(|_, _, _| Answer::status(202).body(r#"{"id":"x"}"#));
    let line = format!("cat {path} | relay publish --via http --file -");
    let output = gateway.run_in_shell(&line).await.ok();
    assert!(output.starts_with("3 events confirmed"), "{output}");
    assert_eq!(gateway.bodies().len(), 3);
}

/// Nothing more comes, and nothing ends it: but for the signal.
#[tokio::test]
async fn a_pipe_that_stays_silent_is_left_at_the_first_signal() {
    let world = World::new().await;
    let fifo = world.path("fifo");
    let line =
        format!("mkfifo {fifo}; exec 3<>{fifo}; echo >&3; echo reading >&2; exec relay publish --file - <&3");
    let publishing = world.start_in_shell(&[], &line);
    publishing.wait_for_output("reading").await;
    relay_testkit::wait_until("the relay to run", || async {
        let status = std::fs::read_to_string(format!("/proc/{}/status", publishing.pid()));
        status.is_ok_and(|status| {
            // SIGINT is caught: the second of the bits.
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            caught.is_some_and(|bits| u64::from_str_radix(bits.trim(), 16).is_ok_and(|bits| bits & 2 != 0))
                && status.starts_with("Name:\trelay")
        })
    })
    .await;
    publishing.signal("INT");
    let output = ended(publishing).await.failed(130);
    assert!(output.contains("nothing was published"), "{output}");
}
