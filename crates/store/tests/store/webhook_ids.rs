//! Events are found by the ids that receivers know them by.

use relay_event::{Attempt, DEFAULT_SOURCE, Death, WebhookId};
use relay_store::{Record, Store};
use serde_json::json;

use crate::{
    make::{Dice, at, attempt, death, endpoint, event_of, events, id},
    place::{Place, on_both},
};

on_both!(
    an_event_is_found_by_its_webhook_id,
    a_webhook_id_counts_more_than_an_id_of_another_event,
    events_of_older_versions_are_found_once_they_are_filled_in,
    the_longest_names_are_kept,
);

async fn record(store: &Store, names: &[(&str, &str)]) {
    for (number, (source, id)) in names.iter().enumerate() {
        let event = event_of(json!({"id": id, "source": source, "type": "a.b"}));
        store.record(&events([event]), at(number as u64)).await.unwrap();
    }
}

/// The source and id of the event that is found by this id.
async fn found(store: &Store, text: &str, source: Option<&str>) -> Option<(String, String)> {
    let event = store.logged_event(&id(text), source).await.unwrap()?;
    Some((event.source, event.id.to_string()))
}

fn webhook_id(source: &str, text: &str) -> String {
    WebhookId::of(source, &id(text)).to_string()
}

async fn an_event_is_found_by_its_webhook_id(place: Place) {
    let store = place.open().await;
    let long = "ü😀".repeat(170);
    let names = [
        ("/orders", "1"),
        ("/invoices", "1"),
        (DEFAULT_SOURCE, "1"),
        ("/orders", "a/b.c d"),
        ("/orders", &long),
    ];
    record(&store, &names).await;
    for (source, id) in names {
        let named = Some((source.to_owned(), id.to_owned()));
        let webhook_id = webhook_id(source, id);
        assert_eq!(found(&store, &webhook_id, None).await, named);
        assert_eq!(found(&store, &webhook_id, Some(source)).await, named);
        assert_eq!(found(&store, &webhook_id, Some("/other")).await, None);
        assert_eq!(found(&store, id, Some(source)).await, named);
    }
    assert_eq!(found(&store, "1_0123456789abcdef", None).await, None);
}

async fn a_webhook_id_counts_more_than_an_id_of_another_event(place: Place) {
    let store = place.open().await;
    let derived = webhook_id("/orders", "1");
    record(
        &store,
        &[
            (DEFAULT_SOURCE, "1"),
            ("/orders", "1"),
            ("/invoices", "1"),
            ("/invoices", &derived),
            (DEFAULT_SOURCE, &derived),
            ("/orders", "2.0"),
            ("/invoices", "2.0"),
        ],
    )
    .await;
    let name = |source: &str, id: &str| Some((source.to_owned(), id.to_owned()));
    assert_eq!(found(&store, "1", None).await, name(DEFAULT_SOURCE, "1"));
    assert_eq!(found(&store, &derived, None).await, name("/orders", "1"));
    assert_eq!(
        found(&store, &derived, Some("/invoices")).await,
        name("/invoices", &derived)
    );
    // No webhook id of any event: the newest of those that have it.
    assert_eq!(found(&store, "2.0", None).await, name("/invoices", "2.0"));
}

async fn events_of_older_versions_are_found_once_they_are_filled_in(place: Place) {
    let store = place.open().await;
    let names: Vec<String> = (0..1_201).map(|number| format!("old.{number}")).collect();
    let old = names
        .iter()
        .map(|id| event_of(json!({"id": id, "source": "/orders", "type": "a.b"})));
    let old: Vec<_> = old.map(Record::Event).collect();
    store.record(&old, at(0)).await.unwrap();
    // Not every id that was recorded once is one today.
    place
        .execute("UPDATE events SET fingerprint = NULL, id = CASE WHEN id = 'old.0' THEN '' ELSE id END")
        .await;
    record(&store, &[("/orders", "new.1")]).await;
    let last = webhook_id("/orders", "old.1200");
    assert_eq!(found(&store, &last, None).await, None);

    let mut rounds = 0;
    while store.fill_fingerprints(500).await.unwrap() {
        rounds += 1;
    }
    assert_eq!(rounds, 2);
    assert!(!store.fill_fingerprints(500).await.unwrap());
    for name in names[1..].iter().map(String::as_str).chain(["new.1"]) {
        let webhook_id = webhook_id("/orders", name);
        let named = Some(("/orders".to_owned(), name.to_owned()));
        assert_eq!(found(&store, &webhook_id, None).await, named);
    }
}

/// Text that no database makes shorter, as long as each may be: an index has room for it, also while an
/// event's records wait for it.
async fn the_longest_names_are_kept(place: Place) {
    let store = place.open().await;
    let mut dice = Dice::new(7);
    let mut text = |length: usize| -> String {
        let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
        (0..length).map(|_| char::from(letters[dice.roll(64)])).collect()
    };
    let (name, source) = (text(1_024), format!("/{}", text(1_023)));
    let attempt = Attempt {
        event_source: source.clone(),
        ..attempt(&name, endpoint(1), 1, at(1))
    };
    let death = Death {
        event_source: source.clone(),
        ..death(&name, endpoint(2), 3, at(1))
    };
    let early = [Record::Attempt(attempt), Record::Death(death)];
    store.record(&early, at(1)).await.unwrap();
    let event = event_of(json!({"id": name, "source": source, "type": text(255), "subject": text(1_024)}));
    store.record(&events([event]), at(2)).await.unwrap();
    store
        .note_confirmed(&[(id(&name), source.clone())], at(2))
        .await
        .unwrap();
    let webhook_id = webhook_id(&source, &name);
    let found = store.logged_event(&id(&webhook_id), None).await.unwrap().unwrap();
    assert_eq!((found.id.as_str(), &found.source), (name.as_str(), &source));
    assert_eq!(store.deliveries_of(found.sequence).await.unwrap().len(), 2);
}
