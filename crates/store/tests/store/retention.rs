//! What is forgotten, and in what portions.

use relay_event::Timestamp;
use relay_store::{AttemptStats, DeliveryFilter, EventFilter, Forgotten, Record, Retention, Store};

use crate::{
    make::{at, attempt, endpoint, event, events, id},
    place::{Place, on_both},
};

on_both!(
    events_and_attempts_go_each_by_their_own_age,
    no_attempt_outlives_its_event,
    records_whose_event_never_came_go_too,
    what_was_confirmed_goes_by_the_events_age,
    an_event_with_many_deliveries_goes_with_fewer_others,
    what_comes_meanwhile_is_kept,
    a_type_goes_with_the_last_of_its_events,
    a_type_that_is_used_again_meanwhile_is_kept,
    types_that_older_versions_left_go,
);

/// Before everything.
fn never() -> Timestamp {
    Timestamp::default()
}

/// An event each second, with two attempts.
async fn fill(store: &Store, seconds: u64) {
    for second in 0..seconds {
        let name = second.to_string();
        let mut records = events([event(&name, "a.b")]);
        for number in [1, 2] {
            let whom = endpoint(number);
            records.push(Record::Attempt(attempt(&name, whom, 1, at(second))));
        }
        store.record(&records, at(second)).await.unwrap();
    }
}

async fn kept(store: &Store) -> (Vec<i64>, usize, u64) {
    let events = store
        .logged_events(&EventFilter::default(), None, 1000)
        .await
        .unwrap()
        .events;
    let deliveries = store
        .logged_deliveries(&DeliveryFilter::default(), None, 1000)
        .await
        .unwrap();
    let stats = store.attempt_stats(&endpoint(1), at(0)).await.unwrap();
    (
        events.iter().rev().map(|event| event.sequence).collect(),
        deliveries.len(),
        stats.failed,
    )
}

async fn events_and_attempts_go_each_by_their_own_age(place: Place) {
    let store = place.open().await;
    fill(&store, 20).await;
    let retention = Retention {
        events_before: at(5),
        attempts_before: at(12),
    };
    let first = store.forget(&retention, 3).await.unwrap();
    let expected = Forgotten {
        events: 3,
        attempts: 2,
        more: true,
    };
    assert_eq!(first, expected, "of an event all attempts go at once");
    let mut all = first;
    while all.more {
        let next = store.forget(&retention, 3).await.unwrap();
        assert!(next.events <= 3 && next.attempts <= 3, "{next:?}");
        all = Forgotten {
            events: all.events + next.events,
            attempts: all.attempts + next.attempts,
            more: next.more,
        };
    }
    assert_eq!(
        all,
        Forgotten {
            events: 5,
            attempts: 24,
            more: false
        }
    );
    assert_eq!(store.forget(&retention, 3).await.unwrap(), Forgotten::default());
    assert_eq!(kept(&store).await, ((6..=20).collect(), 30, 8));
    assert_eq!(store.oldest_event().await.unwrap(), Some(at(5)));
    assert_eq!(store.attempts_of(12, None, None, 9).await.unwrap(), []);
    assert_eq!(store.attempts_of(13, None, None, 9).await.unwrap().len(), 2);

    let nothing = Retention {
        events_before: never(),
        attempts_before: never(),
    };
    assert_eq!(store.forget(&nothing, 3).await.unwrap(), Forgotten::default());
    let everything = Retention {
        events_before: at(99),
        attempts_before: at(99),
    };
    let rest = store.forget(&everything, 1000).await.unwrap();
    assert_eq!(
        rest,
        Forgotten {
            events: 15,
            attempts: 16,
            more: false
        }
    );
    assert_eq!(kept(&store).await, (vec![], 0, 0));
    assert_eq!(store.oldest_event().await.unwrap(), None);

    store
        .record(&events([event("next", "a.b")]), at(100))
        .await
        .unwrap();
    let next = store.logged_event(&id("next"), None).await.unwrap().unwrap();
    assert_eq!(next.sequence, 21, "a place is given once");
    let again = Record::Event(event("3", "a.b"));
    store.record(&[again], at(100)).await.unwrap();
    let found = store.logged_event(&id("3"), None).await.unwrap();
    assert_eq!(found.unwrap().sequence, 22, "what is forgotten is new");
}

