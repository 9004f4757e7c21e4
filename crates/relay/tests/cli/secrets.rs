//! Secrets are shown to a person at a terminal, and to nobody who reads a log.

use relay_testkit::{Answer, Process, Receiver};
use serde_json::Value;

use crate::{
    support::World,
    up::{up, wait_delivery},
};

const UP: [&str; 5] = ["up", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];

fn token(world: &World) -> String {
    std::fs::read_to_string(world.path("token"))
        .unwrap()
        .trim()
        .to_owned()
}

/// The password in an AMQP URL.
fn password(world: &World) -> &str {
    let (_, rest) = world.amqp_url().split_once("://").unwrap();
    let (user, _) = rest.split_once('@').unwrap();
    user.split_once(':').unwrap().1
}

/// As a person at a terminal starts it: `script` gives it one.
fn at_a_terminal(world: &World, env: &[(&str, &str)]) -> Process {
    let line = format!(
        "exec script --quiet --flush --return --command 'exec relay {}' /dev/null",
        UP.join(" ")
    );
    world.start_in_shell(env, &line)
}

async fn stopped(relay: Process) -> String {
    relay.terminate();
    relay.wait_exit().await;
    relay.output()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_output_is_no_terminal_it_has_no_secret() {
    let world = World::new().await;
    let relay = up(&world, &[]).await;
    relay.wait_for_output("events list").await;
    let output = stopped(relay).await;
    assert!(!output.contains(&token(&world)), "{output}");
    assert!(!output.contains(password(&world)), "{output}");
    let kept = [world.path("token"), world.path("relay.json")];
    for path in kept {
        assert!(output.contains(&format!("kept in {path}")), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_the_token_and_the_password_are_shown() {
    let world = World::new().await;
    let relay = at_a_terminal(&world, &[("TERM", "xterm")]);
    relay.wait_for_output("events list").await;
    let output = relay.output();
    assert!(output.contains(&token(&world)), "{output}");
    assert!(output.contains(world.amqp_url()), "{output}");
    // Its log goes to the same terminal, in colours.
    assert!(output.contains("\u{1b}["), "{output}");
    stopped(relay).await;
}

/// <https://no-color.org>, and what an editor's shell says of itself.
#[tokio::test(flavor = "multi_thread")]
async fn who_wants_no_colours_gets_none() {
    for env in [("TERM", "dumb"), ("NO_COLOR", "1")] {
        let world = World::new().await;
        let relay = at_a_terminal(&world, &[env]);
        relay.wait_for_output("events list").await;
        let output = relay.output();
        assert!(!output.contains('\u{1b}'), "{env:?}: {output:?}");
        stopped(relay).await;
    }
}

/// Everything is logged, also by the libraries: a whole life of an endpoint, with its secret, headers of its
/// own, deliveries and failures.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_everything_has_no_secret() {
    let world = World::new().await;
    let args = [&UP[..], &["--log", "trace,lapin=trace"]].concat();
    let relay = world.start(&args);
    relay.wait_for_output("The relay is ready.").await;
    let receiver = Receiver::start().await;
    receiver.script([Answer::status(500)]);
    let url = receiver.url();
    let add = [
        "endpoint",
        "add",
        "--url",
        &url,
        "--types",
        "order.*",
        "--retry",
        "none",
        "--header",
        "Authorization: Bearer hunter2",
        "--json",
    ];
    let added = world.run(&add).await.json();
    let (id, first) = (added["id"].as_str().unwrap(), added["secret"].as_str().unwrap());
    let rotated = world
        .run(&["endpoint", "rotate-secret", id, "--json"])
        .await
        .json();
    let second = rotated["secret"].as_str().unwrap();
    world
        .run(&["publish", "--via", "http", "--type", "order.created"])
        .await
        .ok();
    wait_delivery(&world, "dead", 1).await;
    let shown = world.run(&["endpoint", "show", id, "--json"]).await.ok();
    let running: Value = serde_json::from_slice(&std::fs::read(world.path("relay.json")).unwrap()).unwrap();
    assert_eq!(running["amqp_url"], world.amqp_url());
    let output = stopped(relay).await;
    assert!(output.contains("TRACE") || output.contains("trace"), "{output}");
    let token = token(&world);
    for secret in [token.as_str(), password(&world), first, second, "hunter2"] {
        let line = output.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
        assert!(!shown.contains(secret), "{shown}");
    }
}
