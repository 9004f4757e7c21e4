//! The order of the log, and that the order in which records come makes no difference.

use std::{future::poll_fn, pin::pin, task::Poll};

use relay_event::{Attempt, DeliveryState, Standing, Timestamp};
use relay_store::{EventFilter, LoggedDelivery, Record, Store};

use crate::{
    make::{Dice, at, attempt, death, endpoint, event, id},
    place::{Place, on_both},
};

on_both!(
    records_come_to_the_same_in_any_order,
    writers_at_once_leave_no_gap_that_fills_later,
    a_write_that_is_cut_off_leaves_all_or_nothing,
    a_clock_that_is_set_back_is_waited_for,
);

async fn records_come_to_the_same_in_any_order(place: Place) {
    let store = place.open().await;
    for seed in 0..12 {
        let names = [0, 1, 2].map(|number| format!("{seed}-{number}"));
        let records = some_records(&names, &mut Dice::new(seed));
        let mut results = Vec::new();
        for order in 0..4 {
            let prefix = format!("{order}-");
            let mut dice = Dice::new(1000 * seed + order);
            let mut records: Vec<Record> = records.iter().map(|record| renamed(record, &prefix)).collect();
            dice.shuffle(&mut records);
            write_in_parts(&store, &records, &mut dice).await;
            results.push(result(&store, &prefix, &names).await);
        }
        assert_eq!(results[0].len(), names.len());
        for other in &results[1..] {
            assert_eq!(*other, results[0], "seed {seed}");
        }
        let known = by_supersedes(&records);
        let stands = results[0].iter().flat_map(|(deliveries, _)| deliveries);
        let stands: Vec<_> = stands
            .map(|(_, standing)| (standing.run, standing.attempts, standing.state))
            .collect();
        assert_eq!(stands, known, "seed {seed}");
    }
}

/// Events, attempts in several runs, and deaths, many of them about the same attempt.
fn some_records(names: &[String], dice: &mut Dice) -> Vec<Record> {
    let mut records = Vec::new();
    for name in names {
        let mut new = event(name, "a.b");
        new.published_at = Some(at(0));
        new.routed_to = (0..3).map(endpoint).collect();
        records.push(Record::Event(new));
        for _ in 0..15 {
            let whom = endpoint(dice.roll(3) as u8);
            let began = at(dice.roll(4) as u64);
            let number = dice.roll(3) as u32 + 1;
            if dice.roll(4) == 0 {
                records.push(Record::Death(death(name, whom, number, began)));
                continue;
            }
            let mut one = attempt(name, whom, number, began);
            one.published_at = Some(at(dice.roll(2) as u64));
            one.state = dice.pick(&DeliveryState::ALL[1..]);
            one.status = dice.pick(&[None, Some(500), Some(502)]);
            records.push(Record::Attempt(one));
        }
    }
    records
}

fn renamed(record: &Record, prefix: &str) -> Record {
    let mut record = record.clone();
    match &mut record {
        Record::Event(new) => {
            let event = crate::make::event(&format!("{prefix}{}", new.event.id()), "a.b");
            new.event = event.event;
        }
        Record::Attempt(attempt) => attempt.event_id = id(&format!("{prefix}{}", attempt.event_id)),
        Record::Death(death) => death.event_id = id(&format!("{prefix}{}", death.event_id)),
    }
    record
}

/// Some of them twice.
async fn write_in_parts(store: &Store, records: &[Record], dice: &mut Dice) {
    let mut rest = records;
    while !rest.is_empty() {
        let (part, after) = rest.split_at(dice.roll(rest.len()) + 1);
        store.record(part, at(9)).await.unwrap();
        if dice.roll(2) == 0 {
            let again = dice.roll(records.len());
            store.record(&records[again..], at(9)).await.unwrap();
        }
        rest = after;
    }
}

type Result = (Vec<(relay_event::EndpointId, Standing)>, Vec<Attempt>);

async fn result(store: &Store, prefix: &str, names: &[String]) -> Vec<Result> {
    let mut results = Vec::new();
    for name in names {
        let event = id(&format!("{prefix}{name}"));
        let logged = store.logged_event(&event, None).await.unwrap().unwrap();
        let deliveries = store.deliveries_of(logged.sequence).await.unwrap();
        let stands = |delivery: LoggedDelivery| (delivery.endpoint, delivery.standing);
        let mut attempts = store.attempts_of(logged.sequence, None, None, 99).await.unwrap();
        for attempt in &mut attempts {
            assert_eq!(attempt.event_id, event);
            attempt.event_id = id(name);
        }
        results.push((deliveries.into_iter().map(stands).collect(), attempts));
    }
    results
}

