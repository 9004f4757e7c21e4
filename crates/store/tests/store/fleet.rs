//! The version of all endpoints together, and readers that keep in step by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use relay_event::{Endpoint, EndpointId, EndpointState, Secret, Timestamp};
use relay_store::{Changed, ChangedEndpoints, Changes, Error, FleetVersion, KnownEndpoints, Store};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::{
    make::{Dice, at},
    place::{Place, on_both},
};

on_both!(
    a_reader_is_told_what_changed_since_a_version,
    what_changes_nothing_makes_no_version,
    a_reader_of_a_version_that_the_store_never_had_reads_all,
    the_id_of_a_deleted_endpoint_is_not_taken_again,
    removals_are_forgotten_after_a_week,
    an_endpoint_is_removed_once_its_time_is_over,
    an_older_relay_s_endpoints_are_kept,
    endpoints_that_an_older_relay_was_removing_are_removed,
    a_reader_misses_no_change_of_many_writers,
    what_is_known_is_what_a_full_read_gives,
    what_is_known_follows_a_store_of_another_lineage,
    what_numbers_do_not_tell_is_found_by_reading_all,
);

const WEEK: u64 = 7 * 24 * 3600;

fn endpoint(pattern: &str) -> Endpoint {
    Endpoint::new(
        "https://example.com/hook".parse().unwrap(),
        vec![pattern.parse().unwrap()],
        Secret::generate(),
        at(0),
    )
}

async fn added(store: &Store, pattern: &str) -> EndpointId {
    let endpoint = endpoint(pattern);
    store.insert(&endpoint).await.unwrap();
    endpoint.id
}

async fn slow(store: &Store, id: &EndpointId, timeout_ms: u64) {
    let change = |endpoint: &mut Endpoint| {
        endpoint.timeout_ms = timeout_ms;
        Ok(())
    };
    store.update(id, change).await.unwrap().unwrap();
}

async fn since(store: &Store, known: &FleetVersion) -> Changes {
    store.changes_since(Some(known)).await.unwrap()
}

/// The ids of those that changed, and of those that were removed.
fn told(changes: Changes) -> (Vec<EndpointId>, Vec<EndpointId>) {
    let ChangedEndpoints::Since { changed, removed } = changes.endpoints else {
        panic!("all: {changes:?}");
    };
    let changed = changed.into_iter().map(|endpoint| endpoint.id).collect();
    (changed, removed)
}

fn all(changes: Changes) -> Vec<Endpoint> {
    match changes.endpoints {
        ChangedEndpoints::All(all) => all,
        ChangedEndpoints::Since { .. } => panic!("not all: {changes:?}"),
    }
}

async fn a_reader_is_told_what_changed_since_a_version(place: Place) {
    let store = place.open().await;
    let first = store.changes_since(None).await.unwrap();
    let empty = first.version.clone();
    assert_eq!((empty.number, empty.change.as_str()), (0, ""));
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    assert!(
        empty.lineage.len() == 16 && empty.lineage.bytes().all(is_hex),
        "{empty:?}"
    );
    assert_eq!(all(first), []);
    assert_eq!(told(since(&store, &empty).await), (vec![], vec![]));

    let (one, two) = (added(&store, "a").await, added(&store, "b").await);
    let version = store.fleet_version().await.unwrap();
    assert_eq!((&version.lineage, version.number), (&empty.lineage, 2));
    let changes = since(&store, &empty).await;
    assert_eq!(changes.version, version);
    assert_eq!(told(changes), (vec![one.clone(), two.clone()], vec![]));

    let three = added(&store, "c").await;
    slow(&store, &one, 7_000).await;
    store.delete(&two, at(0)).await.unwrap();
    let changes = since(&store, &version).await;
    assert_eq!(changes.version, store.fleet_version().await.unwrap());
    assert_eq!(changes.version.number, 5);
    let ChangedEndpoints::Since { changed, removed } = changes.endpoints else {
        panic!("it is told since when");
    };
    assert_eq!(removed, [two]);
    let three = store.endpoint(&three).await.unwrap().unwrap();
    let one = store.endpoint(&one).await.unwrap().unwrap();
    assert_eq!(changed, [three, one]);
    assert_eq!(changed[1].timeout_ms, 7_000);
}

