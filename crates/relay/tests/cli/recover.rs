use relay_testkit::Answer;
use serde_json::{Value, json};

use crate::{
    gateway::{Gateway, ok, problem},
    support::{Ended, ended},
};

const ENDPOINT: &str = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";
const SINCE: &str = "2026-01-31T09:30:00.000Z";
const RECOVER: [&str; 5] = ["endpoint", "recover", ENDPOINT, "--since", SINCE];

async fn recover(gateway: &Gateway, more: &[&str]) -> Ended {
    gateway.run(&[&RECOVER[..], more].concat()).await
}

fn preview(events: u64) -> Answer {
    ok(200, &json!({ "events": events }))
}

fn page(recovered: u64, next: Option<&str>) -> Answer {
    ok(202, &json!({"recovered": recovered, "next": next}))
}

#[tokio::test]
async fn a_dry_run_only_counts() {
    let gateway = Gateway::start().await;
    gateway.receiver.script([preview(2_500), preview(0)]);
    let more = [
        "--until",
        "2026-01-31T10:00:00Z",
        "--include-waiting",
        "--dry-run",
    ];
    let said = recover(&gateway, &more).await.ok();
    assert_eq!(said, "2500 events would be recovered");
    assert_eq!(recover(&gateway, &[]).await.ok(), "no events recovered");
    let request = json!({"since": SINCE, "until": "2026-01-31T10:00:00.000Z", "include_waiting": true,
        "dry_run": true});
    assert_eq!(
        gateway.bodies(),
        [request, json!({"since": SINCE, "dry_run": true})]
    );
}

#[tokio::test]
async fn every_page_is_asked_for_and_again_while_the_relay_cannot() {
    let gateway = Gateway::start().await;
    gateway.receiver.script([
        preview(1_500),
        page(1_000, Some("c1")),
        problem(503, "the broker is down"),
        problem(503, "the broker is down"),
        page(500, None),
    ]);
    let output = recover(&gateway, &[]).await.ok();
    assert!(output.contains("1500 events recovered"), "{output}");
    assert_eq!(
        output.matches("the broker is down; retrying").count(),
        1,
        "{output}"
    );
    assert!(output.contains("going on"), "{output}");

    let mut requests = gateway.bodies();
    assert_eq!(requests.remove(0), json!({"since": SINCE, "dry_run": true}));
    assert_eq!(requests.remove(0), json!({"since": SINCE}));
    assert_eq!(requests, vec![json!({"since": SINCE, "cursor": "c1"}); 3]);
    let path = format!("POST /v1/endpoints/{ENDPOINT}/recover");
    assert!(gateway.asked().iter().all(|asked| *asked == path));
}

#[tokio::test]
async fn what_broke_off_is_not_sent_again_unasked() {
    let gateway = Gateway::start().await;
    let broken = || {
        gateway
            .receiver
            .script([preview(1_500), page(1_000, Some("c1")), Answer::Reset])
    };
    broken();
    let output = recover(&gateway, &["--include-waiting"]).await.failed(1);
    assert!(output.contains("1000 events recovered"), "{output}");
    let go_on = format!("go on with --since {SINCE} --include-waiting --cursor c1;");
    assert!(output.contains(&go_on), "{output}");
    assert!(output.contains("did not answer"), "{output}");
    assert_eq!(gateway.asked().len(), 3);

    gateway.receiver.script([preview(500), page(500, None)]);
    let rest = recover(&gateway, &["--include-waiting", "--cursor", "c1"])
        .await
        .ok();
    assert!(rest.lines().any(|line| line == "500 events recovered"), "{rest}");
    assert!(rest.contains("dlq drain --discard"), "{rest}");
    let request = json!({"since": SINCE, "include_waiting": true, "cursor": "c1"});
    assert_eq!(*gateway.bodies().last().unwrap(), request);
}

#[tokio::test]
async fn an_unknown_endpoint_and_a_refused_page_end_it() {
    let gateway = Gateway::start().await;
    gateway.receiver.respond_with(problem(404, "no such endpoint"));
    let unknown = recover(&gateway, &[]).await.failed(1);
    assert!(
        unknown.contains("relay endpoint list") && !unknown.contains("go on"),
        "{unknown}"
    );
    gateway
        .receiver
        .script([preview(5), problem(400, "cursor: is no cursor")]);
    let refused = recover(&gateway, &[]).await.failed(1);
    assert!(refused.contains("cursor: is no cursor"), "{refused}");
    assert!(refused.contains("no events recovered"), "{refused}");

    // A cursor is checked also where nothing is missing.
    gateway
        .receiver
        .script([preview(0), problem(400, "cursor: is no cursor")]);
    let refused = recover(&gateway, &["--cursor", "foo"]).await.failed(2);
    assert!(
        refused.contains("--cursor: is no cursor") && !refused.contains("go on"),
        "{refused}"
    );
}

/// A relay that never comes to an end: the cursor is the number of pages so far.
fn endless(_method: &str, _path: &str, body: Value) -> Answer {
    if body["dry_run"] == true {
        return preview(1_000_000);
    }
    let so_far: u64 = body["cursor"].as_str().unwrap_or("0").parse().unwrap();
    page(1, Some(&(so_far + 1).to_string()))
}

#[tokio::test]
async fn ctrl_c_says_how_far_it_came_and_how_to_go_on() {
    let gateway = Gateway::start().await;
    gateway.answer(endless);
    let process = gateway.start_command(&RECOVER);
    gateway.receiver.wait_for(3).await;
    process.signal("INT");
    let output = ended(process).await.failed(130);
    let pages = gateway.asked().len() - 1;
    for says in [
        format!("{pages} events recovered"),
        format!("go on with --since {SINCE} --cursor {pages};"),
        "stopped before the end".to_owned(),
    ] {
        assert!(output.contains(&says), "{says}: {output}");
    }
}