/// What the domain says counts, of each delivery in order.
fn by_supersedes(records: &[Record]) -> Vec<(Timestamp, u32, DeliveryState)> {
    let mut known = std::collections::BTreeMap::new();
    for record in records {
        let told = match record {
            Record::Event(new) => {
                let pending = |endpoint: &relay_event::EndpointId| {
                    (
                        new.event.id().clone(),
                        endpoint.clone(),
                        Standing::pending(Timestamp::default()),
                    )
                };
                new.routed_to.iter().map(pending).collect()
            }
            Record::Attempt(a) => vec![(a.event_id.clone(), a.endpoint.clone(), a.standing())],
            Record::Death(d) => vec![(d.event_id.clone(), d.endpoint.clone(), d.standing.clone())],
        };
        for (event, endpoint, standing) in told {
            let best = known.entry((event, endpoint)).or_insert_with(|| standing.clone());
            if standing.supersedes(best) {
                *best = standing;
            }
        }
    }
    known
        .into_values()
        .map(|best| (best.run, best.attempts, best.state))
        .collect()
}

/// Whoever reads always sees a beginning of the log, without a gap.
async fn writers_at_once_leave_no_gap_that_fills_later(place: Place) {
    const BATCHES: usize = 30;
    let mut writers = Vec::new();
    for writer in 0..3 {
        let store = place.open().await;
        writers.push(tokio::spawn(async move {
            let mut dice = Dice::new(writer);
            for batch in 0..BATCHES {
                let name = |n: usize| format!("{writer}-{batch}-{n}");
                let mut new: Vec<_> = (0..dice.roll(6) + 1)
                    .map(|n| Record::Event(event(&name(n), "a.b")))
                    .collect();
                // One that each writer brings: only the first of them takes a place.
                new.push(Record::Event(event(&format!("shared-{batch}"), "a.b")));
                store.record(&new, Timestamp::now()).await.unwrap();
            }
        }));
    }
    let reader = place.open().await;
    loop {
        let ended = writers.iter().all(|writer| writer.is_finished());
        let seen = reader
            .logged_events(&EventFilter::default(), None, 10_000)
            .await
            .unwrap()
            .events;
        let expected: Vec<i64> = (1..=seen.len() as i64).rev().collect();
        let sequences: Vec<i64> = seen.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences, expected);
        assert!(seen.is_sorted_by(|a, b| a.recorded_at >= b.recorded_at));
        if ended {
            break;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn a_write_that_is_cut_off_leaves_all_or_nothing(place: Place) {
    let (writer, reader) = (place.open().await, place.open().await);
    let mut cut_off = 0;
    let mut finished = 0;
    for polls in 0.. {
        let name = |n: usize| format!("{polls}-{n}");
        let mut records = Vec::new();
        for n in 0..20 {
            records.push(Record::Event(event(&name(n), "a.b")));
            records.push(Record::Attempt(attempt(&name(n), endpoint(1), 1, at(1))));
        }
        match cut(writer.record(&records, at(1)), polls).await {
            None => cut_off += 1,
            Some(done) => {
                assert_eq!(done.unwrap().events, 20);
                finished += 1;
            }
        }
        let mut there = 0;
        for n in 0..20 {
            if let Some(event) = reader.logged_event(&id(&name(n)), None).await.unwrap() {
                assert_eq!(reader.deliveries_of(event.sequence).await.unwrap().len(), 1);
                assert_eq!(
                    reader
                        .attempts_of(event.sequence, None, None, 9)
                        .await
                        .unwrap()
                        .len(),
                    1
                );
                there += 1;
            }
        }
        assert!(there == 0 || there == 20, "{there} of 20 after {polls} polls");
        writer.record(&records, at(1)).await.unwrap();
        if finished == 3 {
            break;
        }
    }
    assert!(cut_off > 5, "it was cut off {cut_off} times");
}

/// Polls a future so many times, and then drops it.
async fn cut<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

async fn a_clock_that_is_set_back_is_waited_for(place: Place) {
    let store = place.open().await;
    let times = [100, 50, 99, 101, 7].map(at);
    for (number, now) in times.into_iter().enumerate() {
        let new = Record::Event(event(&number.to_string(), "a.b"));
        store.record(&[new], now).await.unwrap();
    }
    let logged = store
        .logged_events(&EventFilter::default(), None, 9)
        .await
        .unwrap()
        .events;
    let recorded: Vec<_> = logged.iter().map(|event| event.recorded_at).collect();
    assert_eq!(recorded, [101, 101, 100, 100, 100].map(at));
    let filter = EventFilter {
        since: Some(at(60)),
        until: Some(at(101)),
        ..EventFilter::default()
    };
    let between = store.logged_events(&filter, None, 9).await.unwrap().events;
    let sequences: Vec<_> = between.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, [3, 2, 1]);
}
