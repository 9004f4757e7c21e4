//! What the store does with the PostgreSQL server it is given, and without it.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use relay_event::{Endpoint, Secret, Timestamp};
use relay_store::{ChangedEndpoints, Error, EventFilter, Record, Store, StoreUrl};
use relay_testkit::{Proxy, database, private_postgres, wait_until};
use sqlx::{Connection, PgConnection};
use tokio::time;
use url::Url;

use crate::{
    make::{at, event, id},
    place::chain,
};

async fn open(url: &str) -> Result<Store, Error> {
    Store::open(&url.parse::<StoreUrl>().unwrap()).await
}

/// Another program at the same database.
async fn execute(url: &str, sql: &'static str) {
    let mut other = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut other).await.unwrap();
    other.close().await.unwrap();
}

fn endpoint() -> Endpoint {
    Endpoint::new(
        "https://example.com/hook".parse().unwrap(),
        vec!["#".parse().unwrap()],
        Secret::generate(),
        Timestamp::now(),
    )
}

fn some_events(prefix: &str, count: usize) -> Vec<Record> {
    let new = |n| Record::Event(event(&format!("{prefix}-{n}"), "a.b"));
    (0..count).map(new).collect()
}

async fn recorded(store: &Store) -> usize {
    let all = EventFilter::default();
    store
        .logged_events(&all, None, 100_000)
        .await
        .unwrap()
        .events
        .len()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_open_a_new_database_at_once() {
    let url = database().await;
    let opening: Vec<_> = (0..8)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { open(&url).await.unwrap().insert(&endpoint()).await })
        })
        .collect();
    for opened in opening {
        opened.await.unwrap().unwrap();
    }
    assert_eq!(open(&url).await.unwrap().endpoints().await.unwrap().len(), 8);
}

#[tokio::test]
async fn another_program_s_tables_are_left_alone() {
    let url = database().await;
    execute(&url, "CREATE TABLE endpoints (name TEXT)").await;
    let error = open(&url).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("tables of another program"), "{error}");
    execute(&url, "SELECT name FROM endpoints; DROP TABLE endpoints").await;
    open(&url).await.unwrap();
}

#[tokio::test]
async fn a_newer_relay_s_store_is_left_alone() {
    let url = database().await;
    open(&url).await.unwrap();
    execute(
        &url,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'more', TRUE, '', 0)",
    )
    .await;
    let error = open(&url).await.unwrap_err();
    assert!(matches!(error, Error::Schema { .. }), "{error}");
}

