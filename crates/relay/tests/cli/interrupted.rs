//! A first signal ends what hangs, and says how to go on; a second one ends at once. What is waited for here
//! never answers, so nothing but the signal can be why a command ends.

use std::fs;

use relay_broker::Queue;
use relay_event::DeadReason::AttemptsExhausted;
use relay_testkit::{Answer, Process, Proxy, Receiver, wait_until};
use serde_json::json;

use crate::{
    gateway::{Gateway, expired, ok, page},
    support::{World, ended, ids, line},
};

/// The exit code of a command that was stopped before its end.
const STOPPED: i32 = 130;

fn listen(gateway: &Gateway, app: &Receiver, more: &[&str]) -> Process {
    let url = app.url();
    gateway.start_command(&[&["listen", "--forward-to", &url], more].concat())
}

/// An app that never answers, and a relay with one event for it.
async fn hanging() -> (Gateway, Receiver) {
    let (gateway, app) = (Gateway::start().await, Receiver::start().await);
    app.respond_with(Answer::Hold);
    gateway
        .receiver
        .script([page(&[("c1", "a"), ("c2", "b")], "c2", false)]);
    gateway.receiver.respond_with(Answer::Hold);
    (gateway, app)
}

#[tokio::test]
async fn listen_leaves_an_app_that_hangs_and_says_where_to_go_on() {
    for signal in ["INT", "TERM"] {
        let (gateway, app) = hanging().await;
        let listening = listen(&gateway, &app, &["--cursor", "c0"]);
        app.wait_for(1).await;
        listening.signal(signal);
        let output = ended(listening).await.ok();
        assert!(output.contains("go on with --cursor c0"), "{output}");
        assert!(output.contains("no answer"), "{output}");
        assert_eq!(app.requests().len(), 1);
    }
}

/// Nothing was dealt with yet, so there is no cursor.
#[tokio::test]
async fn listen_says_since_when_where_it_has_no_cursor_yet() {
    let (gateway, app) = hanging().await;
    let listening = listen(&gateway, &app, &["--since", "2026-01-31T10:30:00+01:00"]);
    app.wait_for(1).await;
    listening.signal("INT");
    let output = ended(listening).await.ok();
    assert!(
        output.contains("go on with --since 2026-01-31T09:30:00.000Z"),
        "{output}"
    );
}

/// The second signal is another one: two of a kind that come at once are one.
#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (gateway, app) = hanging().await;
    let listening = listen(&gateway, &app, &["--cursor", "c0"]);
    app.wait_for(1).await;
    listening.signal("INT");
    listening.signal("TERM");
    ended(listening).await.failed(STOPPED);
}

#[tokio::test]
async fn follow_leaves_a_relay_that_hangs() {
    let gateway = Gateway::start().await;
    gateway.receiver.respond_with(Answer::Hold);
    let since = ["events", "follow", "--since", "2026-01-31T09:30:00Z"];
    let following = gateway.start_command(&since);
    gateway.receiver.wait_for(1).await;
    following.signal("INT");
    let output = ended(following).await.ok();
    assert!(
        output.contains("go on with --since 2026-01-31T09:30:00.000Z"),
        "{output}"
    );
}

#[tokio::test]
async fn reconcile_leaves_a_receiver_that_hangs_and_goes_on_by_its_state() {
    for with_state in [true, false] {
        let (gateway, app) = hanging().await;
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let state = state.to_str().unwrap();
        let url = app.url();
        let secret = relay_event::Secret::generate();
        let env = [("RELAY_SECRET", secret.as_str())];
        let mut args = vec!["reconcile", "--since", "24h", "--forward-to", &url];
        if with_state {
            args.extend(["--state", state]);
        }
        let delivering = gateway.start_with(&env, &args);
        app.wait_for(1).await;
        delivering.signal("INT");
        let output = ended(delivering).await.failed(STOPPED);
        assert!(output.contains("2 missed"), "{output}");
        if with_state {
            assert!(
                output.contains(&format!("go on with --state {state}")),
                "{output}"
            );
            assert!(fs::metadata(state).is_ok());
        } else {
            assert!(output.contains("go on with --since 20"), "{output}");
        }
    }
}

