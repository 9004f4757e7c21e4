//! Refusals of a command line: which option, what is allowed, what was given, each once, and exit code 2.

use relay_testkit::Process;

use crate::{
    gateway::{Gateway, problem},
    support::{World, ended, line},
};

/// Runs it, and gives the one line that it said.
async fn refusal(env: &[(&str, &str)], args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let env = [env, &[("RELAY_DATA", folder.path().to_str().unwrap())]].concat();
    ended(Process::spawn("relay", &env, args)).await.failed(2)
}

#[tokio::test]
async fn a_refusal_names_the_option_what_is_allowed_and_what_was_given_once() {
    let add = ["endpoint", "add", "--url", "http://a/", "--types", "a"];
    let with = |option: &'static str, value: &'static str| [&add[..], &[option, value]].concat();
    let times = "must be a time such as 0s, 500ms or 10s, not \"abc\"";
    for (args, says) in [
        (
            vec!["publish", "--type", "a", "--subject", ""],
            "--subject: must be a non-empty string, not \"\"",
        ),
        (vec!["up", "--log", "a=b=c"], "--log (RELAY_LOG): must be a level"),
        (vec!["publish", "--type", "a.*"], "--type: must be words"),
        (
            vec!["publish", "--type", "a", "--id", ""],
            "--id: must have 1 to 1024 bytes",
        ),
        (
            vec!["publish", "--type", "a", "--data", "{"],
            "--data: must be JSON",
        ),
        (
            vec!["dlq", "drain", "--discard", "--older-than", "abc"],
            &format!("--older-than: {times}"),
        ),
        (
            vec!["dlq", "list", "--limit", "0"],
            "--limit: must be a whole number from 1 on, not \"0\"",
        ),
        (
            vec!["dlq", "list", "--reason", "bored"],
            "--reason: must be one of",
        ),
        (
            with("--timeout", "5"),
            "--timeout: must be a time from 100ms to 2m, such as 10s, not \"5\"",
        ),
        (
            with("--rate-limit", "0"),
            "--rate-limit: must be a whole number from 1 to 100000, not \"0\"",
        ),
        (
            with("--max-in-flight", "99999"),
            "--max-in-flight: must be a whole number from 1 to 1000, not \"99999\"",
        ),
        (vec!["receive", "--delay", "abc"], &format!("--delay: {times}")),
        (
            vec!["receive", "--status", "99"],
            "--status: must be a status from 200 to 599, not \"99\"",
        ),
        (vec!["endpoint", "show", "ep_1"], "<ID>: must be `ep_`"),
        (
            vec!["up", "--listen", "abc"],
            "--listen: must be an address and a port, such as 127.0.0.1:7400, not \"abc\"",
        ),
    ] {
        let said = refusal(&[], &args).await;
        assert!(said.starts_with(&format!("relay: {says}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(
            said.matches(", not ").count() + said.matches("EOF").count(),
            1,
            "{said}"
        );
    }
}

#[tokio::test]
async fn the_environment_is_refused_in_the_same_words() {
    let url = ("RELAY_URL", "http://127.0.0.1:1");
    for (env, says) in [
        (
            vec![("RELAY_URL", "ftp://a:hunter2@b/")],
            "RELAY_URL: must be an http",
        ),
        (
            vec![url, ("RELAY_TOKEN", "hunter2 x")],
            "RELAY_TOKEN: must be visible ASCII",
        ),
    ] {
        let said = refusal(&env, &["events", "list"]).await;
        assert!(said.starts_with(&format!("relay: {says}")), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let amqp = ("RELAY_AMQP_URL", "amqp://127.0.0.1:1");
    for (env, says) in [
        (
            vec![("RELAY_AMQP_URL", "http://a:hunter2@b")],
            "RELAY_AMQP_URL: must be like amqp://",
        ),
        (
            vec![amqp, ("RELAY_NAMESPACE", "X Y")],
            "RELAY_NAMESPACE: must be 1 to 40",
        ),
    ] {
        let said = refusal(&env, &["dlq", "list"]).await;
        assert!(said.starts_with(&format!("relay: {says}")), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// A URL is shown without its password, whatever else is wrong with it or with the command.
#[tokio::test]
async fn a_password_in_a_url_is_not_repeated() {
    let url = "http://user:hunter2@host/x";
    for args in [
        &["endpoint", "add", "--url", url, "--types", "a"][..],
        &[
            "endpoint",
            "update",
            "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70",
            "--url",
            url,
        ],
        &["listen", "--forward-to", url],
        &["listen", url],
        &["up", "--store", "postgres://user:hunter2@"],
        &["up", "--amqp-url", "http://user:hunter2@host"],
        &["reconcile", "--feed", "ftp://user:hunter2@host", "--seen", "-"],
    ] {
        let said = refusal(&[], args).await;
        assert!(said.starts_with("relay: "), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let relay = format!("http://user:hunter2@{closed}");
    let env = [("RELAY_URL", relay.as_str()), ("RELAY_TOKEN", "abc")];
    let said = ended(Process::spawn("relay", &env, &["events", "list"]))
        .await
        .failed(1);
    assert!(
        said.contains("not to be running") && !said.contains("hunter2"),
        "{said}"
    );
}

/// The option is what a person knows, not the API's name of it.
#[tokio::test]
async fn what_the_relay_refuses_is_named_by_its_option() {
    let gateway = Gateway::start().await;
    gateway
        .receiver
        .respond_with(problem(400, "after: must be a cursor"));
    let said = gateway
        .run(&["events", "follow", "--cursor", "foo"])
        .await
        .failed(2);
    assert_eq!(said, "relay: --cursor: must be a cursor");
    gateway
        .receiver
        .respond_with(problem(400, "since: must be before until"));
    let said = gateway
        .run(&["events", "list", "--since", "1h", "--until", "2h"])
        .await
        .failed(2);
    assert_eq!(said, "relay: --since: must be before until");
    gateway.receiver.respond_with(problem(401, "unauthorized"));
    let said = gateway.run(&["events", "list"]).await.failed(1);
    let source = "relay: the given token (RELAY_TOKEN) is not the token of the relay at http://127.0.0.1:";
    assert!(said.starts_with(source), "{said}");
}

/// Events that were published there would be lost: no relay takes them.
#[tokio::test]
async fn a_namespace_without_a_relay_is_refused_and_nothing_is_declared() {
    let world = World::new().await;
    let file = world.write("events", &line("a", "order.created"));
    for args in [
        &["publish", "--type", "a"][..],
        &["publish", "--file", &file],
        &["dlq", "list"],
    ] {
        let other = world.start_with(&[("RELAY_NAMESPACE", "nobody-has-this")], args);
        let said = ended(other).await.failed(1);
        assert!(
            said.contains("no relay with the namespace `nobody-has-this`"),
            "{said}"
        );
    }
    assert!(!world.has_relay("nobody-has-this").await);
}

/// The largest event is what the relay's own variable says.
#[tokio::test]
async fn a_larger_event_is_published_where_the_relay_takes_it() {
    let world = World::new().await;
    let data = "x".repeat(100_000);
    let large = [line("a", "order.created").as_str(), "\n"]
        .concat()
        .replace("1e2", &format!("\"{data}\""));
    let file = world.write("events", &large);
    let publish = ["publish", "--file", &file];
    let ended_with = async |most| ended(world.start_with(&[("RELAY_MAX_EVENT_BYTES", most)], &publish)).await;
    let said = ended_with("1000").await.failed(1);
    assert!(said.contains("at most 1000 are allowed"), "{said}");
    ended_with("200000").await.ok();
}

/// A result that cannot be written is replaced by a line that says what was done.
#[tokio::test]
async fn output_that_cannot_be_written_is_an_error() {
    let world = World::new().await;
    let line = "relay publish --type a.b --id mine >/dev/full";
    let said = ended(world.start_in_shell(&[], line)).await.failed(1);
    assert!(
        said.contains("the output cannot be written") && said.contains("the event mine was published"),
        "{said}"
    );
}

/// A broker that is there is no relay that is not running.
#[tokio::test]
async fn a_wrong_password_and_a_wrong_scheme_are_told_from_a_relay_that_is_away() {
    let world = World::new().await;
    let (user, host) = world.amqp_url().rsplit_once('@').unwrap();
    let wrong = format!("{}:hunter2@{host}", user.rsplit_once(':').unwrap().0);
    let listing = world.start_with(&[("RELAY_AMQP_URL", &wrong)], &["dlq", "list"]);
    let said = ended(listing).await.failed(1);
    assert!(
        said.contains("refuses the user or the password") && !said.contains("not to be running"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");

    let gateway = Gateway::start().await;
    let url = format!("https://{}", gateway.receiver.addr());
    let listing = gateway.start_with(&[("RELAY_URL", &url)], &["events", "list"]);
    let said = ended(listing).await.failed(1);
    assert!(
        said.contains("does it speak https there") && !said.contains("not to be running"),
        "{said}"
    );
}

/// A reader that goes away does not make a success of what was found.
#[tokio::test]
async fn a_closed_pipe_leaves_the_exit_code_as_it_is() {
    let world = World::new().await;
    world.kill_garbage(b"no event").await;
    let line = "{ relay dlq drain --redeliver; echo \"ended with $?\" >&2; } | true";
    let said = ended(world.start_in_shell(&[], line)).await.ok();
    assert!(said.contains("ended with 3"), "{said}");
}

/// An error of the network is said once, however many layers pass it on.
#[tokio::test]
async fn a_cause_is_said_once() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("amqp://{closed}/%2f");
    let listing = Process::spawn("relay", &[("RELAY_AMQP_URL", &url)], &["dlq", "list"]);
    let said = ended(listing).await.failed(1);
    assert_eq!(said.matches("Connection refused").count(), 1, "{said}");
}
