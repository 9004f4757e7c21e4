//! Every filter, page by page, against a plain search through everything.

use relay_event::{DeliveryState, EndpointId, Selection, Timestamp, TypePattern};
use relay_store::{
    DeliveryFilter, EventFilter, LoggedDelivery, LoggedEvent, Record, Store, Undelivered, WholeEvent,
};
use serde_json::json;

use crate::{
    make::{Dice, at, attempt, death, delivered, endpoint, event_of},
    place::{Place, on_both},
};

on_both!(
    events_by_any_filter,
    the_feed_by_any_filter,
    events_of_more_types_than_one_statement_asks_for,
    events_of_nearly_as_many_types,
    deliveries_by_any_filter,
    what_was_not_delivered,
    what_was_not_delivered_is_far_apart,
);

const TYPES: [&str; 6] = ["a", "a.b", "a.b.c", "a.c", "b", "b.a"];
const PATTERNS: [&[&str]; 8] = [
    &[],
    &["#"],
    &["a.*"],
    &["a.#"],
    &["*"],
    &["b", "a.b.*"],
    &["#.a", "a.b"],
    &["nothing.#"],
];
const EVENTS: usize = 240;

fn patterns(texts: &[&str]) -> Vec<TypePattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Events of all kinds over about a minute, several in the same millisecond, with deliveries to some of
/// four endpoints.
async fn fill(store: &Store, dice: &mut Dice) {
    let mut clock = 0;
    let mut number = 0;
    while number < EVENTS {
        let mut records = Vec::new();
        for _ in 0..=dice.roll(7) {
            let name = number.to_string();
            let mut attributes = json!({
                "id": name,
                "source": dice.pick(&["/s", "/t"]),
                "type": dice.pick(&TYPES),
            });
            if dice.roll(3) > 0 {
                attributes["subject"] = dice.pick(&["x", "y"]).into();
            }
            let mut new = event_of(attributes);
            let source = new.event.source().to_owned();
            for whom in (0..4).map(endpoint) {
                let mut tried = attempt(&name, whom.clone(), 1, at(clock));
                tried.event_source.clone_from(&source);
                match dice.roll(9) {
                    0 => new.routed_to.push(whom),
                    1 => records.push(Record::Attempt(tried)),
                    2 => {
                        let mut dead = death(&name, whom, 2, at(clock));
                        dead.event_source.clone_from(&source);
                        records.push(Record::Death(dead));
                    }
                    3 | 4 => records.push(Record::Attempt(delivered(tried))),
                    _ => {}
                }
            }
            records.push(Record::Event(new));
            number += 1;
        }
        store.record(&records, at(clock)).await.unwrap();
        clock = (clock + dice.roll(4) as u64).saturating_sub(dice.roll(2) as u64);
    }
}

fn some_time(dice: &mut Dice) -> Option<Timestamp> {
    (dice.roll(2) == 0).then(|| at(dice.roll(70) as u64))
}

fn within(time: Timestamp, since: Option<Timestamp>, until: Option<Timestamp>) -> bool {
    since.is_none_or(|since| time >= since) && until.is_none_or(|until| time < until)
}

async fn everything(store: &Store) -> Vec<LoggedEvent> {
    let all = store
        .logged_events(&EventFilter::default(), None, 10_000)
        .await
        .unwrap()
        .events;
    assert!(all.is_sorted_by(|a, b| a.sequence > b.sequence));
    all
}

async fn all_pages(store: &Store, filter: &EventFilter, limit: u32) -> Vec<LoggedEvent> {
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let page = store.logged_events(filter, before, limit).await.unwrap();
        assert!(page.events.len() <= limit as usize);
        all.extend(page.events);
        if page.before.is_none() {
            return all;
        }
        assert!(before.is_none() || page.before < before, "it goes on");
        before = page.before;
    }
}

/// Forwards, from the beginning.
async fn whole_feed(store: &Store, filter: &EventFilter, limit: u32, bytes: u64) -> Vec<WholeEvent> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page = store.feed(filter, after, limit, bytes).await.unwrap();
        let size: usize = page.events.iter().map(|whole| whole.body.len()).sum();
        assert!(page.events.len() <= limit as usize);
        assert!(page.events.len() == 1 || size as u64 <= bytes, "{size} bytes");
        all.extend(page.events);
        assert!(page.through >= after && page.through <= page.extent.last);
        after = page.through;
        if after == page.extent.last {
            return all;
        }
    }
}

fn is_wanted(event: &LoggedEvent, filter: &EventFilter) -> bool {
    let of = |wanted: &Option<String>, have: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| have == Some(wanted))
    };
    (filter.types.is_empty()
        || filter
            .types
            .iter()
            .any(|pattern| pattern.matches(&event.event_type)))
        && of(&filter.source, Some(event.source.as_str()))
        && of(&filter.subject, event.subject.as_deref())
        && within(event.recorded_at, filter.since, filter.until)
}

