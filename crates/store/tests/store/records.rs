//! What is written to the log, and that it reads as it was.

use relay_event::{AttemptId, DeliveryState, EndpointId, HoldReason, Standing, Timestamp};
use relay_store::{AttemptStats, EventFilter, Only, Record, UnderWay, Written};
use serde_json::json;

use crate::{
    make::{at, attempt, death, delivered, endpoint, event, event_of, events, id},
    place::{Place, on_both},
};

on_both!(
    an_event_reads_as_it_was_written,
    of_an_id_in_several_sources_the_newest_is_found,
    what_was_written_before_changes_nothing,
    an_attempt_reads_as_it_was_written,
    attempts_are_paged_from_the_oldest_on,
    an_event_waits_for_those_it_was_routed_to,
    records_wait_for_their_event,
    a_generation_begins_only_where_the_event_is_kept,
    an_attempt_or_a_death_without_a_run_ends_the_wait,
    stats_are_of_one_endpoint_and_time,
    nul_and_times_without_end_are_no_obstacle,
    thousands_of_records_are_one_write,
);

async fn an_event_reads_as_it_was_written(place: Place) {
    let store = place.open().await;
    let mut new = event_of(json!({
        "id": "e1", "source": "/orders", "type": "order.created", "subject": "o-1", "data": "ä".repeat(9000),
    }));
    new.published_at = Some(at(1));
    let body = new.event.body().clone();
    let written = store.record(&events([new]), at(2)).await.unwrap();
    assert_eq!((written.events, written.attempts), (1, 0));

    let logged = store.logged_event(&id("e1"), None).await.unwrap().unwrap();
    assert_eq!((logged.sequence, logged.id.as_str()), (1, "e1"));
    assert_eq!(logged.source, "/orders");
    assert_eq!(logged.event_type.as_str(), "order.created");
    assert_eq!(logged.subject.as_deref(), Some("o-1"));
    assert_eq!((logged.published_at, logged.recorded_at), (Some(at(1)), at(2)));
    assert_eq!(logged.size, body.len() as u64);
    let listed = store
        .logged_events(&EventFilter::default(), None, 9)
        .await
        .unwrap()
        .events;
    assert_eq!(listed, [logged]);
    assert_eq!(store.event_body(1).await.unwrap(), Some(body));
    assert_eq!(store.event_body(2).await.unwrap(), None);
    assert_eq!(store.oldest_event().await.unwrap(), Some(at(2)));
}

async fn of_an_id_in_several_sources_the_newest_is_found(place: Place) {
    let store = place.open().await;
    let from = |source: &str| event_of(json!({"id": "e", "source": source, "type": "a"}));
    let written = store
        .record(&events([from("/b"), from("/c"), from("/a")]), at(0))
        .await;
    assert_eq!(written.unwrap().events, 3);
    let found = store.logged_event(&id("e"), None).await.unwrap().unwrap();
    assert_eq!((found.sequence, found.source.as_str()), (3, "/a"));
    let found = store.logged_event(&id("e"), Some("/b")).await.unwrap().unwrap();
    assert_eq!((found.sequence, found.source.as_str()), (1, "/b"));
    assert_eq!(store.logged_event(&id("e"), Some("/d")).await.unwrap(), None);
    assert_eq!(store.logged_event(&id("f"), None).await.unwrap(), None);
}

async fn what_was_written_before_changes_nothing(place: Place) {
    let store = place.open().await;
    let mut records = events([event("e1", "a.b"), event("e2", "a.b")]);
    records.push(Record::Attempt(attempt("e1", endpoint(1), 1, at(1))));
    records.push(Record::Death(death("e2", endpoint(1), 3, at(1))));
    let first = store.record(&records, at(2)).await.unwrap();
    assert_eq!((first.events, first.attempts), (2, 1));
    let before = (
        store
            .logged_events(&EventFilter::default(), None, 9)
            .await
            .unwrap()
            .events,
        store.deliveries_of(1).await.unwrap(),
        store.deliveries_of(2).await.unwrap(),
    );

    let mut other = event_of(json!({"id": "e1", "source": "/source", "type": "c", "data": 1}));
    other.routed_to = vec![endpoint(2)];
    records.extend(records.clone());
    records.push(Record::Event(other));
    let again = store.record(&records, at(3)).await.unwrap();
    assert_eq!((again.events, again.attempts), (0, 0));
    let after = (
        store
            .logged_events(&EventFilter::default(), None, 9)
            .await
            .unwrap()
            .events,
        store.deliveries_of(1).await.unwrap(),
        store.deliveries_of(2).await.unwrap(),
    );
    assert_eq!(after, before);
    store.record(&events([event("e3", "a.b")]), at(3)).await.unwrap();
    let next = store.logged_event(&id("e3"), None).await.unwrap().unwrap();
    assert_eq!(next.sequence, 3, "a repeat takes no place");
}