/// A note of a deliverer about an endpoint is a change; one that is refused or is there already is none.
async fn what_changes_nothing_makes_no_version(place: Place) {
    let store = place.open().await;
    let endpoint = endpoint("a");
    store.insert(&endpoint).await.unwrap();
    let version = store.fleet_version().await.unwrap();
    store.insert(&endpoint).await.unwrap_err();
    store.update(&endpoint.id, |_| Ok(())).await.unwrap().unwrap();
    store.delete(&EndpointId::generate(), at(0)).await.unwrap();
    assert_eq!(store.fleet_version().await.unwrap(), version);

    for note in [
        |endpoint: &mut Endpoint| endpoint.failing_since = Some(at(1)),
        |endpoint: &mut Endpoint| endpoint.selected_since = at(2),
        |endpoint: &mut Endpoint| endpoint.selection.types = vec!["b".parse().unwrap()],
    ] {
        let change = |endpoint: &mut Endpoint| {
            note(endpoint);
            Ok(())
        };
        store.update(&endpoint.id, change).await.unwrap().unwrap();
    }
    assert_eq!(store.fleet_version().await.unwrap().number, version.number + 3);
    store.delete(&endpoint.id, at(0)).await.unwrap();
    store.delete(&endpoint.id, at(0)).await.unwrap();
    assert_eq!(store.fleet_version().await.unwrap().number, version.number + 4);
    assert_eq!(told(since(&store, &version).await), (vec![], vec![endpoint.id]));
}

async fn a_reader_of_a_version_that_the_store_never_had_reads_all(place: Place) {
    let store = place.open().await;
    added(&store, "a").await;
    added(&store, "b").await;
    let version = store.fleet_version().await.unwrap();
    let other_lineage = FleetVersion {
        lineage: "0123456789abcdef".to_owned(),
        number: 1,
        ..version.clone()
    };
    let later = FleetVersion {
        number: 3,
        ..version.clone()
    };
    let other_change = FleetVersion {
        change: "0".repeat(32),
        ..version.clone()
    };
    for known in [other_lineage, later, other_change] {
        let changes = since(&store, &known).await;
        assert_eq!(changes.version, version);
        assert_eq!(all(changes), store.endpoints().await.unwrap(), "{known:?}");
    }
}

async fn the_id_of_a_deleted_endpoint_is_not_taken_again(place: Place) {
    let store = place.open().await;
    let endpoint = endpoint("a");
    store.insert(&endpoint).await.unwrap();
    store.delete(&endpoint.id, at(0)).await.unwrap();
    let refused = store.insert(&endpoint).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Exists { id } if *id == endpoint.id),
        "{refused}"
    );
    assert_eq!(store.endpoints().await.unwrap(), []);
}

async fn removals_are_forgotten_after_a_week(place: Place) {
    let store = place.open().await;
    let (one, two, three) = (endpoint("a"), endpoint("b"), endpoint("c"));
    for endpoint in [&one, &two, &three] {
        store.insert(endpoint).await.unwrap();
    }
    let before = store.fleet_version().await.unwrap();
    store.delete(&one.id, at(0)).await.unwrap();
    let between = store.fleet_version().await.unwrap();
    store.delete(&two.id, at(WEEK)).await.unwrap();
    assert_eq!(
        told(since(&store, &before).await).1,
        [one.id.clone(), two.id.clone()]
    );

    store.delete(&three.id, at(WEEK + 1)).await.unwrap();
    assert_eq!(all(since(&store, &before).await), []);
    assert_eq!(told(since(&store, &between).await).1, [two.id, three.id]);
    store.insert(&one).await.unwrap();
    assert_eq!(told(since(&store, &between).await).0, [one.id]);
}

