//! What the store does with the file it is given.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use relay_event::{Endpoint, Secret, Timestamp};
use relay_store::{Error, Store, StoreUrl};
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::place::chain;

async fn open(path: &Path) -> Result<Store, Error> {
    Store::open(&StoreUrl::sqlite(path)).await
}

/// Another program at the same file.
async fn other(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    options
        .busy_timeout(Duration::from_secs(5))
        .connect()
        .await
        .unwrap()
}

fn endpoint() -> Endpoint {
    Endpoint::new(
        "https://example.com/hook".parse().unwrap(),
        vec!["#".parse().unwrap()],
        Secret::generate(),
        Timestamp::now(),
    )
}

#[tokio::test]
async fn only_its_owner_may_read_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("relay.db");
    let store = open(&path).await.unwrap();
    store.insert(&endpoint()).await.unwrap();
    let files: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    assert!(files.len() > 1, "the write-ahead log is beside it: {files:?}");
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_open_a_new_file_at_once() {
    for _ in 0..10 {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("relay.db");
        let opening: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move { open(&path).await.unwrap().insert(&endpoint()).await })
            })
            .collect();
        for opened in opening {
            opened.await.unwrap().unwrap();
        }
        assert_eq!(open(&path).await.unwrap().endpoints().await.unwrap().len(), 8);
    }
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("missing").join("relay.db");
    let error = open(&path).await.unwrap_err();
    let expected = format!(
        "could not open the store {}: its folder does not exist",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    assert!(!error.is_unavailable());
}

#[tokio::test]
async fn what_is_no_database_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let error = open(folder.path()).await.unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");

    for content in ["a shopping list\n".to_owned(), "0123456789".repeat(1000)] {
        let path = folder.path().join("notes.txt");
        fs::write(&path, &content).unwrap();
        let error = open(&path).await.unwrap_err();
        let expected = format!(
            "{} is not a relay's store: it is not an SQLite database",
            path.display()
        );
        assert_eq!(chain(&error), expected);
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing beside it"
        );
    }
}

#[tokio::test]
async fn another_program_s_database_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("contacts.db");
    let mut program = other(&path).await;
    sqlx::query("CREATE TABLE contacts (name TEXT)")
        .execute(&mut program)
        .await
        .unwrap();
    program.close().await.unwrap();
    let before = fs::read(&path).unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_newer_relay_s_store_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("relay.db");
    open(&path).await.unwrap();
    let mut newer = other(&path).await;
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'more', TRUE, x'00', 0)")
        .execute(&mut newer)
        .await
        .unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(matches!(error, Error::Schema { .. }), "{error}");
}

#[tokio::test]
async fn a_document_that_does_not_parse_names_its_endpoint() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("relay.db");
    let store = open(&path).await.unwrap();
    let endpoint = endpoint();
    store.insert(&endpoint).await.unwrap();
    let mut hand = other(&path).await;
    sqlx::query("UPDATE endpoints SET document = '{\"id\": 1}'")
        .execute(&mut hand)
        .await
        .unwrap();
    for error in [
        store.endpoints().await.unwrap_err(),
        store.endpoint(&endpoint.id).await.unwrap_err(),
        store.update(&endpoint.id, |_| Ok(())).await.unwrap_err(),
    ] {
        let expected = format!("endpoint {}: its stored document does not parse", endpoint.id);
        assert_eq!(error.to_string(), expected);
        assert!(!error.is_unavailable());
    }
}

/// As the first relay left it: with the endpoints alone.
#[tokio::test]
async fn an_older_relay_s_store_is_brought_up_to_date() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("relay.db");
    let mut older = other(&path).await;
    sqlx::raw_sql(
        "PRAGMA application_id = 0x52656c79;
        CREATE TABLE endpoints (id TEXT PRIMARY KEY, document TEXT NOT NULL, bound TEXT NOT NULL, version BIGINT NOT NULL);
        CREATE TABLE _sqlx_migrations (
            version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
            success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL
        );
        INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (1, 'endpoints', TRUE,
            x'e8cc0a0d176eff3aeee6d0cbf20c17992bcaf7c6d93d8e5d6f365fa4021f7bf9c9a08dc9a8d64812d15cb0604c91f1b3', 1)",
    )
    .execute(&mut older)
    .await
    .unwrap();
    older.close().await.unwrap();
    let store = open(&path).await.unwrap();
    store.insert(&endpoint()).await.unwrap();
    assert_eq!(store.oldest_event().await.unwrap(), None);
}

/// Readers never wait for a writer; a writer waits its turn, and says so when it does not come.
#[tokio::test]
async fn a_lock_that_is_held_too_long_is_unavailable() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("relay.db");
    let store = open(&path).await.unwrap();
    let endpoint = endpoint();
    store.insert(&endpoint).await.unwrap();
    let mut hog = other(&path).await;
    let held = hog.begin_with("BEGIN IMMEDIATE").await.unwrap();
    assert_eq!(store.endpoints().await.unwrap().len(), 1);
    let error = store.delete(&endpoint.id, Timestamp::now()).await.unwrap_err();
    assert!(error.is_unavailable());
    let expected = format!(
        "could not delete endpoint {}: the database is unavailable: (code: 5) database is locked",
        endpoint.id
    );
    assert_eq!(chain(&error), expected);
    held.rollback().await.unwrap();
    store.delete(&endpoint.id, Timestamp::now()).await.unwrap();
}
