//! The PostgreSQL that a test process shares.
#![allow(clippy::unwrap_used, reason = "a test only unwraps")]

use std::fs;
use std::future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use relay_testkit::{Process, database, shared_postgres, wait_until, wait_until_within};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

async fn listens(url: &str) -> bool {
    let (_, place) = url.split_once('@').unwrap();
    let (place, _) = place.split_once('/').unwrap();
    TcpStream::connect(place).await.is_ok()
}

#[test]
fn the_shared_server_outlives_the_runtime_that_started_it() {
    let first = Runtime::new().unwrap();
    let url = first.block_on(shared_postgres());
    drop(first);
    let second = Runtime::new().unwrap();
    let again = second.block_on(async {
        assert!(listens(url).await);
        shared_postgres().await
    });
    assert!(std::ptr::eq(url, again), "one server for all");
}

#[tokio::test]
async fn databases_are_beside_each_other_in_the_shared_server() {
    let (first, second) = tokio::join!(database(), database());
    assert_ne!(first, second);
    let server = shared_postgres().await.strip_suffix("postgres").unwrap();
    assert!(first.starts_with(server) && second.starts_with(server));
}

/// Only a process that another test starts does anything here: it uses the shared server, and then ends
/// as it is told.
#[tokio::test]
async fn a_user_of_the_shared_server() {
    let Ok(end) = std::env::var("RELAY_TESTKIT_END") else {
        return;
    };
    println!("\nPostgreSQL at {}", database().await);
    match end.as_str() {
        "fail" => panic!("as the outer test wants it"),
        _ => future::pending().await,
    }
}

async fn start_user(end: &str, tmp: &Path) -> (Process, String) {
    let reachable = fs::Permissions::from_mode(0o755); // for the user that the server runs as
    fs::set_permissions(tmp, reachable).unwrap();
    let mut env = vec![("RELAY_TESTKIT_END", end), ("TMPDIR", tmp.to_str().unwrap())];
    let programs = std::env::var("RELAY_POSTGRES_BIN");
    env.extend(
        programs
            .iter()
            .map(|folder| ("RELAY_POSTGRES_BIN", folder.as_str())),
    );
    let this = std::env::current_exe().unwrap();
    let args = ["--exact", "a_user_of_the_shared_server", "--nocapture"];
    let user = Process::spawn_path(&this, &env, &args);
    let limit = Duration::from_secs(120);
    let url = wait_until_within(limit, "the inner process's server", || async {
        let output = user.output();
        let url = output
            .lines()
            .find_map(|line| line.strip_prefix("PostgreSQL at "));
        url.map(str::to_owned).ok_or(output)
    })
    .await;
    (user, url)
}

fn folders(tmp: &Path) -> Vec<String> {
    let entries = fs::read_dir(tmp).unwrap();
    entries
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect()
}

#[tokio::test]
async fn the_shared_server_and_its_folder_go_with_a_killed_process() {
    let tmp = tempfile::tempdir().unwrap();
    let (user, url) = start_user("wait", tmp.path()).await;
    assert!(listens(&url).await);
    assert_eq!(folders(tmp.path()).len(), 1);
    user.kill_9();
    wait_until("the server's folder to go", || async {
        let left = folders(tmp.path());
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join(" "))
        }
    })
    .await;
    assert!(!listens(&url).await);
}

#[tokio::test]
async fn a_failing_test_keeps_and_names_the_folder_of_the_shared_server() {
    let tmp = tempfile::tempdir().unwrap();
    let (user, url) = start_user("fail", tmp.path()).await;
    assert_eq!(user.wait_exit().await.code(), Some(101));
    let kept = folders(tmp.path());
    assert!(user.output().contains(&format!("is kept: {}", kept[0])));
    wait_until("the server to end", || async { !listens(&url).await }).await;
    assert_eq!(folders(tmp.path()), kept);
}
