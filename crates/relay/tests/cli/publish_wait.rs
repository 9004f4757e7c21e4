use relay_testkit::Answer;
use serde_json::{Value, json};

use crate::gateway::{Gateway, ok, problem};

const PUBLISH: [&str; 8] = [
    "publish", "--type", "a.b", "--id", "x/1", "--source", "/s", "--wait",
];
const ENDPOINT: &str = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";

fn status(settled: bool, states: &[&str]) -> Answer {
    let delivery = |state: &&str| {
        json!({"endpoint": ENDPOINT, "state": state, "attempts": 1, "at": "2026-01-31T09:30:01Z",
            "status": 500})
    };
    let deliveries: Vec<Value> = states.iter().map(delivery).collect();
    ok(
        200,
        &json!({"settled": settled, "deliveries": deliveries, "id": "x/1"}),
    )
}

fn accepted() -> Answer {
    ok(202, &json!({"id": "x/1"}))
}

#[tokio::test]
async fn it_asks_until_every_delivery_has_ended() {
    let gateway = Gateway::start().await;
    gateway.receiver.script([
        accepted(),
        problem(404, "no such event").header("retry-after", 1),
        status(false, &["pending", "retrying"]).header("retry-after", 2),
        Answer::Reset,
        status(true, &["delivered", "delivered"]),
    ]);
    let output = gateway.run(&PUBLISH).await.ok();
    assert!(output.starts_with("x/1\n"), "{output}");
    assert_eq!(output.matches("delivered").count(), 2, "{output}");
    assert_eq!(output.matches("retrying").count(), 1, "{output}");
    let asked = gateway.asked();
    assert_eq!(asked[0], "POST /v1/events");
    assert!(
        asked[1..]
            .iter()
            .all(|line| line == "GET /v1/events/x%2F1?source=%2Fs&wait=30s")
    );
    let requests = gateway.receiver.requests();
    let pause = |n: usize| (requests[n + 1].arrived - requests[n].arrived).as_millis();
    assert!(pause(1) >= 1_000 && pause(2) >= 2_000, "Retry-After is obeyed");
}

#[tokio::test]
async fn the_exit_code_tells_how_it_ended() {
    let gateway = Gateway::start().await;
    gateway.receiver.script([accepted(), status(true, &[])]);
    let nobody = gateway.run(&PUBLISH).await.ok();
    assert!(nobody.contains("no endpoint wants it"), "{nobody}");

    gateway
        .receiver
        .script([accepted(), status(true, &["delivered", "dead"])]);
    let dead = gateway.run(&PUBLISH).await.failed(3);
    assert!(dead.contains("dead: 1 of 2 deliveries"), "{dead}");

    let brief = [&PUBLISH[..], &["--wait-timeout", "1s"]].concat();
    gateway.receiver.script([accepted()]);
    gateway
        .receiver
        .respond_with(status(false, &["delivered", "retrying", "dead"]));
    let over = gateway.run(&brief).await.failed(4);
    assert!(over.contains("not ended after 1s: 1 of 3 deliveries"), "{over}");

    gateway.receiver.script([accepted(), Answer::Hold]);
    let over = gateway.run(&brief).await.failed(4);
    assert!(over.contains("not in the log after 1s"), "{over}");
    let last = gateway.asked().pop().unwrap();
    assert!(last.ends_with("wait=0s"), "{last}");

    gateway.receiver.script([accepted()]);
    gateway.receiver.respond_with(problem(401, "no valid token"));
    gateway.run(&PUBLISH).await.failed(1);
}

#[tokio::test]
async fn it_waits_for_one_event_that_went_by_http() {
    let gateway = Gateway::start().await;
    for wrong in [
        &["publish", "--type", "a", "--wait", "--via", "amqp"][..],
        &["publish", "--type", "a", "--wait-timeout", "1s"],
        &["publish", "--type", "a", "--wait", "--wait-timeout", "soon"],
        &["publish", "--file", "x", "--wait"],
    ] {
        gateway.run(wrong).await.failed(2);
    }
    assert!(gateway.asked().is_empty());
}
