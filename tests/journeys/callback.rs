//! An event with a callback: the events of one job go to an endpoint that is added beside the first of them.

use std::{collections::BTreeSet, slice, time::Duration};

use relay_event::{Secret, Timestamp, signature};
use relay_testkit::{Receiver, Request, wait_until};
use relay_tests::{Api, Database, World};
use reqwest::Method;
use serde_json::{Value, json};

fn job(receiver: &Receiver, callback: Value) -> Value {
    let mut callback = callback;
    callback["url"] = receiver.url().into();
    json!({
        "id": "1", "source": "/imports", "type": "import.started", "subject": "import-42", "data": {"rows": 3},
        "callback": callback,
    })
}

fn whole(id: &str, source: &str, subject: &str) -> String {
    let event = json!({
        "specversion": "1.0", "id": id, "source": source, "type": "import.finished", "subject": subject,
    });
    event.to_string()
}

fn is_signed(request: &Request, secret: &Secret) -> bool {
    let header = |name: &str| request.header(name).unwrap_or_default();
    let (id, time) = (header("webhook-id"), header("webhook-timestamp"));
    let (secrets, now) = (slice::from_ref(secret), Timestamp::now().as_secs());
    signature::verify(secrets, id, time, header("webhook-signature"), &request.body, now).is_ok()
}

fn ids(requests: &[Request]) -> BTreeSet<String> {
    let ids = requests.iter().map(|request| request.event_id().unwrap());
    ids.collect()
}

/// Waits until it is known of an event that it went to so many endpoints, and that all have it.
async fn wait_for_deliveries(api: &Api, id: &str, count: usize) {
    wait_until("the event to be delivered", || async {
        let response = api.call(Method::GET, &format!("/v1/events/{id}"), None).await;
        let text = response.text().await.unwrap();
        let event: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
        match event["deliveries"].as_array() {
            Some(deliveries) if event["settled"] == true && deliveries.len() == count => Ok(()),
            _ => Err(text),
        }
    })
    .await;
}

async fn the_job_alone(database: Database) {
    let world = World::recorded(database).await;
    let (api, producer) = (&world.api, world.producer().await);
    let receiver = Receiver::start().await;
    let secret = Secret::generate();
    let event = job(&receiver, json!({"secret": secret}));
    let accepted = api.json(Method::POST, "/v1/events", Some(event.clone())).await;
    let endpoint = accepted["callback"]["id"].as_str().unwrap();
    let publish = async |id: &str, source: &str, subject: &str| {
        let body = whole(id, source, subject);
        producer
            .publish_structured("import.finished", body.as_bytes())
            .await;
    };
    publish("other-job", "/imports", "import-43").await;
    publish("other-source", "/exports", "import-42").await;
    publish("2", "/imports", "import-42").await;

    let received = receiver.wait_for(2).await;
    assert_eq!(ids(&received), ["1", "2"].map(str::to_owned).into());
    for request in &received {
        assert!(is_signed(request, &secret), "{request:?}");
        assert!(request.json().get("callback").is_none(), "{request:?}");
    }
    // Sent again, it makes no second endpoint, and is not delivered a second time.
    let again = api.json(Method::POST, "/v1/events", Some(event)).await;
    assert_eq!(again, accepted);
    publish("3", "/imports", "import-42").await;
    receiver.wait_for(3).await;
    for (id, count) in [
        ("1", 1),
        ("2", 1),
        ("3", 1),
        ("other-job", 0),
        ("other-source", 0),
    ] {
        wait_for_deliveries(api, id, count).await;
    }
    assert_eq!(receiver.requests().len(), 3);

    // It is removed when its time is over.
    let soon = Timestamp::now() + Duration::from_secs(2);
    api.change(endpoint, json!({"expires_at": soon})).await;
    wait_until("the callback to be removed", || async {
        let path = format!("/v1/endpoints/{endpoint}");
        api.call(Method::GET, &path, None).await.status() == 404
    })
    .await;
    let all = Receiver::start().await;
    api.add(&all, &["#"], json!({})).await;
    publish("4", "/imports", "import-42").await;
    all.wait_for(1).await;
    wait_for_deliveries(api, "4", 1).await;
    let event = job(&receiver, json!({}));
    let again = api.json(Method::POST, "/v1/events", Some(event)).await;
    assert_eq!(again["callback"]["removed"], true);
    assert_eq!(receiver.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_gets_the_events_of_its_job_alone() {
    the_job_alone(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_gets_the_events_of_its_job_alone_with_postgresql() {
    the_job_alone(Database::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tool_adds_a_callback_and_later_events_go_there_too() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    let url = receiver.url();
    let publish = async |id: &str, subject: &str, more: &[&str]| {
        let args = [
            "publish",
            "--type",
            "import.going",
            "--id",
            id,
            "--subject",
            subject,
        ];
        let published = world.cli(&[&args[..], more].concat()).await;
        assert!(published.wait_exit().await.success(), "{}", published.output());
        published.output()
    };
    let said = publish("1", "import-42", &["--callback", &url]).await;
    let secret = said.lines().find_map(|line| line.strip_prefix("secret      "));
    let secret: Secret = secret.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    publish("2", "import-43", &[]).await;
    publish("3", "import-42", &[]).await;
    let received = receiver.wait_for(2).await;
    assert_eq!(ids(&received), ["1", "3"].map(str::to_owned).into());
    assert!(received.iter().all(|request| is_signed(request, &secret)));
    wait_for_deliveries(&world.api, "2", 0).await;
}