async fn an_attempt_reads_as_it_was_written(place: Place) {
    let store = place.open().await;
    let failed = attempt("e", endpoint(1), 1, at(1));
    let done = delivered(attempt("e", endpoint(1), 2, at(31)));
    let mut bare = done.clone();
    (bare.id, bare.endpoint) = (AttemptId::generate(), endpoint(2));
    (bare.published_at, bare.first_byte_ms, bare.status) = (None, None, None);
    bare.answer = String::new();
    let mut records = events([event("e", "a.b")]);
    records.extend([&failed, &done, &bare].map(|attempt| Record::Attempt(attempt.clone())));
    store.record(&records, at(40)).await.unwrap();

    assert_eq!(
        store.attempts_of(1, Some(&endpoint(1)), None, 9).await.unwrap(),
        [failed, done.clone()]
    );
    assert_eq!(
        store.attempts_of(1, Some(&endpoint(2)), None, 9).await.unwrap(),
        [bare]
    );
    let deliveries = store.deliveries_of(1).await.unwrap();
    assert_eq!(deliveries.len(), 2);
    assert_eq!(deliveries[0].endpoint, endpoint(1));
    assert_eq!(deliveries[0].standing, done.standing());
    assert_eq!(deliveries[1].standing.run, Timestamp::default());
    assert_eq!(deliveries[1].event_type.as_str(), "a.b");
}