/// Only the process that is on duty removes it, and only as it read it.
async fn an_endpoint_is_removed_once_its_time_is_over(place: Place) {
    let store = place.open().await;
    let hour = Duration::from_secs(3_600);
    let epoch = store.take_duty("test", hour).await.unwrap().unwrap();
    let until = |expires_at| Endpoint {
        expires_at,
        ..endpoint("a")
    };
    let (over, stays) = (until(Some(at(1))), until(None));
    let later = until(Some(Timestamp::now() + hour));
    for endpoint in [&over, &stays, &later] {
        store.insert(endpoint).await.unwrap();
    }
    let before = store.fleet_version().await.unwrap();
    for endpoint in [&stays, &later] {
        assert!(!store.expire(epoch, &endpoint.id).await.unwrap());
    }
    assert!(!store.expire(epoch, &EndpointId::generate()).await.unwrap());
    assert!(
        !store.expire(epoch - 1, &over.id).await.unwrap(),
        "an earlier epoch"
    );
    assert_eq!(store.fleet_version().await.unwrap(), before);
    assert!(store.expire(epoch, &over.id).await.unwrap());
    assert!(!store.expire(epoch, &over.id).await.unwrap(), "again");
    assert_eq!(
        told(since(&store, &before).await),
        (vec![], vec![over.id.clone()])
    );
    assert_eq!(store.endpoint(&over.id).await.unwrap(), None);
    assert_eq!(
        store.endpoint(&later.id).await.unwrap(),
        Some(later.clone()),
        "as it was added"
    );
}

/// The row of an endpoint, as relays wrote it that knew nothing of held deliveries.
fn older_row(endpoint: &Endpoint, state: &Value) -> (String, String) {
    let mut document = serde_json::to_value(endpoint).unwrap();
    let fields = document.as_object_mut().unwrap();
    let since = fields.remove("types_since").unwrap();
    fields.insert("bound_since".to_owned(), since);
    fields.extend(state.as_object().unwrap().clone());
    (endpoint.id.to_string(), document.to_string())
}

async fn an_older_relay_s_endpoints_are_kept(place: Place) {
    place.migrate_to(6).await;
    let endpoints = [endpoint("a"), endpoint("b")];
    for endpoint in &endpoints {
        let (id, document) = older_row(endpoint, &json!({}));
        let insert = format!("INSERT INTO endpoints VALUES ('{id}', '{document}', '[]', 1)");
        place.execute(AssertSqlSafe(insert)).await;
    }
    let store = place.open().await;
    let changes = store.changes_since(None).await.unwrap();
    assert_eq!((changes.version.number, changes.version.change.as_str()), (0, ""));
    assert_eq!(by_id(all(changes)), by_id(endpoints.to_vec()));
}

