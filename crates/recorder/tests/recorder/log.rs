//! What is published and tried ends in the log, once, and is forgotten in the end.

use std::{collections::HashSet, time::Duration};

use relay_broker::{Queue, Session, Settlement};
use relay_event::{
    Attempt, AttemptId, DeadReason, DeliveryState, Endpoint, EndpointId, Event, History, Standing, Timestamp,
};
use relay_testkit::{shared_broker, wait_until};

use crate::relay::{Relay, config, event, folder};

/// Takes the next event and settles it for the endpoint as a deliverer would.
async fn attempt(session: &Session, endpoint: &Endpoint, settlement: Settlement) -> Attempt {
    let mut subscription = session.consume(Queue::Work, 1).await.unwrap();
    let mut taken = subscription.next().await.unwrap();
    let received = taken.read(session, 1_000);
    let history = History {
        attempts: 1,
        ..received.history.clone()
    };
    let attempt = made(received.event.as_ref().unwrap(), endpoint, &history, settlement);
    let record = Some(Box::new(attempt.clone()));
    let part = taken.divide(1).remove(0);
    part.settle(session, &endpoint.id, &received, &history, settlement, record)
        .await
        .unwrap();
    subscription.stop().await;
    attempt
}

fn made(event: &Event, endpoint: &Endpoint, history: &History, settlement: Settlement) -> Attempt {
    let (state, reason) = match settlement {
        Settlement::Dead(reason) => (DeliveryState::Dead, Some(reason)),
        _ => (DeliveryState::Delivered, None),
    };
    Attempt {
        id: AttemptId::generate(),
        event_id: event.id().clone(),
        event_source: event.source().to_owned(),
        event_type: event.event_type().clone(),
        published_at: history.run,
        endpoint: endpoint.id.clone(),
        attempt: history.attempts,
        hop: 0,
        at: Timestamp::now(),
        duration_ms: 5,
        first_byte_ms: None,
        status: Some(204),
        error: None,
        detail: None,
        answer: String::new(),
        state,
        next_at: None,
        reason,
        deliverer: "test".to_owned(),
    }
}

async fn standings(relay: &Relay, sequence: i64) -> Vec<(EndpointId, Standing)> {
    let deliveries = relay.store.deliveries_of(sequence).await.unwrap();
    let standing = deliveries
        .into_iter()
        .map(|found| (found.endpoint, found.standing));
    standing.collect()
}

