use relay_event::Secret;
use relay_testkit::Answer;
use serde_json::json;

use crate::gateway::{Gateway, ok, problem};

const PUBLISH: [&str; 11] = [
    "publish",
    "--type",
    "import.started",
    "--subject",
    "import-42",
    "--id",
    "1",
    "--data",
    r#"{"n": 1.50}"#,
    "--callback",
    "https://example.com/imports",
];
const ENDPOINT: &str = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";
const END: &str = "2099-12-31T00:00:00.000Z";

#[tokio::test]
async fn a_callback_stands_beside_the_event_and_is_printed() {
    let gateway = Gateway::start().await;
    let secret = Secret::generate().to_string();
    let added = json!({"id": ENDPOINT, "expires_at": END, "secret": secret});
    let known = json!({"id": ENDPOINT, "expires_at": END});
    let removed = json!({"id": ENDPOINT, "expires_at": null, "removed": true});
    let accepted = |callback| ok(202, &json!({"id": "1", "callback": callback}));
    gateway.receiver.script([
        accepted(added),
        accepted(known).header("idempotent-replayed", "true"),
        accepted(removed),
    ]);
    let said = gateway.run(&PUBLISH).await.ok();
    for line in [
        "1".to_owned(),
        format!("callback    {ENDPOINT}"),
        format!("expires_at  {END}"),
        format!("secret      {secret}"),
    ] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
    let options = ["--callback-secret", &secret, "--callback-expires-at", END];
    let said = gateway.run(&[&PUBLISH[..], &options].concat()).await.ok();
    assert!(said.contains(ENDPOINT) && !said.contains(&secret), "{said}");
    gateway.run(&PUBLISH).await.ok();

    let requests = gateway.receiver.requests();
    let short = |n: usize| {
        let request = &requests[n];
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert!(request.body.ends_with(br#""data":{"n": 1.50}}"#), "{request:?}");
        request.json()
    };
    let first = short(0);
    assert_eq!(first["callback"], json!({"url": "https://example.com/imports"}));
    assert_eq!(
        (&first["source"], &first["subject"], &first["id"]),
        (&json!("/cli"), &json!("import-42"), &json!("1"))
    );
    let all = json!({"url": "https://example.com/imports", "secret": secret, "expires_at": END});
    assert_eq!(short(1)["callback"], all);
}

#[tokio::test]
async fn a_callback_that_is_refused_is_named_by_its_option() {
    let gateway = Gateway::start().await;
    let refused = r#"{"title":"Invalid input","status":400,"field":"callback.expires_at","detail":"callback.expires_at: must be later than now"}"#;
    gateway.receiver.script([
        Answer::status(400).body(refused),
        problem(503, "the store cannot be used at the moment; send it again"),
    ]);
    let said = gateway.run(&PUBLISH).await.failed(2);
    assert!(
        said.starts_with("relay: --callback-expires-at: must be later"),
        "{said}"
    );
    let said = gateway.run(&PUBLISH).await.failed(1);
    assert!(
        said.contains("--id 1 is safe") && said.contains("the store"),
        "{said}"
    );

    let secret = Secret::generate().to_string();
    for (options, names) in [
        (vec!["--via", "amqp"], "--via: must be http"),
        (
            vec!["--callback-secret", "whsec_hunter2"],
            "--callback-secret <SECRET>: must be `whsec_`",
        ),
        (
            vec!["--callback-expires-at", "abc"],
            "--callback-expires-at: must be a time",
        ),
    ] {
        let said = gateway.run(&[&PUBLISH[..], &options].concat()).await.failed(2);
        assert!(said.contains(names) && !said.contains("hunter2"), "{said}");
    }
    for (args, needs) in [
        (vec!["--callback", "http://a/"], "--subject"),
        (vec!["--callback-secret", &secret], "--callback"),
        (
            vec!["--callback", "ftp://user:hunter2@a/", "--subject", "a"],
            "--callback <URL>: must",
        ),
    ] {
        let args = [&["publish", "--type", "a"], &args[..]].concat();
        let said = gateway.run(&args).await.failed(2);
        assert!(said.contains(needs) && !said.contains("hunter2"), "{said}");
    }
    let said = gateway
        .run(&[
            "publish",
            "--file",
            "x",
            "--callback",
            "http://a/",
            "--subject",
            "a",
        ])
        .await
        .failed(2);
    assert!(said.contains("--file"), "{said}");
    assert_eq!(gateway.receiver.requests().len(), 2);
}
