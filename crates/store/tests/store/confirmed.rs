//! Which events are confirmed, which says nothing about the log, nor the log about them.

use std::sync::Arc;

use relay_event::EventId;
use relay_store::Store;
use relay_testkit::database;
use sqlx::{Connection, PgConnection};
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    make::{Dice, at, event, events, id},
    place::{Place, on_both},
};

on_both!(
    what_is_confirmed_is_known_by_id_and_source,
    what_is_recorded_is_not_confirmed,
    thousands_are_noted_by_several_at_once,
);

fn named(id: &str, source: &str) -> (EventId, String) {
    (id.parse().unwrap(), source.to_owned())
}

async fn what_is_confirmed_is_known_by_id_and_source(place: Place) {
    let store = place.open().await;
    let noted = [
        named("a", "/1"),
        named("b", "/2"),
        named("a", "/1"),
        named("c", "/\0"),
    ];
    for _ in 0..2 {
        store.note_confirmed(&noted, at(0)).await.unwrap();
        store.note_confirmed(&[], at(0)).await.unwrap();
    }
    let asked = [
        named("b", "/1"),
        named("a", "/1"),
        named("A", "/1"),
        named("b", "/2"),
        named("a", "/1"),
        named("c", "/\0"),
    ];
    let confirmed = place.open().await.are_confirmed(&asked).await.unwrap();
    assert_eq!(confirmed, [false, true, false, true, true, true]);
    assert_eq!(store.are_confirmed(&[]).await.unwrap(), [false; 0]);
}

async fn what_is_recorded_is_not_confirmed(place: Place) {
    let store = place.open().await;
    let both = [named("e1", "/source"), named("e2", "/source")];
    store.record(&events([event("e1", "a.b")]), at(0)).await.unwrap();
    store.note_confirmed(&both[1..], at(0)).await.unwrap();
    assert_eq!(store.are_confirmed(&both).await.unwrap(), [false, true]);
    // And the other way round; a note takes no place in the log.
    assert_eq!(store.logged_event(&id("e2"), None).await.unwrap(), None);
    store.record(&events([event("e2", "a.b")]), at(0)).await.unwrap();
    let logged = store.logged_event(&id("e2"), None).await.unwrap();
    assert_eq!(logged.unwrap().sequence, 2);
}

/// More than go into one statement, and each in an order of its own.
async fn thousands_are_noted_by_several_at_once(place: Place) {
    let all: Vec<_> = (0..2_300).map(|n| named(&n.to_string(), "/source")).collect();
    let stores = [place.open().await, place.open().await, place.open().await];
    let together = Arc::new(Barrier::new(stores.len()));
    let mut writers = JoinSet::new();
    for (seed, store) in (1..).zip(stores) {
        let (mut noted, together) = (all.clone(), Arc::clone(&together));
        Dice::new(seed).shuffle(&mut noted);
        writers.spawn(async move {
            store.ping().await.unwrap(); // It is connected now.
            together.wait().await;
            store.note_confirmed(&noted, at(seed)).await
        });
    }
    for noted in writers.join_all().await {
        noted.unwrap();
    }
    let mut asked = all;
    asked.insert(1_500, named("none", "/source"));
    let confirmed = place.open().await.are_confirmed(&asked).await.unwrap();
    assert_eq!(confirmed.len(), asked.len());
    let unknown: Vec<_> = (0..asked.len()).filter(|n| !confirmed[*n]).collect();
    assert_eq!(unknown, [1_500]);
}

/// SQLite has one writer, whatever it writes.
#[tokio::test]
async fn in_postgresql_the_log_s_writers_are_not_waited_for() {
    let url = database().await;
    let store = Store::open(&url.parse().unwrap()).await.unwrap();
    let mut recorder = PgConnection::connect(&url).await.unwrap();
    let mut writing = recorder.begin().await.unwrap();
    sqlx::query("UPDATE log SET sequence = sequence")
        .execute(&mut *writing)
        .await
        .unwrap();
    let event = [named("e1", "/source")];
    store.note_confirmed(&event, at(0)).await.unwrap();
    assert_eq!(store.are_confirmed(&event).await.unwrap(), [true]);
    writing.rollback().await.unwrap();
}
