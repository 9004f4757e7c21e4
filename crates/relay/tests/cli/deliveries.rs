use serde_json::json;

use crate::gateway::{Gateway, ok};

const ENDPOINT: &str = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";

#[tokio::test]
async fn those_of_an_endpoint_in_a_state_are_listed_over_two_pages() {
    let gateway = Gateway::start().await;
    let delivery = |event: &str| {
        json!({"event": event, "source": "/s", "type": "order.created", "endpoint": ENDPOINT,
            "state": "dead", "attempts": 6, "at": "2026-01-31T09:30:00Z",
            "reason": "attempts_exhausted", "status": 500})
    };
    let page =
        |event: &str, next: Option<&str>| ok(200, &json!({"deliveries": [delivery(event)], "next": next}));
    gateway
        .receiver
        .script([page("b", Some("c1")), page("a-longer", None)]);
    let list = [
        "deliveries",
        "list",
        "--endpoint",
        ENDPOINT,
        "--state",
        "dead",
        "--all",
    ];
    let table = gateway.run(&list).await.ok();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("EVENT  TYPE"), "{table}");
    for (line, event) in lines[1..].iter().zip(["b", "a-longer"]) {
        assert!(
            line.starts_with(event) && line.ends_with("attempts_exhausted"),
            "{line}"
        );
    }
    let first = format!("GET /v1/deliveries?endpoint={ENDPOINT}&state=dead&limit=1000");
    assert_eq!(gateway.asked(), [first.clone(), format!("{first}&cursor=c1")]);

    gateway.receiver.script([page("b", Some("c1"))]);
    let json = gateway
        .run(&["deliveries", "list", "--json", "--limit", "1"])
        .await
        .ok();
    let said = delivery("b").to_string();
    assert!(json.lines().any(|line| line == said), "{json}");
}
