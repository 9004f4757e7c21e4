//! The log forwards, while others write to it and forget what is old.

use relay_event::Timestamp;
use relay_store::{EventFilter, Record, Retention, Store};
use tokio::task::JoinSet;

use crate::{
    make::{at, event, events},
    place::{Place, on_both},
};

on_both!(
    a_reader_meets_each_event_once_while_others_write,
    what_was_forgotten_is_known,
    a_time_is_a_place,
    each_log_has_a_name_of_its_own,
);

const WRITERS: usize = 4;
const BATCHES: usize = 30;

async fn write(store: Store, writer: usize) {
    for batch in 0..BATCHES {
        let names = (0..3).map(|number| format!("{writer}-{batch}-{number}"));
        let records: Vec<_> = names.map(|name| Record::Event(event(&name, "a.b"))).collect();
        store.record(&records, Timestamp::now()).await.unwrap();
    }
}

async fn a_reader_meets_each_event_once_while_others_write(place: Place) {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(place.open().await, writer));
    }
    let (store, filter) = (place.open().await, EventFilter::default());
    let (mut met, mut after) = (Vec::new(), 0);
    while met.len() < WRITERS * BATCHES * 3 {
        let page = store.feed(&filter, after, 7, u64::MAX).await.unwrap();
        met.extend(page.events.into_iter().map(|whole| whole.event));
        after = page.through;
        if let Some(written) = writers.try_join_next() {
            written.unwrap();
        }
    }
    assert!(met.is_sorted_by(|a, b| a.sequence < b.sequence));
    let mut all = store.logged_events(&filter, None, 10_000).await.unwrap().events;
    all.reverse();
    assert_eq!(met, all);
}

async fn what_was_forgotten_is_known(place: Place) {
    let store = place.open().await;
    for second in 0..10 {
        let name = second.to_string();
        store
            .record(&events([event(&name, "a.b")]), at(second))
            .await
            .unwrap();
    }
    let places = async || {
        let extent = store.extent().await.unwrap();
        (extent.forgotten, extent.last)
    };
    assert_eq!(places().await, (0, 10));
    for (before, forgotten) in [(0, 0), (4, 4), (3, 4), (1_000, 10)] {
        let retention = Retention {
            events_before: at(before),
            attempts_before: at(before),
        };
        while store.forget(&retention, 2).await.unwrap().more {}
        assert_eq!(places().await, (forgotten, 10), "before {before} s");
    }
    let page = store.feed(&EventFilter::default(), 2, 9, 9).await.unwrap();
    assert_eq!((page.events.len(), page.through), (0, 10));
}

async fn a_time_is_a_place(place: Place) {
    let store = place.open().await;
    assert_eq!(store.place_before(at(0)).await.unwrap(), 0);
    for (name, second) in [("a", 1), ("b", 1), ("c", 5)] {
        store
            .record(&events([event(name, "a.b")]), at(second))
            .await
            .unwrap();
    }
    for (time, before) in [(0, 0), (1, 0), (2, 2), (5, 2), (6, 3)] {
        assert_eq!(store.place_before(at(time)).await.unwrap(), before, "{time} s");
    }
}

async fn each_log_has_a_name_of_its_own(place: Place) {
    let name = place.open().await.extent().await.unwrap().log;
    assert_eq!(name.len(), 16);
    assert!(
        name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
        "{name}"
    );
    assert_eq!(place.open().await.extent().await.unwrap().log, name);
    let another = Place::sqlite().open().await.extent().await.unwrap().log;
    assert_ne!(name, another);
}
