//! What failed waits in the broker, exactly as long as it should.

use std::time::Duration;

use relay_event::{DeadReason, Timestamp};
use relay_testkit::{Answer, Receiver, wait_until};
use relay_tests::{Database, World, metrics_address};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_made_again_after_its_delay() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    receiver.script([Answer::status(500), Answer::Reset]);
    world
        .api
        .add(&receiver, &["#"], json!({"retry": ["1s", "2s"]}))
        .await;
    let id = world.api.publish("order.created", json!({"n": 1})).await;

    let requests = receiver.wait_for(3).await;
    let wait = |from: usize| requests[from + 1].arrived - requests[from].arrived;
    assert!(wait(0) >= Duration::from_secs(1), "{:?}", wait(0));
    assert!(wait(1) >= Duration::from_secs(2), "{:?}", wait(1));
    for request in &requests {
        assert_eq!(request.webhook_id(), Some(id.as_str()));
        assert_eq!(request.body, requests[0].body);
    }
    let stamp = |index: usize| {
        requests[index]
            .header("webhook-timestamp")
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(stamp(2) > stamp(0), "each attempt has a timestamp of its own");
    assert_ne!(
        requests[0].header("webhook-signature"),
        requests[2].header("webhook-signature")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_waited_for() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    receiver.script([
        Answer::status(429).header("retry-after", "3"),
        Answer::status(503).header("retry-after", "0"),
    ]);
    world
        .api
        .add(&receiver, &["#"], json!({"retry": ["1s", "1s"]}))
        .await;
    world.api.publish("order.created", json!(1)).await;
    let requests = receiver.wait_for(3).await;
    assert!(requests[1].arrived - requests[0].arrived >= Duration::from_secs(3));
    assert!(requests[2].arrived - requests[1].arrived >= Duration::from_secs(1));
}

/// Any number and any date counts, up to a day; what is neither leaves the schedule as it is.
#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_understood_in_every_form_it_may_have() {
    const DAY: u64 = 86_400;
    let world = World::recorded(Database::Sqlite).await;
    let mut endpoints = Vec::new();
    for (values, seconds) in [
        (&["5"][..], 5),
        (&["172800"], DAY),
        (&["99999999999999999999"], DAY),
        (&["99999999999999999999999999999999999999999999999999"], DAY),
        (&["Fri, 31 Dec 2100 23:59:59 GMT"], DAY),
        (&["Friday, 31-Dec-60 23:59:59 GMT"], DAY),
        (&["Fri Dec 31 23:59:59 2060"], DAY),
        (&["3", "10"], 10),
        (&["10", "3"], 10),
        (&["soon", "10"], 10),
        (&["0"], 2),
        (&["-5"], 2),
        (&["+10"], 2),
        (&["10.5"], 2),
        (&["soon"], 2),
        (&["5, 10"], 2),
        (&[""], 2),
        (&["Sun, 06 Nov 1994 08:49:37 GMT"], 2),
    ] {
        let receiver = Receiver::start().await;
        let answer = values.iter().fold(Answer::status(429), |answer, value| {
            answer.header("retry-after", value)
        });
        receiver.respond_with(answer);
        let endpoint = world.api.add(&receiver, &["#"], json!({"retry": ["2s"]})).await;
        endpoints.push((endpoint.id, values, seconds, receiver));
    }
    let id = world.api.publish("order.created", json!(1)).await;
    for (endpoint, values, seconds, _) in &endpoints {
        let path = format!("/v1/events/{id}/attempts?endpoint={endpoint}");
        let first = wait_until("the first attempt", || async {
            let response = world.api.call(Method::GET, &path, None).await;
            let page: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            page["attempts"].get(0).cloned()
        })
        .await;
        let time = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
        let ended = time(&first["at"]) + Duration::from_millis(first["duration_ms"].as_u64().unwrap());
        let waits = time(&first["next_at"]).since(ended).as_secs_f64().round();
        assert_eq!(waits, *seconds as f64, "{values:?}: {first}");
    }
}

/// A world with an endpoint whose deliveries fail at first.
struct Failing {
    world: World,
    receiver: Receiver,
    endpoint: String,
}

