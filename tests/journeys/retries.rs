//! What failed waits in the broker, exactly as long as it should.

use std::time::Duration;

use relay_event::{DeadReason, Timestamp};
use relay_testkit::{Answer, Receiver, wait_until};
use relay_tests::{Database, World};
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

/// A delivery of a replay does not call back the retry that an earlier schedule still has in the broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_says_that_an_earlier_schedule_still_runs() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::recorded(database).await;
        let receiver = Receiver::start().await;
        receiver.script([Answer::status(500)]);
        let endpoint = world
            .api
            .add(&receiver, &["#"], json!({"retry": ["8s"]}))
            .await
            .id;
        let id = world.api.publish("order.created", json!(1)).await;
        let path = format!("/v1/events/{id}");
        let stands = async |state: &str| {
            wait_until(format!("the delivery to be {state}"), || async {
                let response = world.api.call(Method::GET, &path, None).await;
                let event: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
                let delivery = event["deliveries"].get(0).cloned().unwrap_or_default();
                if delivery["state"] == state {
                    Ok(delivery)
                } else {
                    Err(event)
                }
            })
            .await
        };
        let retrying = stands("retrying").await;
        assert_eq!(retrying.get("earlier_next_at"), None, "{retrying}");
        let replay = format!("{path}/replay");
        world
            .api
            .call(Method::POST, &replay, Some(json!({"endpoint": endpoint})))
            .await;
        let delivered = stands("delivered").await;
        assert_eq!(delivered["earlier_next_at"], retrying["next_at"], "{delivered}");
        let shown = world.cli(&["events", "show", &id]).await.output();
        assert!(
            shown.contains("an earlier schedule still runs") && shown.contains(&endpoint),
            "{shown}"
        );
        receiver.wait_for(3).await;
        wait_until("nothing more to be due", || async {
            let delivered = stands("delivered").await;
            match delivered.get("earlier_next_at") {
                None => Ok(()),
                Some(_) => Err(delivered),
            }
        })
        .await;
    }
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
