//! Refusals of a command line: which option, what is allowed, what was given, each once, and exit code 2.

use relay_testkit::Process;

use crate::support::ended;

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
        (with("--timeout", "abc"), &format!("--timeout: {times}")),
        (
            with("--max-in-flight", "abc"),
            "--max-in-flight: must be a whole number, not \"abc\"",
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