/// Older relays kept an endpoint in a state of its own until its queue was gone.
async fn endpoints_that_an_older_relay_was_removing_are_removed(place: Place) {
    place.migrate_to(7).await;
    let (active, paused) = (endpoint("a"), endpoint("b"));
    let misleading = Endpoint {
        headers: serde_json::from_value(json!({"state": "removed"})).unwrap(),
        ..endpoint("c")
    };
    let removing = [endpoint("d"), endpoint("e")];
    let removed = json!({"state": "removed", "at": at(1)});
    let rows = [
        older_row(&active, &json!({})),
        older_row(&paused, &json!({"state": "paused"})),
        older_row(&misleading, &json!({})),
        older_row(&removing[0], &removed),
        older_row(&removing[1], &removed),
    ];
    for (number, (id, document)) in (1..).zip(rows) {
        let insert = format!(
            "INSERT INTO endpoints (id, document, bound, version, changed_in)
                VALUES ('{id}', '{document}', '[]', 1, {number});
            UPDATE fleet SET number = {number}, change = 'the change before'"
        );
        place.execute(AssertSqlSafe(insert)).await;
    }

    let store = place.open().await;
    let version = store.fleet_version().await.unwrap();
    assert_eq!((version.number, version.change.len()), (6, 32));
    let before = FleetVersion {
        number: 5,
        change: "the change before".to_owned(),
        ..version.clone()
    };
    let ids = |endpoints: &[Endpoint]| -> BTreeSet<EndpointId> {
        endpoints.iter().map(|endpoint| endpoint.id.clone()).collect()
    };
    let (changed, told_removed) = told(since(&store, &before).await);
    assert_eq!(
        (changed, told_removed.into_iter().collect()),
        (vec![], ids(&removing))
    );
    let paused = Endpoint {
        state: EndpointState::Paused,
        ..paused
    };
    let kept = vec![active.clone(), paused.clone(), misleading.clone()];
    assert_eq!(by_id(store.endpoints().await.unwrap()), by_id(kept));
    for endpoint in &removing {
        assert_eq!(store.endpoint(&endpoint.id).await.unwrap(), None);
        let refused = store.insert(endpoint).await.unwrap_err();
        assert!(matches!(refused, Error::Exists { .. }), "{refused}");
    }

    // Like any other removal these are forgotten after a week, and not before.
    let now = Timestamp::now();
    store.delete(&active.id, now).await.unwrap();
    assert_eq!(told(since(&store, &version).await).1, [active.id]);
    told(since(&store, &before).await);
    let later = now + Duration::from_secs(WEEK + 60);
    store.delete(&misleading.id, later).await.unwrap();
    assert_eq!(all(since(&store, &before).await), [paused]);
}

type Endpoints = BTreeMap<EndpointId, Endpoint>;

fn by_id(all: Vec<Endpoint>) -> Endpoints {
    all.into_iter()
        .map(|endpoint| (endpoint.id.clone(), endpoint))
        .collect()
}

/// Adds, changes and deletes endpoints of its own and of the others.
async fn write(store: Store, mut dice: Dice, shared: EndpointId) {
    let mut own = Vec::new();
    for round in 0..40 {
        match dice.roll(4) {
            0 => slow(&store, &shared, 1_000 + round).await,
            1 if !own.is_empty() => {
                let id = own.swap_remove(dice.roll(own.len()));
                store.delete(&id, Timestamp::now()).await.unwrap();
            }
            2 if !own.is_empty() => slow(&store, &own[dice.roll(own.len())], 2_000 + round).await,
            _ => own.push(added(&store, "a").await),
        }
    }
}