async fn events_by_any_filter(place: Place) {
    let store = place.open().await;
    let mut dice = Dice::new(1);
    fill(&store, &mut dice).await;
    let all = everything(&store).await;
    assert!(all.len() >= EVENTS);
    for _ in 0..150 {
        let filter = EventFilter {
            types: patterns(dice.pick(&PATTERNS)),
            source: dice
                .pick(&[None, None, Some("/s"), Some("/none")])
                .map(str::to_owned),
            subject: dice
                .pick(&[None, None, Some("x"), Some("none")])
                .map(str::to_owned),
            since: some_time(&mut dice),
            until: some_time(&mut dice),
        };
        let expected: Vec<_> = all
            .iter()
            .filter(|event| is_wanted(event, &filter))
            .cloned()
            .collect();
        let limit = dice.pick(&[1, 7, 50]);
        assert_eq!(all_pages(&store, &filter, limit).await, expected, "{filter:?}");
    }
}

async fn the_feed_by_any_filter(place: Place) {
    let store = place.open().await;
    let mut dice = Dice::new(3);
    fill(&store, &mut dice).await;
    let all = everything(&store).await;
    for _ in 0..100 {
        let filter = EventFilter {
            types: patterns(dice.pick(&PATTERNS)),
            source: dice
                .pick(&[None, None, Some("/s"), Some("/none")])
                .map(str::to_owned),
            subject: dice
                .pick(&[None, None, Some("x"), Some("none")])
                .map(str::to_owned),
            ..EventFilter::default()
        };
        let expected: Vec<_> = all
            .iter()
            .rev()
            .filter(|event| is_wanted(event, &filter))
            .collect();
        assert!(expected.iter().all(|event| filter.matches(event)));
        assert_eq!(
            all.iter().filter(|event| filter.matches(event)).count(),
            expected.len()
        );
        let (limit, bytes) = (dice.pick(&[1, 7, 50]), dice.pick(&[1, 300, 1_000_000]));
        let feed = whole_feed(&store, &filter, limit, bytes).await;
        let events: Vec<_> = feed.iter().map(|whole| &whole.event).collect();
        assert_eq!(events, expected, "{filter:?}");
        for whole in feed {
            let body: serde_json::Value = serde_json::from_slice(&whole.body).unwrap();
            assert_eq!(body["id"], whole.event.id.as_str());
            assert_eq!(whole.body.len() as u64, whole.event.size);
        }
    }
}

async fn events_of_more_types_than_one_statement_asks_for(place: Place) {
    let store = place.open().await;
    let mut dice = Dice::new(2);
    let kind = |dice: &mut Dice| format!("{}.{}", dice.pick(&["a", "b"]), dice.roll(90));
    let records: Vec<_> = (0..600)
        .map(|n| event_of(json!({"id": n.to_string(), "source": "/s", "type": kind(&mut dice)})))
        .map(Record::Event)
        .collect();
    store.record(&records, at(0)).await.unwrap();
    let all = everything(&store).await;
    for types in [&["a.*"][..], &["*.1", "b.*"], &["a.*", "b.*"]] {
        for source in [None, Some("/s".to_owned())] {
            let types = patterns(types);
            let filter = EventFilter {
                types,
                source,
                ..EventFilter::default()
            };
            let expected: Vec<_> = all
                .iter()
                .filter(|event| is_wanted(event, &filter))
                .cloned()
                .collect();
            assert!(expected.len() > 200);
            assert_eq!(all_pages(&store, &filter, 37).await, expected, "{filter:?}");
            let feed = whole_feed(&store, &filter, 37, u64::MAX).await;
            let mut events: Vec<_> = feed.into_iter().map(|whole| whole.event).collect();
            events.reverse();
            assert_eq!(events, expected, "{filter:?}");
        }
    }
}

/// More events than are looked at for one page.
const MANY: usize = 9_000;

/// Records events: nearly all have a type of their own, some one of several hundred types, and few a common one.
async fn fill_with_types(store: &Store) {
    let mut dice = Dice::new(7);
    let mut records = Vec::new();
    for n in 0..MANY {
        let kind = match n {
            5 | 4_000 | 8_990 => "order.created".to_owned(),
            6 | 8_000 => "order.paid".to_owned(),
            _ if n % 9 == 0 => format!("kind.{}", dice.roll(450)),
            _ => format!("spam.t{n}"),
        };
        let source = if n % 300 == 5 {
            "/rare"
        } else {
            dice.pick(&["/s", "/t"])
        };
        let mut attributes = json!({"id": n.to_string(), "source": source, "type": kind});
        if dice.roll(20) > 0 {
            attributes["subject"] = dice.pick(&["x", "x", "x", "x", "x", "x", "y"]).into();
        }
        records.push(Record::Event(event_of(attributes)));
    }
    for (second, batch) in (0..).zip(records.chunks(1_000)) {
        store.record(batch, at(second)).await.unwrap();
    }
}

