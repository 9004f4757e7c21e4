use serde_json::json;

use crate::gateway::{Gateway, ok, problem};

const ENDPOINT: &str = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";

#[tokio::test]
async fn stats_are_a_table_or_the_relay_s_answer() {
    let gateway = Gateway::start().await;
    let some = json!({"delivered": 12, "failed": 3, "p50_ms": 8, "p99_ms": null});
    let stats = json!({"endpoint": ENDPOINT, "hour": some, "day": some, "pending": 4, "retrying": 1,
        "held": {"paused": 3}});
    gateway.receiver.respond_with(ok(200, &stats));
    let table = gateway.run(&["endpoint", "stats", ENDPOINT]).await.ok();
    assert!(table.contains("pending   4"), "{table}");
    assert!(table.contains("held      3 paused"), "{table}");
    assert!(table.contains("last hour  12         3       8 ms  -"), "{table}");
    let json = gateway
        .run(&["endpoint", "stats", ENDPOINT, "--json"])
        .await
        .json();
    assert_eq!(json, stats);
    assert_eq!(gateway.asked()[0], format!("GET /v1/endpoints/{ENDPOINT}/stats"));

    gateway.receiver.respond_with(problem(404, "no such endpoint"));
    let unknown = gateway.run(&["endpoint", "stats", ENDPOINT]).await.failed(1);
    assert!(unknown.contains("relay endpoint list"), "{unknown}");
}