/// Each of 12 writers on 3 stores, whose pools are as in processes of their own. The changes are read on a
/// connection of the reader's own.
async fn a_reader_misses_no_change_of_many_writers(place: Place) {
    let reader = place.open().await;
    let shared = added(&reader, "shared").await;
    let mut writers = Vec::new();
    for number in 0..3 {
        let store = place.open().await;
        for task in 0..4 {
            let dice = Dice::new(10 * number + task);
            writers.push(tokio::spawn(write(store.clone(), dice, shared.clone())));
        }
    }
    let mut own = reader.change_reader();
    let first = own.changes_since(None).await.unwrap();
    let (mut version, mut known) = (first.version.clone(), by_id(all(first)));
    loop {
        let ended = writers.iter().all(|writer| writer.is_finished());
        let changes = own.changes_since(Some(&version)).await.unwrap();
        assert!(changes.version.number >= version.number);
        version = changes.version;
        match changes.endpoints {
            ChangedEndpoints::All(_) => panic!("it is told since when"),
            ChangedEndpoints::Since { changed, removed } => {
                known.extend(by_id(changed));
                known.retain(|id, _| !removed.contains(id));
            }
        }
        let full = reader.changes_since(None).await.unwrap();
        if full.version == version {
            assert_eq!(known, by_id(all(full)), "at {version:?}");
            if ended {
                break;
            }
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(known, by_id(reader.endpoints().await.unwrap()));
}

/// The timeouts of endpoints, but of none that waits for a minute or longer.
fn timeout(endpoint: Endpoint) -> u64 {
    endpoint.timeout_ms
}

fn kept(known: &KnownEndpoints<u64>) -> Vec<(EndpointId, u64)> {
    known.iter().map(|(id, timeout)| (id.clone(), *timeout)).collect()
}

async fn what_is_known_is_what_a_full_read_gives(place: Place) {
    let store = place.open().await;
    let mut known = KnownEndpoints::new(timeout);
    let mut ids = Vec::new();
    let mut dice = Dice::new(1);
    for round in 0..60 {
        let before = kept(&known);
        for _ in 0..dice.roll(4) {
            match dice.roll(3) {
                0 if !ids.is_empty() => {
                    let id = ids.swap_remove(dice.roll(ids.len()));
                    store.delete(&id, Timestamp::now()).await.unwrap();
                }
                1 if !ids.is_empty() => {
                    let timeout = dice.pick(&[1_000, 2_000 + round, 60_000, 70_000]);
                    slow(&store, &ids[dice.roll(ids.len())], timeout).await;
                }
                _ => ids.push(added(&store, "a").await),
            }
        }
        let changed = known.refresh(&store).await.unwrap();
        let mut anew = KnownEndpoints::new(timeout);
        anew.refresh(&store).await.unwrap();
        assert_eq!(kept(&known), kept(&anew), "round {round}");
        assert_eq!(
            differences(&before, &kept(&known)),
            sorted(changed),
            "round {round}"
        );
        assert_eq!(known.refresh(&store).await.unwrap(), []);
    }
}

async fn what_is_known_follows_a_store_of_another_lineage(place: Place) {
    let store = place.open().await;
    let (one, two) = (added(&store, "a").await, added(&store, "b").await);
    let mut known = KnownEndpoints::new(timeout);
    known.refresh(&store).await.unwrap();
    // As a backup would have it that lacks one and has the other as it was.
    place
        .execute("UPDATE fleet SET lineage = 'ffffffffffffffff', number = 1")
        .await;
    store.delete(&one, at(0)).await.unwrap();
    slow(&store, &two, 7_000).await;
    let changed = known.refresh(&store).await.unwrap();
    let expected = [(one, 30_000), (two.clone(), 30_000)].map(|(id, before)| Changed {
        id,
        before: Some(before),
    });
    assert_eq!(sorted(changed), expected);
    assert_eq!(kept(&known), [(two, 7_000)]);
}

/// As after a restore: the number is right, and what was read before is not what is there.
async fn what_numbers_do_not_tell_is_found_by_reading_all(place: Place) {
    let store = place.open().await;
    let (one, two) = (added(&store, "a").await, added(&store, "b").await);
    let mut known = KnownEndpoints::new(timeout);
    known.refresh(&store).await.unwrap();
    place
        .execute(
            r#"DELETE FROM endpoints WHERE document LIKE '%"types":["b"]%';
            UPDATE endpoints SET document = REPLACE(document, '30000', '5000')"#,
        )
        .await;
    assert_eq!(known.refresh(&store).await.unwrap(), []);
    let changed = known.refresh_all(&store).await.unwrap();
    let expected = [one.clone(), two].map(|id| Changed {
        id,
        before: Some(30_000),
    });
    assert_eq!(sorted(changed), expected);
    assert_eq!(kept(&known), [(one, 5_000)]);
}

fn sorted(mut changed: Vec<Changed<u64>>) -> Vec<Changed<u64>> {
    changed.sort_by(|a, b| a.id.cmp(&b.id));
    changed
}

fn differences(before: &[(EndpointId, u64)], now: &[(EndpointId, u64)]) -> Vec<Changed<u64>> {
    let (before, now): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (before.iter().cloned().collect(), now.iter().cloned().collect());
    let mut ids: Vec<_> = before.keys().chain(now.keys()).collect();
    ids.sort();
    ids.dedup();
    ids.into_iter()
        .filter(|id| before.get(*id) != now.get(*id))
        .map(|id| Changed {
            id: id.clone(),
            before: before.get(id).copied(),
        })
        .collect()
}