async fn no_attempt_outlives_its_event(place: Place) {
    let store = place.open().await;
    fill(&store, 4).await;
    let retention = Retention {
        events_before: at(2),
        attempts_before: never(),
    };
    let forgotten = store.forget(&retention, 100).await.unwrap();
    assert_eq!(
        forgotten,
        Forgotten {
            events: 2,
            attempts: 4,
            more: false
        }
    );
    assert_eq!(kept(&store).await, (vec![3, 4], 4, 2));
}

async fn records_whose_event_never_came_go_too(place: Place) {
    let store = place.open().await;
    for second in 0..6 {
        let early = attempt(&format!("e{second}"), endpoint(1), 1, at(0));
        store.record(&[Record::Attempt(early)], at(second)).await.unwrap();
    }
    let retention = Retention {
        events_before: at(4),
        attempts_before: at(9), // Sooner, but an event that is only late is to find them.
    };
    let first = store.forget(&retention, 3).await.unwrap();
    assert_eq!(
        first,
        Forgotten {
            more: true,
            ..Forgotten::default()
        }
    );
    assert!(!store.forget(&retention, 3).await.unwrap().more);
    let late: Vec<_> = (0..6)
        .map(|second| Record::Event(event(&format!("e{second}"), "a.b")))
        .collect();
    let written = store.record(&late, at(9)).await.unwrap();
    assert_eq!((written.events, written.attempts), (6, 2));
    assert_eq!(
        store.attempt_stats(&endpoint(2), at(0)).await.unwrap(),
        AttemptStats::default()
    );
}

async fn what_was_confirmed_goes_by_the_events_age(place: Place) {
    let store = place.open().await;
    let names: Vec<_> = (0..10)
        .map(|n| (id(&n.to_string()), "/source".to_owned()))
        .collect();
    for (second, pair) in (0..).zip(names.chunks(2)) {
        store.note_confirmed(pair, at(second)).await.unwrap();
    }
    // Noted again, they are as old as before.
    store.note_confirmed(&names, at(99)).await.unwrap();
    let retention = Retention {
        events_before: at(4),
        attempts_before: at(9),
    };
    for (most, left, more) in [(1, 8, true), (3, 6, true), (3, 4, true), (3, 2, false)] {
        let forgotten = store.forget(&retention, most).await.unwrap();
        assert_eq!(
            forgotten,
            Forgotten {
                more,
                ..Forgotten::default()
            },
            "all of a time go at once"
        );
        let confirmed = store.are_confirmed(&names).await.unwrap();
        assert!(confirmed.iter().rev().take(left).all(|confirmed| *confirmed));
        assert!(confirmed.iter().rev().skip(left).all(|confirmed| !confirmed));
    }
    assert_eq!(store.forget(&retention, 1).await.unwrap(), Forgotten::default());
}

async fn an_event_with_many_deliveries_goes_with_fewer_others(place: Place) {
    let store = place.open().await;
    for name in ["a", "b", "c"] {
        let mut new = event(name, "a.b");
        new.routed_to = (0..50).map(endpoint).collect();
        store.record(&events([new]), at(1)).await.unwrap();
    }
    let retention = Retention {
        events_before: at(2),
        attempts_before: at(2),
    };
    for left in [2, 1] {
        let forgotten = store.forget(&retention, 5).await.unwrap();
        assert_eq!(
            forgotten,
            Forgotten {
                events: 1,
                attempts: 0,
                more: true
            }
        );
        assert_eq!(kept(&store).await.1, 50 * left);
    }
    let forgotten = store.forget(&retention, 5).await.unwrap();
    assert_eq!(forgotten.events, 1);
    assert_eq!(kept(&store).await, (vec![], 0, 0));
}