/// Returns a filter for the events that an endpoint wants; without types it wants none.
fn filter_of(wanted: &Undelivered) -> EventFilter {
    let Selection {
        types,
        source,
        subject,
    } = wanted.selection.clone();
    EventFilter {
        types: if types.is_empty() {
            patterns(&["none"])
        } else {
            types
        },
        source,
        subject,
        since: Some(wanted.since),
        until: wanted.until,
    }
}

async fn events_of_nearly_as_many_types(place: Place) {
    let store = place.open().await;
    fill_with_types(&store).await;
    let all = everything(&store).await;
    let by_types = |types: &[&str]| EventFilter {
        types: patterns(types),
        ..EventFilter::default()
    };
    let of = |filter: EventFilter, source: Option<&str>, subject: Option<&str>| EventFilter {
        source: source.map(str::to_owned),
        subject: subject.map(str::to_owned),
        ..filter
    };
    for filter in [
        by_types(&["order.created"]),
        by_types(&["order.*", "none.#"]),
        by_types(&["*.created"]),
        by_types(&["kind.*"]),
        by_types(&["kind.#", "spam.t11", "order"]),
        by_types(&["#.t1237", "none"]),
        by_types(&["spam.*"]),
        of(by_types(&[]), Some("/s"), None),
        of(by_types(&[]), Some("/rare"), None),
        of(by_types(&[]), Some("/none"), None),
        of(by_types(&["*.created"]), Some("/rare"), None),
        of(by_types(&["*.created"]), Some("/t"), None),
        of(by_types(&["order.*"]), Some("/t"), None),
        of(by_types(&["kind.*"]), None, Some("y")),
        of(by_types(&["*.paid"]), None, Some("x")),
        of(by_types(&["order.#"]), None, Some("x")),
        of(by_types(&["kind.*"]), Some("/s"), Some("x")),
    ] {
        let expected: Vec<_> = all
            .iter()
            .filter(|event| is_wanted(event, &filter))
            .cloned()
            .collect();
        assert_eq!(all_pages(&store, &filter, 700).await, expected, "{filter:?}");
        let feed = whole_feed(&store, &filter, 700, u64::MAX).await;
        let mut events: Vec<_> = feed.into_iter().map(|whole| whole.event).collect();
        events.reverse();
        assert_eq!(events, expected, "{filter:?}");

        let wanted = Undelivered {
            endpoint: endpoint(1),
            selection: Selection {
                types: filter.types,
                source: filter.source,
                subject: filter.subject,
            },
            since: at(2),
            until: Some(at(7)),
            waiting_too: true,
        };
        let mut expected: Vec<_> = all
            .iter()
            .filter(|event| is_wanted(event, &filter_of(&wanted)))
            .map(|event| event.sequence)
            .collect();
        expected.reverse();
        assert_eq!(
            store.count_undelivered(&wanted).await.unwrap(),
            expected.len() as u64
        );
        let found = store.undelivered(&wanted, 3_500, 90).await.unwrap();
        let rest = expected.into_iter().filter(|sequence| *sequence > 3_500);
        assert_eq!(found, rest.take(90).collect::<Vec<_>>());
    }

    // A page ends before the log does where too much had to be looked at.
    let filter = by_types(&["*.created"]);
    let page = store.logged_events(&filter, None, 9).await.unwrap();
    assert_eq!(page.events.len(), 2);
    assert!(page.before.is_some_and(|before| before > 6), "{:?}", page.before);
    let page = store.feed(&filter, 0, 9, u64::MAX).await.unwrap();
    assert_eq!(page.events.len(), 2);
    assert!(page.through < page.extent.last, "{}", page.through);
}

async fn deliveries(store: &Store, all: &[LoggedEvent]) -> Vec<LoggedDelivery> {
    let mut deliveries = Vec::new();
    for event in all {
        let of_event = store.deliveries_of(event.sequence).await.unwrap();
        assert!(of_event.is_sorted_by(|a, b| a.endpoint < b.endpoint));
        deliveries.extend(of_event.into_iter().rev());
    }
    deliveries
}

