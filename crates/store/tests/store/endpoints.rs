//! Endpoints: what is kept, and what concurrent processes leave of each other's work.

use std::time::Duration;

use relay_event::{Endpoint, EndpointId, EndpointState, Invalid, Secret, Timestamp, TypePattern};
use relay_store::Error;

use crate::place::{Place, on_both};

on_both!(
    endpoints_come_back_as_they_were_in_the_order_of_their_ids,
    an_id_is_taken_once,
    what_is_invalid_changes_nothing,
    concurrent_changes_lose_nothing,
    a_change_that_changes_nothing_still_answers,
    who_gave_up_reading_leaves_nobody_in_the_past,
);

fn types(patterns: &[&str]) -> Vec<TypePattern> {
    patterns.iter().map(|pattern| pattern.parse().unwrap()).collect()
}

fn endpoint(patterns: &[&str]) -> Endpoint {
    Endpoint::new(
        "https://example.com/hook".parse().unwrap(),
        types(patterns),
        Secret::generate(),
        Timestamp::now(),
    )
}

async fn endpoints_come_back_as_they_were_in_the_order_of_their_ids(place: Place) {
    let mut endpoints = [endpoint(&["order.*"]), endpoint(&["#"]), endpoint(&["a", "b"])];
    endpoints[1].rate_limit = Some(7);
    endpoints[2].state = EndpointState::Paused;
    let first = place.open().await;
    for endpoint in endpoints.iter().rev() {
        first.insert(endpoint).await.unwrap();
    }
    drop(first);

    let again = place.open().await;
    again.ping().await.unwrap();
    let mut expected = endpoints.to_vec();
    expected.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(again.endpoints().await.unwrap(), expected);

    let id = &endpoints[0].id;
    again.delete(id, Timestamp::now()).await.unwrap();
    again.delete(id, Timestamp::now()).await.unwrap();
    assert_eq!(again.endpoint(id).await.unwrap(), None);
    assert_eq!(again.update(id, |_| Ok(())).await.unwrap(), None);
    assert_eq!(again.endpoints().await.unwrap().len(), 2);
}

async fn an_id_is_taken_once(place: Place) {
    let store = place.open().await;
    let endpoint = endpoint(&["#"]);
    store.insert(&endpoint).await.unwrap();
    let refused = store.insert(&endpoint).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Exists { id } if *id == endpoint.id),
        "{refused}"
    );
}

async fn what_is_invalid_changes_nothing(place: Place) {
    let store = place.open().await;
    let mut wrong = endpoint(&["#"]);
    wrong.timeout_ms = 0;
    let refused = store.insert(&wrong).await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid(invalid) if invalid.field == "timeout_ms"));
    assert_eq!(store.endpoints().await.unwrap(), []);

    let right = endpoint(&["#"]);
    store.insert(&right).await.unwrap();
    let refused = store
        .update(&right.id, |endpoint| {
            endpoint.timeout_ms = 1;
            Ok(())
        })
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "timeout_ms: must be from 100 to 120000, not 1"
    );
    let refused = store
        .update(&right.id, |_| Err::<(), _>(Invalid::new("url", "no")))
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "url: no");
    let refused = store
        .update(&right.id, |endpoint| {
            endpoint.id = EndpointId::generate();
            Ok(())
        })
        .await
        .unwrap_err();
    assert!(matches!(&refused, Error::Invalid(invalid) if invalid.field == "id"));
    assert_eq!(store.endpoint(&right.id).await.unwrap().unwrap(), right);
}

/// Each of the changes reads what the others left: 4 tasks on each of 2 stores, each pool as in a
/// process of its own.
async fn concurrent_changes_lose_nothing(place: Place) {
    const TASKS: u64 = 4;
    const CHANGES: u64 = 25;
    let stores = [place.open().await, place.open().await];
    let mut endpoint = endpoint(&["#"]);
    endpoint.timeout_ms = 1_000;
    stores[0].insert(&endpoint).await.unwrap();
    let tasks: Vec<_> = stores
        .iter()
        .flat_map(|store| (0..TASKS).map(|_| store.clone()))
        .map(|store| {
            let id = endpoint.id.clone();
            tokio::spawn(async move {
                for _ in 0..CHANGES {
                    let one_more = |endpoint: &mut Endpoint| {
                        endpoint.timeout_ms += 1;
                        Ok(endpoint.timeout_ms)
                    };
                    let (after, answer) = store.update(&id, one_more).await.unwrap().unwrap();
                    assert_eq!(after.timeout_ms, answer);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stored = stores[1].endpoint(&endpoint.id).await.unwrap().unwrap();
    assert_eq!(stored.timeout_ms, 1_000 + 2 * TASKS * CHANGES);
}

async fn a_change_that_changes_nothing_still_answers(place: Place) {
    let store = place.open().await;
    let endpoint = endpoint(&["#"]);
    store.insert(&endpoint).await.unwrap();
    let kept = store
        .update(&endpoint.id, |held| Ok(held.timeout()))
        .await
        .unwrap();
    assert_eq!(kept, Some((endpoint, Duration::from_secs(30))));
}

/// At whatever moment, its connection is used again.
async fn who_gave_up_reading_leaves_nobody_in_the_past(place: Place) {
    let store = place.open().await;
    for patience in 0..200 {
        let gives_up = async {
            for _ in 0..patience {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = store.extent() => {}
            () = gives_up => {}
        }
        let endpoint = endpoint(&["#"]);
        store.insert(&endpoint).await.unwrap();
        let found = store.endpoint(&endpoint.id).await.unwrap();
        assert!(found.is_some(), "after one who gave up after {patience} turns");
    }
}
