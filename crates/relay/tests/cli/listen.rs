use axum::http::HeaderMap;
use relay_testkit::{Answer, Process, Receiver, Request};
use serde_json::{Value, json};
use standardwebhooks::Webhook;

use crate::{
    gateway::{Gateway, page},
    support::{ended, line},
};

fn listen(gateway: &Gateway, app: &Receiver, more: &[&str]) -> Process {
    let url = app.url();
    gateway.start_command(&[&["listen", "--since", "1h", "--forward-to", &url], more].concat())
}

/// Whether the receivers' own library takes a delivery.
fn verified(request: &Request, secret: &str) -> bool {
    let headers: HeaderMap = request
        .headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    let webhook = Webhook::new(secret).unwrap();
    webhook.verify(&request.body, &headers).is_ok()
}

#[tokio::test]
async fn events_are_posted_one_after_the_other_signed_with_a_new_secret() {
    let (gateway, app) = (Gateway::start().await, Receiver::start().await);
    app.script([
        Answer::status(204),
        Answer::status(500).body("no"),
        Answer::Reset,
        Answer::status(302).header("location", "/elsewhere"),
        Answer::status(200),
    ]);
    let events = [("c1", "a"), ("c2", "b"), ("c3", "c"), ("c4", "d"), ("c5", "e")];
    gateway
        .receiver
        .script([page(&events, "c9", false), Answer::Hold]);
    let listening = listen(&gateway, &app, &[]);
    let requests = app.wait_for(5).await;
    gateway.receiver.wait_for(2).await;
    listening.signal("INT");
    let output = ended(listening).await.ok();

    let secret = output
        .lines()
        .find_map(|line| Some(line.split_once("secret: ")?.1))
        .unwrap();
    for (request, (_, id)) in requests.iter().zip(events) {
        assert!(verified(request, secret), "{request:?}");
        assert_eq!(request.body, line(id, "order.created"));
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("POST", "/hook")
        );
        assert_eq!(
            request.header("content-type"),
            Some("application/cloudevents+json")
        );
        assert!(request.header("user-agent").unwrap().starts_with("event-relay/"));
        assert_eq!(request.header("authorization"), None);
    }
    assert_eq!(
        (requests.len(), app.max_in_flight()),
        (5, 1),
        "none is posted twice"
    );
    let answers: Vec<&str> = output
        .lines()
        .filter(|line| line.contains("order.created"))
        .map(|line| line.split("  ").nth(1).unwrap())
        .collect();
    assert_eq!(answers, ["204", "500", "reset", "302 redirect", "200"]);
    assert!(output.contains("go on with --cursor c9"), "{output}");
}

#[tokio::test]
async fn json_tells_the_answer_to_each() {
    let (gateway, app) = (Gateway::start().await, Receiver::start().await);
    gateway.receiver.script([
        page(&[("c1", "a")], "c1", false),
        page(&[("c2", "b")], "c2", false),
        Answer::Hold,
    ]);
    app.script([Answer::status(201), Answer::Reset]);
    let secret = relay_event::Secret::generate();
    let listening = listen(&gateway, &app, &["--json", "--secret", secret.as_str()]);
    gateway.receiver.wait_for(3).await;
    listening.signal("INT");
    let output = ended(listening).await.ok();
    assert!(!output.contains(secret.as_str()), "{output}");
    let lines: Vec<Value> = output
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let told = |line: &Value| json!([line["cursor"], line["id"], line["status"], line["error"]]);
    assert_eq!(told(&lines[0]), json!(["c1", "a", 201, null]));
    assert_eq!(told(&lines[1]), json!(["c2", "b", null, "reset"]));
    for request in app.requests() {
        assert!(verified(&request, secret.as_str()));
    }
}

/// What is under way when it is told to stop is finished and counted.
#[tokio::test]
async fn ctrl_c_waits_for_the_answer_to_come() {
    let (gateway, app) = (Gateway::start().await, Receiver::start().await);
    app.script([Answer::Hold]);
    gateway
        .receiver
        .script([page(&[("c1", "a"), ("c2", "b")], "c2", false)]);
    let listening = listen(&gateway, &app, &[]);
    app.wait_for(1).await;
    listening.signal("INT");
    app.release();
    let output = ended(listening).await.ok();
    // The signal may be seen only after the answer, when the next event is posted too.
    let answered = format!("go on with --cursor c{}", app.requests().len());
    assert!(output.contains(&answered), "{output}");
}

#[tokio::test]
async fn what_is_wrong_is_said_and_a_secret_is_not() {
    let gateway = Gateway::start().await;
    let url = "http://127.0.0.1:1/";
    for (args, says) in [
        (&[][..], "--forward-to"),
        (
            &["--forward-to", "127.0.0.1:1"],
            "must begin with http:// or https://",
        ),
        (&["--forward-to", url, "--secret", "whsec_hunter2"], "--secret"),
        (&["--forward-to", url, "--types", "#.#.#"], "a pattern"),
    ] {
        let refused = gateway.run(&[&["listen"], args].concat()).await.failed(2);
        assert!(
            refused.contains(says) && !refused.contains("hunter2"),
            "{refused}"
        );
    }
    let env = [("RELAY_SECRET", "whsec_hunter2")];
    let refused = ended(gateway.start_with(&env, &["listen", "--forward-to", url])).await;
    let refused = refused.failed(2);
    assert!(
        refused.contains("--secret") && !refused.contains("hunter2"),
        "{refused}"
    );
    assert!(gateway.asked().is_empty());
}