/// Each says what to do, and none the password.
#[tokio::test]
async fn what_an_operator_must_mend_is_said() {
    let url: Url = database().await.parse().unwrap();
    execute(
        url.as_str(),
        "DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'hunter2'",
    )
    .await;
    let with = |change: &dyn Fn(&mut Url)| {
        let mut changed = url.clone();
        changed.set_password(Some("hunter2")).unwrap();
        change(&mut changed);
        changed.to_string()
    };
    for (url, problem) in [
        (with(&|_| {}), "check the user and the password"),
        (
            with(&|url| url.set_username("nobody").unwrap()),
            "check the user and the password",
        ),
        (
            with(&|url| {
                url.set_username("guest").unwrap();
                url.set_path("missing");
            }),
            "no such database",
        ),
        (
            with(&|url| url.set_username("guest").unwrap()),
            "make it the database's owner",
        ),
        (
            with(&|url| url.set_query(Some("sslmode=require"))),
            "see `sslmode`",
        ),
        (
            with(&|url| url.set_query(Some("sslrootcert=/none&sslmode=verify-ca"))),
            "sslrootcert",
        ),
    ] {
        let error = open(&url).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(problem), "{error}");
        assert!(!chain(&error).contains("hunter2") && !format!("{error:?}").contains("hunter2"));
    }
    execute(url.as_str(), "DROP ROLE guest").await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let url: Url = database().await.parse().unwrap();
    for host in ["127.0.0.1:1", "no-such-host.invalid:5432"] {
        let (name, port) = host.split_once(':').unwrap();
        let mut url = url.clone();
        url.set_host(Some(name)).unwrap();
        url.set_port(port.parse().ok()).unwrap();
        let error = open(url.as_str()).await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        let password = url.password().unwrap();
        assert!(!chain(&error).contains(password), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_is_waited_for() {
    let mut server = private_postgres().await;
    let store = open(server.url()).await.unwrap();
    store.record(&some_events("a", 3), at(1)).await.unwrap();
    server.stop().await;
    let (records, endpoint) = (some_events("b", 3), endpoint());
    let (pinged, listed, inserted, written, found, opened) = tokio::join!(
        store.ping(),
        store.endpoints(),
        store.insert(&endpoint),
        store.record(&records, at(1)),
        store.oldest_event(),
        open(server.url()),
    );
    for error in [
        pinged.unwrap_err(),
        listed.unwrap_err(),
        inserted.unwrap_err(),
        written.unwrap_err(),
        found.unwrap_err(),
        opened.unwrap_err(),
    ] {
        assert!(error.is_unavailable(), "{error:?}");
    }

    let told = AtomicU32::new(0);
    let url: StoreUrl = server.url().parse().unwrap();
    let waiting = Store::open_when_there(&url, |error| {
        assert!(error.is_unavailable());
        told.fetch_add(1, Ordering::SeqCst);
    });
    let starting = async {
        wait_until("it waits", || async { told.load(Ordering::SeqCst) > 0 }).await;
        server.start().await;
    };
    let (opened, ()) = tokio::join!(waiting, starting);
    assert_eq!(recorded(&opened.unwrap()).await, 3);
    assert_eq!(told.into_inner(), 1);
    store.ping().await.unwrap();
    assert_eq!(recorded(&store).await, 3);
}

/// Killed as by a power cut, in the middle of a write: all of it is there afterwards, or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_a_write_leaves_all_or_nothing() {
    let mut server = private_postgres().await;
    let store = open(server.url()).await.unwrap();
    store.ping().await.unwrap();
    let records = some_events("a", 3_000);
    let (written, ()) = tokio::join!(store.record(&records, at(1)), server.kill());
    server.start().await;
    let there = recorded(&store).await;
    match written {
        Ok(written) => assert_eq!((written.events, there), (3_000, 3_000)),
        Err(error) => {
            assert!(error.is_unavailable(), "{error:?}");
            assert!(there == 0 || there == 3_000, "{there}");
        }
    }
    store.record(&records, at(2)).await.unwrap();
    assert_eq!(recorded(&store).await, 3_000);
}

/// A wire that carries nothing any more, and never says so. The clock runs ahead meanwhile.
#[tokio::test]
async fn a_frozen_connection_is_noticed_and_replaced() {
    let wire = Proxy::start(database().await).await;
    let store = open(&wire.url()).await.unwrap();
    for round in 0..10 {
        store.ping().await.unwrap();
        let records = some_events(&round.to_string(), 400);
        let freezing = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            wire.freeze(true);
            time::pause();
        };
        let (written, ()) = tokio::join!(store.record(&records, at(1)), freezing);
        if let Err(error) = written {
            assert!(error.is_unavailable(), "{error:?}");
        }
        assert!(store.ping().await.unwrap_err().is_unavailable());
        time::resume();
        wire.freeze(false);
        store.record(&records, at(1)).await.unwrap();
        assert_eq!(recorded(&store).await, 400 * (round + 1));
    }
    // More than the pool has: none of its places is lost.
    let found = (0..20).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.logged_event(&id("0-0"), None).await })
    });
    for event in found.collect::<Vec<_>>() {
        assert!(event.await.unwrap().unwrap().is_some());
    }
}

/// A reader with a connection of its own gives it up after 250 ms, and opens another one for its next question.
#[tokio::test]
async fn a_reader_of_changes_gives_up_a_frozen_connection_soon() {
    let wire = Proxy::start(database().await).await;
    let store = open(&wire.url()).await.unwrap();
    let mut reader = store.change_reader();
    let known = reader.changes_since(None).await.unwrap().version;
    let endpoint = endpoint();
    store.insert(&endpoint).await.unwrap();

    wire.freeze(true);
    time::pause();
    let started = time::Instant::now();
    let error = reader.changes_since(Some(&known)).await.unwrap_err();
    let given_up = started.elapsed();
    time::resume();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(
        chain(&error).contains("no answer within 250ms"),
        "{}",
        chain(&error)
    );
    assert!(given_up < Duration::from_millis(260), "{given_up:?}");

    wire.freeze(false);
    let changes = reader.changes_since(Some(&known)).await.unwrap();
    assert_eq!(changes.version.number, known.number + 1);
    let ChangedEndpoints::Since { changed, .. } = changes.endpoints else {
        panic!("all: {changes:?}");
    };
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0], endpoint);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_changes_does_not_notice_that_the_server_was_started_again() {
    let mut server = private_postgres().await;
    let store = open(server.url()).await.unwrap();
    let mut reader = store.change_reader();
    let known = reader.changes_since(None).await.unwrap().version;
    server.stop().await;
    let error = reader.changes_since(Some(&known)).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    server.start().await;
    reader.changes_since(Some(&known)).await.unwrap();
    server.stop().await;
    server.start().await;
    assert_eq!(reader.changes_since(Some(&known)).await.unwrap().version, known);
}

/// A process that froze in the middle of a write holds up the others only so long.
#[tokio::test]
async fn a_write_that_waits_too_long_for_its_turn_is_unavailable() {
    let url = database().await;
    let store = open(&url).await.unwrap();
    let mut hog = PgConnection::connect(&url).await.unwrap();
    let mut held = hog.begin().await.unwrap();
    sqlx::query("UPDATE log SET sequence = sequence")
        .execute(&mut *held)
        .await
        .unwrap();
    let started = std::time::Instant::now();
    let error = store.record(&some_events("a", 1), at(1)).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(recorded(&store).await, 0, "readers wait for nobody");
    held.rollback().await.unwrap();
    store.record(&some_events("a", 1), at(1)).await.unwrap();
}