async fn attempts_are_paged_from_the_oldest_on(place: Place) {
    let store = place.open().await;
    let mut attempts: Vec<_> = (0..20_u64)
        .map(|n| attempt("e", endpoint((n % 3) as u8), 1, at(n * 7 % 5)))
        .collect();
    let mut records = events([event("e", "a.b")]);
    records.extend(attempts.iter().cloned().map(Record::Attempt));
    store.record(&records, at(40)).await.unwrap();
    attempts.sort_by_key(|attempt| (attempt.at, attempt.id.clone()));

    let mut paged = Vec::new();
    loop {
        let last = paged
            .last()
            .map(|attempt: &relay_event::Attempt| attempt.id.clone());
        let page = store.attempts_of(1, None, last.as_ref(), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, attempts);
    assert_eq!(store.attempts_of(2, None, None, 3).await.unwrap(), []);
}

async fn an_event_waits_for_those_it_was_routed_to(place: Place) {
    let store = place.open().await;
    let mut said = event("said", "a.b");
    said.published_at = Some(at(0));
    said.routed_to = vec![endpoint(2), endpoint(1), endpoint(2)];
    let mut unsaid = event("unsaid", "a.b");
    unsaid.routed_to = vec![endpoint(1)];
    store.record(&events([said, unsaid]), at(5)).await.unwrap();

    let deliveries = store.deliveries_of(1).await.unwrap();
    assert_eq!(deliveries.len(), 2);
    assert_eq!(deliveries[0].endpoint, endpoint(1));
    assert_eq!(deliveries[0].standing, waiting(at(0)));
    let unsaid = &store.deliveries_of(2).await.unwrap()[0].standing;
    assert_eq!(*unsaid, waiting(at(5)));
    assert_eq!(
        store.under_way(&endpoint(1)).await.unwrap(),
        UnderWay {
            pending: 2,
            retrying: 0
        }
    );

    let failed = attempt("said", endpoint(1), 1, at(6));
    store.record(&[Record::Attempt(failed)], at(7)).await.unwrap();
    assert_eq!(
        store.under_way(&endpoint(1)).await.unwrap(),
        UnderWay {
            pending: 1,
            retrying: 1
        }
    );
}

/// How the delivery of a new event stands: by no run.
fn waiting(since: Timestamp) -> Standing {
    Standing {
        at: since,
        ..Standing::pending(Timestamp::default())
    }
}

/// The deliverer judges at another moment, and by another clock, whether it believes the producer.
async fn an_attempt_or_a_death_without_a_run_ends_the_wait(place: Place) {
    let store = place.open().await;
    let mut new = event("e", "a.b");
    new.published_at = Some(at(90));
    new.routed_to = vec![endpoint(1), endpoint(2)];
    let mut done = delivered(attempt("e", endpoint(1), 1, at(1)));
    done.published_at = None;
    let mut dead = death("e", endpoint(2), 0, at(2));
    dead.standing.run = Timestamp::default();
    store.record(&events([new]), at(91)).await.unwrap();
    let records = [Record::Attempt(done), Record::Death(dead)];
    store.record(&records, at(92)).await.unwrap();
    let deliveries = store.deliveries_of(1).await.unwrap();
    let states: Vec<_> = deliveries.iter().map(|one| one.standing.state).collect();
    assert_eq!(states, [DeliveryState::Delivered, DeliveryState::Dead]);
}

async fn records_wait_for_their_event(place: Place) {
    let store = place.open().await;
    let failed = attempt("e", endpoint(1), 1, at(1));
    let dead = death("e", endpoint(1), 2, at(2));
    let other = attempt("f", endpoint(1), 1, at(1));
    let early = [
        Record::Attempt(failed.clone()),
        Record::Death(dead.clone()),
        Record::Attempt(other),
    ];
    for _ in 0..2 {
        let written = store.record(&early, at(3)).await.unwrap();
        assert_eq!(written, Written::default());
    }
    let mut new = event("e", "a.b");
    new.published_at = Some(at(0));
    new.routed_to = vec![endpoint(1), endpoint(2)];
    let written = store.record(&events([new]), at(4)).await.unwrap();
    assert_eq!((written.events, written.attempts), (1, 1));
    assert_eq!(store.attempts_of(1, None, None, 9).await.unwrap(), [failed]);
    let deliveries = store.deliveries_of(1).await.unwrap();
    assert_eq!(deliveries[0].standing, dead.standing);
    assert_eq!(deliveries[1].standing, waiting(at(0)));

    let written = store.record(&events([event("f", "a.b")]), at(5)).await.unwrap();
    assert_eq!((written.events, written.attempts), (1, 1));
}

async fn a_generation_begins_only_where_the_event_is_kept(place: Place) {
    let store = place.open().await;
    let mut said = event("g", "a.b");
    (said.published_at, said.routed_to) = (Some(at(20)), vec![endpoint(1)]);
    let mut records = events([event("e", "a.b"), event("f", "a.b"), said]);
    records.push(Record::Death(death("e", endpoint(1), 6, at(1))));
    records.push(Record::Death(death("f", endpoint(1), 6, at(9))));
    store.record(&records, at(2)).await.unwrap();
    let begin = async |deliveries: &[(i64, EndpointId)], now| {
        store
            .begin_generation(deliveries, Only::All, at(now))
            .await
            .unwrap()
    };
    let generations = async |sequence| {
        let deliveries = store.deliveries_of(sequence).await.unwrap();
        let pending = deliveries.iter().map(|delivery| {
            let standing = &delivery.standing;
            assert_eq!(*standing, Standing::pending(standing.run));
            assert_eq!(delivery.held.map(|held| held.reason), Some(HoldReason::Replay));
            standing.run
        });
        pending.collect::<Vec<_>>()
    };

    let one = endpoint(1);
    let all = [
        (1, one.clone()),
        (1, endpoint(2)),
        (1, one.clone()),
        (77, one.clone()),
    ];
    assert_eq!(begin(&all, 5).await, all[..2]);
    assert_eq!(generations(1).await, [at(5), at(5)]);
    assert_eq!(generations(77).await, []);
    assert!(begin(&all[3..], 5).await.is_empty());
    assert!(begin(&[], 5).await.is_empty());

    // A clock that was set back, or another's that is ahead, changes nothing.
    let millis = |time: Timestamp, more| Timestamp::from_millis(time.as_millis() + more).unwrap();
    let two = [(1, one.clone()), (2, one.clone())];
    assert_eq!(begin(&two, 4).await, two);
    assert_eq!(generations(2).await, [at(4)]);
    assert_eq!(generations(1).await, [millis(at(5), 1), at(5)]);
    begin(&[(3, one.clone())], 6).await;
    assert_eq!(generations(3).await, [millis(at(20), 1)]);
}

async fn stats_are_of_one_endpoint_and_time(place: Place) {
    let store = place.open().await;
    let mut records = events([event("e", "a.b")]);
    for n in 0..100 {
        let mut one = attempt("e", endpoint(1), 1, at(100 + n));
        one.duration_ms = (n * 37) % 100 + 1;
        records.push(Record::Attempt(if n % 4 == 0 { one } else { delivered(one) }));
    }
    records.push(Record::Attempt(attempt("e", endpoint(1), 1, at(99))));
    records.push(Record::Attempt(attempt("e", endpoint(2), 1, at(200))));
    store.record(&records, at(2)).await.unwrap();
    let expected = AttemptStats {
        delivered: 75,
        failed: 25,
        p50_ms: Some(50),
        p99_ms: Some(99),
    };
    assert_eq!(
        store.attempt_stats(&endpoint(1), at(100)).await.unwrap(),
        expected
    );
    let nothing = store.attempt_stats(&endpoint(3), at(0)).await.unwrap();
    assert_eq!(nothing, AttemptStats::default());
}

async fn nul_and_times_without_end_are_no_obstacle(place: Place) {
    let store = place.open().await;
    let mut odd = attempt("e", endpoint(1), u32::MAX, at(1));
    odd.answer = "a\0b".to_owned();
    odd.detail = Some("\0".to_owned());
    odd.deliverer = "\0\0".to_owned();
    odd.duration_ms = u64::MAX;
    odd.first_byte_ms = Some(u64::MAX);
    let mut lost = odd.clone();
    lost.id = AttemptId::generate();
    lost.event_source = "/so\0urce".to_owned();
    for _ in 0..2 {
        let mut records = vec![Record::Attempt(odd.clone()), Record::Attempt(lost.clone())];
        store.record(&records, at(3)).await.unwrap();
        records.extend(events([event("e", "a.b")]));
        store.record(&records, at(3)).await.unwrap();
    }
    let read = &store.attempts_of(1, None, None, 9).await.unwrap()[0];
    assert_eq!(read.answer, "a\u{fffd}b");
    assert_eq!(read.detail.as_deref(), Some("\u{fffd}"));
    assert_eq!(read.deliverer, "\u{fffd}\u{fffd}");
    let standing = &store.deliveries_of(1).await.unwrap()[0].standing;
    assert_eq!(standing.attempts, u32::MAX);
    assert_eq!(standing.at.to_string(), "9999-12-31T23:59:59.999Z");
    let filter = EventFilter {
        source: Some("a\0".to_owned()),
        subject: Some("\0".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(store.logged_events(&filter, None, 9).await.unwrap().events, []);
    assert_eq!(store.logged_event(&id("e"), Some("\0")).await.unwrap(), None);
}

async fn thousands_of_records_are_one_write(place: Place) {
    const EVENTS: u64 = 1_300;
    let store = place.open().await;
    let mut records = Vec::new();
    for n in 0..EVENTS {
        let name = format!("e{n}");
        let mut new = event(&name, &format!("t{}", n % 700));
        new.routed_to = vec![endpoint(1), endpoint(2)];
        records.push(Record::Attempt(delivered(attempt(&name, endpoint(1), 2, at(2)))));
        records.push(Record::Event(new));
        records.push(Record::Attempt(attempt(&name, endpoint(1), 1, at(1))));
        records.push(Record::Attempt(attempt(&format!("x{n}"), endpoint(1), 1, at(1))));
    }
    let written = store.record(&records, at(3)).await.unwrap();
    assert_eq!((written.events, written.attempts), (EVENTS, 2 * EVENTS));
    let deliveries = store.deliveries_of(EVENTS as i64).await.unwrap();
    assert_eq!(deliveries[0].standing.state, DeliveryState::Delivered);
    assert_eq!(deliveries[1].standing.state, DeliveryState::Pending);
    let late: Vec<_> = (0..EVENTS).map(|n| event(&format!("x{n}"), "x")).collect();
    let late: Vec<_> = late.into_iter().map(Record::Event).collect();
    let written = store.record(&late, at(4)).await.unwrap();
    assert_eq!((written.events, written.attempts), (EVENTS, EVENTS));
}