async fn deliveries_by_any_filter(place: Place) {
    let store = place.open().await;
    let mut dice = Dice::new(3);
    fill(&store, &mut dice).await;
    let all = everything(&store).await;
    let known = deliveries(&store, &all).await;
    let recorded = |sequence: i64| {
        all.iter()
            .find(|event| event.sequence == sequence)
            .unwrap()
            .recorded_at
    };
    for _ in 0..120 {
        let filter = DeliveryFilter {
            endpoint: dice.pick(&[None, Some(endpoint(1)), Some(endpoint(9)), Some(endpoint(3))]),
            state: dice.pick(&[
                None,
                None,
                Some(DeliveryState::Pending),
                Some(DeliveryState::Dead),
                Some(DeliveryState::Delivered),
            ]),
            since: some_time(&mut dice),
            until: some_time(&mut dice),
        };
        let wanted = |delivery: &&LoggedDelivery| {
            filter
                .endpoint
                .as_ref()
                .is_none_or(|endpoint| delivery.endpoint == *endpoint)
                && filter.state.is_none_or(|state| delivery.standing.state == state)
                && within(recorded(delivery.sequence), filter.since, filter.until)
        };
        let expected: Vec<_> = known.iter().filter(wanted).cloned().collect();
        let limit = dice.pick(&[1, 2, 30]);
        let mut paged: Vec<LoggedDelivery> = Vec::new();
        loop {
            let after: Option<(i64, &EndpointId)> = paged.last().map(|last| (last.sequence, &last.endpoint));
            let page = store.logged_deliveries(&filter, after, limit).await.unwrap();
            let end = page.len() < limit as usize;
            paged.extend(page);
            if end {
                break;
            }
        }
        assert_eq!(paged, expected, "{filter:?}");
    }
}

async fn what_was_not_delivered(place: Place) {
    use DeliveryState::{Dead, Delivered};
    let store = place.open().await;
    let mut dice = Dice::new(4);
    fill(&store, &mut dice).await;
    let all = everything(&store).await;
    let known = deliveries(&store, &all).await;
    for _ in 0..80 {
        let of = Undelivered {
            endpoint: endpoint(dice.roll(6) as u8),
            selection: Selection {
                types: patterns(dice.pick(&PATTERNS)),
                source: dice
                    .pick(&[None, None, Some("/s"), Some("/none")])
                    .map(str::to_owned),
                subject: dice
                    .pick(&[None, None, Some("x"), Some("none")])
                    .map(str::to_owned),
            },
            since: at(dice.roll(50) as u64),
            until: some_time(&mut dice),
            waiting_too: dice.roll(2) == 0,
        };
        let stands = |sequence: i64| {
            let of_it = |delivery: &&LoggedDelivery| {
                delivery.sequence == sequence && delivery.endpoint == of.endpoint
            };
            known.iter().find(of_it).map(|delivery| delivery.standing.state)
        };
        let wanted = |event: &&LoggedEvent| {
            let open = match stands(event.sequence) {
                None | Some(Dead) => true,
                Some(Delivered) => false,
                Some(_) => of.waiting_too,
            };
            open && of.selection.matches(event.attributes())
                && within(event.recorded_at, Some(of.since), of.until)
        };
        let expected: Vec<i64> = all
            .iter()
            .rev()
            .filter(wanted)
            .map(|event| event.sequence)
            .collect();
        assert_eq!(
            store.count_undelivered(&of).await.unwrap(),
            expected.len() as u64,
            "{of:?}"
        );
        let limit = dice.pick(&[1, 5, 100]);
        let mut paged = Vec::new();
        loop {
            let after = paged.last().copied().unwrap_or(0);
            let page = store.undelivered(&of, after, limit).await.unwrap();
            let end = page.len() < limit as usize;
            paged.extend(page);
            if end {
                break;
            }
        }
        assert_eq!(paged, expected, "{of:?}");
    }
}

/// Farther than is looked through at once.
async fn what_was_not_delivered_is_far_apart(place: Place) {
    const ALL: usize = 45_000;
    let open = [1, 2, 19_999, 20_000, 20_001, 41_000, 45_000];
    let store = place.open().await;
    for first in (1..=ALL).step_by(5_000) {
        let mut records = Vec::new();
        for n in first..first + 5_000 {
            let new = event_of(json!({"id": n.to_string(), "source": "/source", "type": "a"}));
            records.push(Record::Event(new));
            if !open.contains(&n) {
                let done = delivered(attempt(&n.to_string(), endpoint(1), 1, at(0)));
                records.push(Record::Attempt(done));
            }
        }
        store.record(&records, at(first as u64)).await.unwrap();
    }
    let of = Undelivered {
        endpoint: endpoint(1),
        selection: Selection::of_types(patterns(&["a"])),
        since: at(0),
        until: None,
        waiting_too: false,
    };
    let expected: Vec<i64> = open.iter().map(|n| *n as i64).collect();
    for (after, limit, part) in [
        (0, 100, &expected[..]),
        (0, 3, &expected[..3]),
        (0, 5, &expected[..5]),
        (2, 1, &expected[2..3]),
        (20_001, 100, &expected[5..]),
        (45_000, 100, &[]),
    ] {
        let found = store.undelivered(&of, after, limit).await.unwrap();
        assert_eq!(found, part);
    }
    assert_eq!(store.count_undelivered(&of).await.unwrap(), 7);
}
