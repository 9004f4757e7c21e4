use bytes::Bytes;
use prometheus::Registry;
use relay_event::{Event, Timestamp};
use relay_store::{LoggedEvent, NewEvent, Record};

use super::*;
use crate::metrics::{How, Metrics};

async fn record(store: &Store, count: usize) {
    let record = |number| {
        let event = format!(r#"{{"specversion":"1.0","id":"{number}","source":"/s","type":"a"}}"#);
        Record::Event(NewEvent {
            event: Event::parse(event.into()).unwrap(),
            published_at: None,
            routed_to: Vec::new(),
        })
    };
    let records: Vec<Record> = (0..count).map(record).collect();
    store.record(&records, Timestamp::now()).await.unwrap();
}

/// Who waits for more finds some; otherwise all would look again and again until it is read.
#[tokio::test]
async fn the_log_is_never_said_to_go_further_than_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("relay.db").display());
    let store = Store::open(&url.parse().unwrap()).await.unwrap();
    let tail = Tail::new(store.clone());
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let _following = tail.follow(metrics.follower(How::Stream));
    tail.look().await;
    record(&store, 3 * PAGE.0 as usize).await;
    let watching = async {
        let mut heads = tail.0.head.subscribe();
        while heads.changed().await.is_ok() {
            let said = heads.borrow_and_update().clone().unwrap().extent.last;
            assert!(said <= tail.through(), "{said}");
        }
    };
    tokio::select! {
        biased;
        () = watching => {}
        () = tail.look() => {}
    }
    let head = tail.head().unwrap();
    assert_eq!((head.extent.last, tail.through()), (1_500, 1_500));
    assert!(head.read_at.is_some(), "all of it is read");
}

fn event(sequence: i64, size: usize) -> WholeEvent {
    WholeEvent {
        event: LoggedEvent {
            sequence,
            id: sequence.to_string().parse().unwrap(),
            source: "/s".to_owned(),
            event_type: if sequence % 2 == 0 { "even" } else { "odd" }.parse().unwrap(),
            subject: None,
            published_at: None,
            recorded_at: Timestamp::default(),
            size: size as u64,
        },
        body: Bytes::from(vec![b' '; size]),
    }
}

fn page(places: std::ops::RangeInclusive<i64>, size: usize) -> FeedPage {
    let through = *places.end();
    FeedPage {
        events: places.map(|place| event(place, size)).collect(),
        through,
        extent: Extent {
            log: String::new(),
            last: through,
            forgotten: 0,
        },
    }
}

fn places(kept: &Kept) -> (Vec<i64>, i64) {
    let places = kept.events.iter().map(|whole| whole.event.sequence);
    (places.collect(), kept.through)
}

#[test]
fn a_page_goes_on_after_its_place() {
    let mut ring = Ring::default();
    ring.begin(10);
    ring.push(page(11..=16, 10));
    let even = EventFilter {
        types: vec!["even".parse().unwrap()],
        ..EventFilter::default()
    };
    let all = EventFilter::default();
    for (place, filter, limit, bytes, expected) in [
        (10, &all, 9, 99, (vec![11, 12, 13, 14, 15, 16], 16)),
        (13, &all, 2, 99, (vec![14, 15], 15)),
        (16, &all, 2, 99, (vec![], 16)),
        (10, &even, 9, 99, (vec![12, 14, 16], 16)),
        (10, &even, 1, 99, (vec![12], 13)),
        (10, &all, 9, 25, (vec![11, 12], 12)),
        (10, &all, 9, 1, (vec![11], 11)),
    ] {
        let kept = ring.page(place, filter, limit, bytes);
        assert_eq!(places(&kept), expected, "after {place}, {limit}, {bytes}");
    }
}

#[test]
fn it_keeps_the_newest() {
    let mut ring = Ring::default();
    ring.push(page(1..=5_000, 10));
    assert_eq!((ring.after, ring.through), (5_000 - KEPT_EVENTS as i64, 5_000));
    ring.push(page(5_001..=5_010, 1 << 20));
    assert_eq!((ring.after, ring.through), (5_002, 5_010));
    assert_eq!(ring.bytes, 8 << 20);
    ring.push(page(5_011..=5_011, 9 << 20));
    assert_eq!((ring.after, ring.events.len(), ring.bytes), (5_011, 0, 0));
    ring.begin(5_011);
    assert_eq!(ring.through, 5_011);
}