async fn until_state(relay: &Relay, sequence: i64, state: DeliveryState) -> Standing {
    wait_until(format!("the delivery to be {state}"), || async {
        match &standings(relay, sequence).await[..] {
            [(_, standing)] if standing.state == state => Ok(standing.clone()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// Its producer may publish as soon as it is told that the endpoint is there.
#[tokio::test]
async fn the_first_event_of_a_new_endpoint_is_known_to_go_there() {
    let (folder, url) = (folder(), shared_broker().await);
    let mut relay = Relay::without_recorder(config(url, &folder), url).await;
    relay.record();
    relay.until_ready().await;
    let endpoint = relay.add_endpoint("order.*").await;
    relay.publish(&event("order.a")).await;
    let first = relay.logged(1).await.remove(0);
    let standings = standings(&relay, first.sequence).await;
    let to: Vec<&EndpointId> = standings.iter().map(|(to, _)| to).collect();
    assert_eq!(to, [&endpoint.id]);
}

#[tokio::test]
async fn events_and_attempts_end_in_the_log_and_leave_the_queues_empty() {
    let (folder, url) = (folder(), shared_broker().await);
    let mut relay = Relay::without_recorder(config(url, &folder), url).await;
    let (endpoint, session) = (relay.add_endpoint("order.*").await, relay.session().await);
    relay.record();
    let (unwanted, delivered, dead) = (event("other"), event("order.a"), event("order.b"));
    for event in [&unwanted, &delivered, &dead] {
        relay.publish(event).await;
    }
    let logged = relay.logged(3).await;
    assert_eq!(
        [&logged[2].id, &logged[1].id, &logged[0].id],
        [unwanted.id(), delivered.id(), dead.id()],
        "in the order they were published"
    );
    assert_eq!(standings(&relay, logged[2].sequence).await, []);
    let body = relay.store.event_body(logged[1].sequence).await.unwrap();
    assert_eq!(body.as_ref(), Some(delivered.body()));
    for routed in &logged[..2] {
        let [(to, standing)] = &standings(&relay, routed.sequence).await[..] else {
            panic!("one delivery is known");
        };
        assert_eq!((to, standing.state), (&endpoint.id, DeliveryState::Pending));
    }

    attempt(&session, &endpoint, Settlement::Delivered).await; // The one that it did not want.
    let made = attempt(&session, &endpoint, Settlement::Delivered).await;
    let given_up = Settlement::Dead(DeadReason::AttemptsExhausted);
    attempt(&session, &endpoint, given_up).await;
    until_state(&relay, logged[1].sequence, DeliveryState::Delivered).await;
    let standing = until_state(&relay, logged[0].sequence, DeliveryState::Dead).await;
    assert_eq!(standing.reason, Some(DeadReason::AttemptsExhausted));
    let attempts = relay.store.attempts_of(logged[1].sequence, None, None, 10).await;
    assert_eq!(attempts.unwrap(), [made]);

    relay.counted("events", 3.0).await;
    relay.counted("attempts", 3.0).await;
    relay.stop_and_find_the_queues_empty().await;
}

#[tokio::test]
async fn an_endpoint_is_known_as_soon_as_it_is_announced() {
    let (folder, url) = (folder(), shared_broker().await);
    let mut config = config(url, &folder);
    config.recheck = Duration::from_secs(3600);
    let mut relay = Relay::without_recorder(config, url).await;
    relay.record();
    relay.until_ready().await;
    let endpoint = relay.add_endpoint("#").await;
    let mut count = 0;
    wait_until("an event that is known to be routed", || {
        count += 1;
        let (relay, endpoint) = (&relay, &endpoint.id);
        async move {
            relay.publish(&event("a")).await;
            let newest = &relay.logged(count).await[0];
            let standings = standings(relay, newest.sequence).await;
            standings.iter().any(|(routed, _)| routed == endpoint)
        }
    })
    .await;
}

#[tokio::test]
async fn what_comes_at_once_is_written_at_once() {
    const EVENTS: usize = 3_000;
    let (folder, url) = (folder(), shared_broker().await);
    let mut relay = Relay::without_recorder(config(url, &folder), url).await;
    let session = relay.session().await;
    let events: Vec<_> = (0..EVENTS).map(|_| event("a")).collect();
    let published = events
        .iter()
        .map(|event| session.publish_event(event, Timestamp::now()));
    for published in futures_util::future::join_all(published).await {
        published.unwrap();
    }
    relay.record();
    let logged: HashSet<_> = relay.logged(EVENTS).await.into_iter().map(|e| e.id).collect();
    assert_eq!(logged, events.iter().map(|event| event.id().clone()).collect());
    let transactions = relay.metric("relay_recorder_batch_records_count");
    assert!(transactions < 200.0, "{transactions}");
    wait_until("nothing to be behind", || async {
        relay.metric("relay_recorder_lag_seconds") == 0.0
    })
    .await;
    relay.stop_and_find_the_queues_empty().await;
}

#[tokio::test]
async fn what_is_old_enough_is_forgotten() {
    let (folder, url) = (folder(), shared_broker().await);
    let mut config = config(url, &folder);
    config.retain_events = Duration::from_millis(1);
    config.retain_attempts = Duration::from_millis(1);
    let mut relay = Relay::without_recorder(config, url).await;
    for _ in 0..20 {
        relay.publish(&event("a")).await;
    }
    relay.record();
    let forgotten = r#"relay_recorder_forgotten_rows_total{table="events"}"#;
    wait_until("all events to be forgotten", || async {
        relay.until_ready().await;
        relay.metric(forgotten) == 20.0
    })
    .await;
    assert_eq!(relay.logged(0).await, []);
    wait_until("nothing to be left to forget", || async {
        relay.metric("relay_retention_lag_seconds") == 0.0
    })
    .await;
}