async fn what_comes_meanwhile_is_kept(place: Place) {
    let (writer, keeper) = (place.open().await, place.open().await);
    for round in 0..40 {
        let name = |what: &str| format!("{what}-{round}");
        let old = events([event(&name("old"), "a.b")]);
        writer.record(&old, at(2 * round)).await.unwrap();
        let new = events([event(&name("new"), "a.b")]);
        let young = at(2 * round + 1);
        let retention = Retention {
            events_before: young,
            attempts_before: young,
        };
        let (written, forgotten) = tokio::join!(writer.record(&new, young), keeper.forget(&retention, 10));
        assert_eq!((written.unwrap().events, forgotten.unwrap().more), (1, false));
        let found = async |what: &str| writer.logged_event(&id(&name(what)), None).await.unwrap();
        assert!(found("new").await.is_some());
        assert!(found("old").await.is_none());
    }
}

async fn types(place: &Place) -> Vec<String> {
    place.texts("SELECT name FROM types ORDER BY id").await
}

fn before(second: u64) -> Retention {
    Retention {
        events_before: at(second),
        attempts_before: at(second),
    }
}

async fn a_type_goes_with_the_last_of_its_events(place: Place) {
    let store = place.open().await;
    let kinds = ["a", "b", "a.b", "a", "c", "b", "d"];
    for (second, kind) in (0..).zip(kinds) {
        let new = events([event(&second.to_string(), kind)]);
        store.record(&new, at(second)).await.unwrap();
    }
    for (second, kept) in [
        (1, &["a", "b", "a.b", "c", "d"][..]),
        (3, &["a", "b", "c", "d"]),
        (5, &["b", "d"]),
        (6, &["d"]),
        (7, &[]),
    ] {
        // An event at a time: no portion knows of the others.
        while store.forget(&before(second), 1).await.unwrap().more {}
        assert_eq!(types(&place).await, kept, "before {second} s");
    }
    let again = events([event("again", "b"), event("more", "e")]);
    store.record(&again, at(9)).await.unwrap();
    let filter = EventFilter {
        types: vec!["b".parse().unwrap()],
        ..EventFilter::default()
    };
    let found = store.feed(&filter, 0, 9, u64::MAX).await.unwrap();
    let found: Vec<_> = found.events.iter().map(|whole| whole.event.id.as_str()).collect();
    assert_eq!(found, ["again"]);
}

async fn a_type_that_is_used_again_meanwhile_is_kept(place: Place) {
    let (writer, keeper) = (place.open().await, place.open().await);
    for round in 0..40 {
        let (old, new) = (format!("old-{round}"), format!("new-{round}"));
        let second = 2 * round;
        writer
            .record(&events([event(&old, "a.b")]), at(second))
            .await
            .unwrap();
        let (records, retention) = (events([event(&new, "a.b")]), before(second + 1));
        let (written, forgotten) = tokio::join!(
            writer.record(&records, at(second + 1)),
            keeper.forget(&retention, 10)
        );
        assert_eq!((written.unwrap().events, forgotten.unwrap().more), (1, false));
        let found = writer.logged_event(&id(&new), None).await.unwrap();
        assert_eq!(found.unwrap().event_type.as_str(), "a.b");
        assert_eq!(types(&place).await, ["a.b"]);
    }
}

async fn types_that_older_versions_left_go(place: Place) {
    let store = place.open().await;
    store.record(&events([event("1", "a.b")]), at(0)).await.unwrap();
    let left = "INSERT INTO types (id, name) VALUES (900, 'left.behind'), (901, 'left.too'); \
         DELETE FROM _sqlx_migrations WHERE version = 6";
    place.execute(left).await;
    let store = place.open().await;
    assert_eq!(types(&place).await, ["a.b"]);
    store
        .record(&events([event("2", "left.too")]), at(0))
        .await
        .unwrap();
    assert_eq!(types(&place).await, ["a.b", "left.too"]);
}
