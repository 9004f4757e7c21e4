use relay_testkit::{Answer, Process};
use tempfile::TempDir;

use crate::{
    gateway::Gateway,
    support::{Ended, ended, ids, line},
};

const PROBLEM: &str = r#"{"title":"Bad Request","status":400,"field":"type","detail":"is not wanted"}"#;

/// Publishes a file of these lines; the folder holds it meanwhile.
fn publish(gateway: &Gateway, file: &[String]) -> (Process, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    std::fs::write(&path, file.join("\n")).unwrap();
    let path = path.to_str().unwrap();
    let process = gateway.start_command(&["publish", "--file", path, "--via", "http"]);
    (process, folder)
}

async fn published(gateway: &Gateway, file: &[String]) -> Ended {
    let (process, _folder) = publish(gateway, file);
    ended(process).await
}

fn lines(n: usize) -> Vec<String> {
    ids("a", n).iter().map(|id| line(id, "order.created")).collect()
}

#[tokio::test]
async fn each_event_is_posted_as_it_is_and_again_while_the_relay_cannot() {
    let gateway = Gateway::start().await;
    let unavailable = || Answer::status(503).body(r#"{"title":"the broker is down"}"#);
    gateway.receiver.script((0..5).map(|_| unavailable()));
    let output = published(&gateway, &lines(500)).await.ok();
    assert!(output.contains("500 events confirmed in "), "{output}");
    assert_eq!(output.matches("the broker is down").count(), 1, "{output}");

    let requests = gateway.receiver.requests();
    assert_eq!(requests.len(), 505);
    for request in &requests {
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("POST", "/v1/events")
        );
        assert_eq!(request.header("authorization"), Some("Bearer abc"));
        assert_eq!(
            request.header("content-type"),
            Some("application/cloudevents+json")
        );
    }
    for line in lines(500) {
        assert!(requests.iter().any(|request| request.body == line), "{line}");
    }
    // A connection that was begun while another became free is used later.
    let connections = 1 + requests.iter().map(|request| request.connection).max().unwrap();
    assert!(connections < 100, "{connections} connections");
}

#[tokio::test]
async fn a_refused_event_stops_with_its_line() {
    let gateway = Gateway::start().await;
    gateway.receiver.respond_by(|request| {
        if request.body.windows(5).any(|text| text == b"\"a-7\"") {
            Answer::status(400).body(PROBLEM)
        } else {
            Answer::status(202)
        }
    });
    let output = published(&gateway, &lines(20_000)).await.failed(1);
    assert!(output.contains("line 8: type: is not wanted"), "{output}");
    assert!(output.contains("--from-line 8"), "{output}");
    assert!(gateway.receiver.requests().len() < 1_000);
}

#[tokio::test]
async fn a_relay_that_is_not_there_is_an_error() {
    let gateway = Gateway::start().await;
    gateway.receiver.stop().await;
    let output = published(&gateway, &lines(1)).await.failed(1);
    assert!(output.contains("not to be running"), "{output}");
}

#[tokio::test]
async fn a_relay_that_restarts_gets_the_rest() {
    let gateway = Gateway::start().await;
    gateway.receiver.respond_with(Answer::Hold);
    let (publishing, _folder) = publish(&gateway, &lines(100));
    gateway.receiver.script([Answer::status(202)]);
    gateway.receiver.wait_for(33).await;
    gateway.receiver.stop().await;
    publishing.wait_for_output("retrying").await;
    gateway.receiver.respond_with(Answer::status(202));
    gateway.receiver.restart().await;
    let output = ended(publishing).await.ok();
    assert!(output.contains("100 events confirmed in "), "{output}");
}