impl Failing {
    async fn start(database: Database, answers: impl IntoIterator<Item = Answer>, delay: &str) -> Self {
        let (world, receiver) = (World::recorded(database).await, Receiver::start().await);
        receiver.script(answers);
        let retry = json!({"retry": [delay, delay]});
        let endpoint = world.api.add(&receiver, &["#"], retry).await.id;
        Self {
            world,
            receiver,
            endpoint,
        }
    }

    async fn publish(&self) -> String {
        self.world.api.publish("order.created", json!(1)).await
    }

    async fn until(&self, id: &str, state: &str) {
        let path = format!("/v1/events/{id}");
        wait_until(format!("the delivery to be {state}"), || async {
            let response = self.world.api.call(Method::GET, &path, None).await;
            let event: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            if event["deliveries"][0]["state"] == state {
                Ok(())
            } else {
                Err(event)
            }
        })
        .await;
    }

    async fn call(&self, path: &str) -> Value {
        self.world.api.json(Method::POST, path, Some(json!({}))).await
    }

    /// Waits until the overtaken retry was dropped. It is held in doubt first, and its record comes before that of what is
    /// held later. If it were sent on, it would be so before that.
    async fn until_the_retry_was_dropped(&self) {
        let api = &self.world.api;
        let metrics = metrics_address(&self.world.deliverers[0]).await;
        api.wait_for_metric(&metrics, r#"relay_held_total{reason="in_doubt"} 1"#)
            .await;
        api.change(&self.endpoint, json!({"paused": true})).await;
        let later = self.publish().await;
        let path = format!("/v1/endpoints/{}", self.endpoint);
        wait_until("a later event to be held", || async {
            let endpoint = api.json(Method::GET, &path, None).await;
            (endpoint["held"]["paused"] == 1).then_some(()).ok_or(endpoint)
        })
        .await;
        api.change(&self.endpoint, json!({"paused": false})).await;
        self.until(&later, "delivered").await;
    }

    fn attempts_of(&self, id: &str) -> usize {
        let requests = self.receiver.requests();
        let of_it = requests.iter().filter(|request| request.webhook_id() == Some(id));
        of_it.count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_does_not_fire_after_a_replay() {
    for database in [Database::Sqlite, Database::Postgres] {
        let answers = [500, 200].map(Answer::status);
        let failing = Failing::start(database, answers, "3s").await;
        let id = failing.publish().await;
        failing.until(&id, "retrying").await;
        failing.call(&format!("/v1/events/{id}/replay")).await;
        failing.until(&id, "delivered").await;
        failing.until_the_retry_was_dropped().await;
        assert_eq!(failing.attempts_of(&id), 2);
        failing.until(&id, "delivered").await;
    }
}

/// The deliverer learns of the replay between an attempt and its retry.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_does_not_fire_whose_attempt_was_under_way_at_a_replay() {
    let answers = [
        Answer::status(500).after(Duration::from_secs(2)),
        Answer::status(200),
    ];
    let failing = Failing::start(Database::Sqlite, answers, "3s").await;
    let id = failing.publish().await;
    failing.receiver.wait_for(1).await;
    failing.until(&id, "pending").await;
    failing.call(&format!("/v1/events/{id}/replay")).await;
    failing.until(&id, "delivered").await;
    let path = format!("/v1/events/{id}/attempts");
    wait_until("the first attempt to end", || async {
        let page = failing.world.api.json(Method::GET, &path, None).await;
        let count = page["attempts"].as_array().map_or(0, Vec::len);
        (count == 2).then_some(()).ok_or(page)
    })
    .await;
    failing.until_the_retry_was_dropped().await;
    assert_eq!(failing.attempts_of(&id), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_delivery_is_not_attempted_again() {
    let failing = Failing::start(Database::Sqlite, [Answer::status(500)], "3s").await;
    let id = failing.publish().await;
    failing.until(&id, "retrying").await;
    let shown = failing.world.cli(&["events", "cancel", &id]).await.output();
    assert!(
        shown.contains("1 delivery of") && shown.contains("canceled"),
        "{shown}"
    );
    failing.until(&id, "canceled").await;
    let event = failing
        .world
        .api
        .json(Method::GET, &format!("/v1/events/{id}"), None)
        .await;
    assert_eq!(event["settled"], true, "{event}");
    failing.until_the_retry_was_dropped().await;
    assert_eq!(failing.attempts_of(&id), 1);
    failing.until(&id, "canceled").await;

    let shown = failing.world.cli(&["events", "cancel", &id]).await.output();
    assert!(shown.contains("no delivery of"), "{shown}");
    failing.call(&format!("/v1/events/{id}/replay")).await;
    failing.until(&id, "delivered").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_retry_is_tried_at_once_if_somebody_asks() {
    let failing = Failing::start(Database::Sqlite, [500, 500].map(Answer::status), "1h").await;
    let (one, other) = (failing.publish().await, failing.publish().await);
    for id in [&one, &other] {
        failing.until(id, "retrying").await;
    }
    let shown = failing.world.cli(&["events", "retry", &one]).await.output();
    assert!(
        shown.contains("1 delivery of") && shown.contains("tried now"),
        "{shown}"
    );
    failing.until(&one, "delivered").await;
    failing.until(&other, "retrying").await;
    let shown = failing
        .world
        .cli(&["endpoint", "retry", &failing.endpoint])
        .await
        .output();
    assert!(shown.contains("1 delivery to"), "{shown}");
    failing.until(&other, "delivered").await;
    assert_eq!(failing.receiver.requests().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_schedule_ends_in_the_dead_letter_queue_with_its_facts() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    receiver.script([Answer::status(500), Answer::Reset, Answer::status(502)]);
    let endpoint = world
        .api
        .add(&receiver, &["#"], json!({"retry": ["1s", "1s"]}))
        .await;
    let id = world.api.publish("order.created", json!({"n": 1})).await;

    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!(letter.reason, DeadReason::AttemptsExhausted);
    assert_eq!(letter.endpoint.unwrap().as_str(), endpoint.id);
    assert_eq!(
        (letter.event_id.as_deref(), letter.event_type.as_deref()),
        (Some(id.as_str()), Some("order.created"))
    );
    assert_eq!(
        (letter.attempts, letter.last_status, letter.last_error),
        (3, Some(502), None)
    );
    let took = letter.last_attempt.unwrap().since(letter.first_attempt.unwrap());
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert_eq!(receiver.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_get_no_answer_has_its_name() {
    let world = World::start().await;
    let (refusing, garbage) = (Receiver::start().await, Receiver::start().await);
    refusing.stop().await;
    garbage.respond_with(Answer::Garbage);
    let table = [
        (refusing.url(), "connect"),
        ("http://no-such-host.invalid/".to_owned(), "dns"),
        (garbage.url(), "protocol"),
    ];
    for (url, _) in &table {
        let body = json!({"url": url, "types": ["#"], "retry": []});
        world
            .api
            .json(reqwest::Method::POST, "/v1/endpoints", Some(body))
            .await;
    }
    world.api.publish("order.created", json!(1)).await;
    let letters = world.dead_letters(3).await;
    for (url, class) in &table {
        let found = |letter: &relay_event::DeadLetter| {
            letter
                .last_error
                .as_deref()
                .is_some_and(|error| error.starts_with(class))
        };
        assert!(letters.iter().any(found), "{url} is no {class}: {letters:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_disables_the_endpoint_and_keeps_what_waits() {
    let world = World::recorded(Database::Sqlite).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::status(410));
    let endpoint = world
        .api
        .add(&receiver, &["#"], json!({"max_in_flight": 1}))
        .await;
    let first = world.api.publish("order.created", json!(1)).await;

    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.reason, letter.event_id),
        (DeadReason::EndpointGone, Some(first))
    );
    let view = wait_until("the endpoint to be disabled", || async {
        let view = world.api.endpoint(&endpoint.id).await;
        if view["state"] == "disabled" {
            Ok(view)
        } else {
            Err(view.to_string())
        }
    })
    .await;
    assert!(view["reason"].as_str().unwrap().contains("410"), "{view}");

    let second = world.api.publish("order.created", json!(2)).await;
    world.wait_until_held(&endpoint.id, |held| held == 1).await;
    receiver.respond_with(Answer::status(204));
    world.api.change(&endpoint.id, json!({"paused": false})).await;
    assert_eq!(receiver.wait_for(2).await[1].webhook_id(), Some(second.as_str()));
}