/// It asks what of the time is gone, and that is not answered.
#[tokio::test]
async fn reconcile_leaves_a_relay_that_hangs_beside_a_gap() {
    let gateway = Gateway::start().await;
    gateway.receiver.script([expired("c5")]);
    gateway.receiver.respond_with(Answer::Hold);
    let reconciling = gateway.start_command(&["reconcile", "--since", "24h", "--seen", "/dev/null"]);
    gateway.receiver.wait_for(2).await;
    reconciling.signal("INT");
    ended(reconciling).await.failed(STOPPED);
}

#[tokio::test]
async fn publish_stops_to_wait_and_says_what_became_of_the_event() {
    let gateway = Gateway::start().await;
    gateway.receiver.script([ok(202, &json!({"id": "x/1"}))]);
    gateway.receiver.respond_with(Answer::Hold);
    let args = ["publish", "--type", "a.b", "--id", "x-1", "--wait"];
    let waiting = gateway.start_command(&args);
    gateway.receiver.wait_for(2).await;
    waiting.signal("INT");
    let output = ended(waiting).await.failed(STOPPED);
    assert!(
        output.contains("was published") && output.contains("relay events show x-1"),
        "{output}"
    );
}

#[tokio::test]
async fn a_file_over_http_ends_at_a_relay_that_hangs() {
    let gateway = Gateway::start().await;
    gateway.receiver.respond_with(Answer::Hold);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    fs::write(&path, line("a", "order.created")).unwrap();
    let file = ["publish", "--via", "http", "--file", path.to_str().unwrap()];
    let publishing = gateway.start_command(&file);
    gateway.receiver.wait_for(1).await;
    publishing.signal("TERM");
    let output = ended(publishing).await.failed(STOPPED);
    assert!(output.contains("go on with --from-line 1"), "{output}");
}

#[tokio::test]
async fn a_recovery_leaves_a_relay_that_hangs() {
    let gateway = Gateway::start().await;
    gateway.receiver.script([ok(200, &json!({"events": 3}))]);
    gateway.receiver.respond_with(Answer::Hold);
    let id = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";
    let recovering = gateway.start_command(&["endpoint", "recover", id, "--since", "2026-01-31T09:30:00Z"]);
    gateway.receiver.wait_for(2).await;
    recovering.signal("INT");
    let output = ended(recovering).await.failed(STOPPED);
    assert!(
        output.contains("go on with --since 2026-01-31T09:30:00.000Z"),
        "{output}"
    );
}

/// The endpoint may be there, and its secret was not shown.
#[tokio::test]
async fn a_change_of_an_endpoint_leaves_a_relay_that_hangs_and_says_what_may_be() {
    let id = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";
    for (args, says) in [
        (
            &["endpoint", "add", "--url", "http://127.0.0.1:9/", "--types", "a"][..],
            "the endpoint may have been added: `relay endpoint list` shows it",
        ),
        (&["endpoint", "remove", id], "may have been removed"),
        (
            &["endpoint", "update", id, "--types", "b"],
            "may have been updated",
        ),
    ] {
        let gateway = Gateway::start().await;
        gateway.receiver.respond_with(Answer::Hold);
        let changing = gateway.start_command(args);
        gateway.receiver.wait_for(1).await;
        changing.signal("INT");
        let output = ended(changing).await.failed(STOPPED);
        assert!(output.contains(says), "{output}");
    }
}

#[tokio::test]
async fn a_list_leaves_a_relay_that_hangs() {
    let gateway = Gateway::start().await;
    gateway.receiver.respond_with(Answer::Hold);
    let listing = gateway.start_command(&["events", "list", "--all"]);
    gateway.receiver.wait_for(1).await;
    listing.signal("INT");
    let output = ended(listing).await.failed(STOPPED);
    assert!(output.contains("before the end of the list"), "{output}");
}

/// The broker is there and says nothing more: what was not confirmed stays a dead letter.
#[tokio::test]
async fn a_drain_leaves_a_broker_that_hangs() {
    let world = World::new().await;
    world
        .kill("order.created", &ids("a", 40), AttemptsExhausted)
        .await;
    let proxy = Proxy::start(world.amqp_url()).await;
    let url = proxy.url();
    let draining = world.start_with(
        &[("RELAY_AMQP_URL", &url)],
        &["dlq", "drain", "--redeliver", "--rate", "20/s"],
    );
    wait_until("the first redelivered", || async {
        world.depth(Queue::Dead).await == 0 && proxy.connections() > 0
    })
    .await;
    proxy.freeze(true);
    draining.signal("INT");
    let output = ended(draining).await.failed(STOPPED);
    assert!(output.contains("what was not done is in the queue"), "{output}");
}
