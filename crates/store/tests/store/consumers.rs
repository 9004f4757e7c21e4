//! Places kept for consumers.

use relay_store::Store;

use crate::{
    make::at,
    place::{Place, on_both},
};

on_both!(
    a_place_is_kept_and_only_goes_back_on_purpose,
    a_consumer_can_be_removed,
);

async fn places(store: &Store) -> Vec<(String, i64)> {
    let consumers = store.consumers().await.unwrap();
    consumers
        .into_iter()
        .map(|consumer| (consumer.name, consumer.place))
        .collect()
}

async fn a_place_is_kept_and_only_goes_back_on_purpose(place: Place) {
    let store = place.open().await;
    assert_eq!(store.consumer("b").await.unwrap(), None);
    for (committed, back, kept) in [
        (5, false, 5),
        (9, false, 9),
        (7, false, 9),
        (9, false, 9),
        (7, true, 7),
        (0, true, 0),
    ] {
        let now = at(u64::from(back) + 1);
        store.commit_consumer("b", committed, back, now).await.unwrap();
        let consumer = store.consumer("b").await.unwrap().unwrap();
        assert_eq!(consumer.place, kept, "{committed}, {back}");
        assert_eq!(consumer.committed_at, now.max(at(1)));
    }
    store.commit_consumer("a", 3, false, at(9)).await.unwrap();
    let all = [("a".to_owned(), 3), ("b".to_owned(), 0)];
    assert_eq!(places(&place.open().await).await, all);
}

async fn a_consumer_can_be_removed(place: Place) {
    let store = place.open().await;
    store.commit_consumer("a", 3, false, at(0)).await.unwrap();
    assert!(store.remove_consumer("a").await.unwrap());
    assert!(!store.remove_consumer("a").await.unwrap());
    assert_eq!(places(&store).await, []);
}
