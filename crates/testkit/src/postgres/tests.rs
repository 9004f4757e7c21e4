//! With a real PostgreSQL, but not the shared one: `tests/postgres.rs` is about that.

use std::fs;

use tokio::net::TcpStream;

use super::*;
use crate::wait_until;

/// What a statement shows, or what the client says instead.
async fn sql(url: &str, statement: &'static str) -> Result<String, String> {
    let url = url.to_owned();
    let shown = spawn_blocking(move || server::psql(&server::programs()?, &url, statement));
    shown.await.unwrap()
}

async fn listens(url: &str) -> bool {
    let (_, place) = url.split_once('@').unwrap();
    let (place, _) = place.split_once('/').unwrap();
    TcpStream::connect(place).await.is_ok()
}

#[tokio::test]
async fn each_database_is_new_and_has_a_password() {
    let server = private_postgres().await;
    let first = server.url().to_owned();
    let second = create_database(&server.server).unwrap();
    assert_ne!(first, second);
    for url in [&first, &second] {
        sql(url, "create table only_here (x int)").await.unwrap();
        assert_eq!(sql(url, "show server_encoding").await.unwrap(), "UTF8");
    }
    let (before, at) = (
        first.split_once("relay:").unwrap().0,
        first.split_once('@').unwrap().1,
    );
    let refused = sql(&format!("{before}relay:wrong@{at}"), "select 1")
        .await
        .unwrap_err();
    assert!(refused.contains("password authentication failed"), "{refused}");
}

#[tokio::test]
async fn a_private_server_comes_back_with_its_data() {
    let mut server = private_postgres().await;
    let (url, pid) = (server.url().to_owned(), server.pid());
    sql(&url, "create table kept as select 1 as x").await.unwrap();

    // One that would not see by itself that the postmaster is gone.
    let loops = "do $$ begin loop end loop; end $$";
    let busy = tokio::spawn({
        let url = url.clone();
        async move { sql(&url, loops).await }
    });
    wait_until("the loop to run", || async {
        let running = "select count(*) from pg_stat_activity where query like 'do %' and state = 'active'";
        sql(&url, running).await.unwrap() == "1"
    })
    .await;
    server.kill().await;
    assert!(busy.await.unwrap().is_err());
    assert!(!listens(&url).await);

    server.start().await;
    assert_eq!(server.url(), url);
    assert_ne!(server.pid(), pid);
    sql(&url, "insert into kept values (2)").await.unwrap();
    server.stop().await;
    assert!(!listens(&url).await);

    server.start().await;
    assert_eq!(sql(&url, "select sum(x) from kept").await.unwrap(), "3");
}

#[tokio::test]
async fn a_server_that_somebody_else_killed_starts_again() {
    let mut server = private_postgres().await;
    let (url, pid) = (server.url().to_owned(), server.pid());
    assert!(crate::process::signal("KILL", &[pid]));
    wait_until("the server to end", || async { server.server.pid().is_none() }).await;
    server.start().await;
    assert_ne!(server.pid(), pid);
    assert_eq!(sql(&url, "select 7").await.unwrap(), "7");
    let pid = server.pid();
    server.start().await;
    assert_eq!(server.pid(), pid, "it ran already");
}

#[tokio::test]
async fn nothing_is_left_of_a_dropped_server() {
    for killed in [false, true] {
        let mut server = private_postgres().await;
        let (url, pid) = (server.url().to_owned(), server.pid());
        let folder = server.folder().to_owned();
        if killed {
            server.kill().await;
        }
        drop(server);
        wait_until("the folder to go", || async { !folder.exists() }).await;
        assert!(!listens(&url).await);
        let memory = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        let makers = memory.lines().filter_map(|line| line.split_whitespace().nth(4));
        assert_eq!(makers.filter(|maker| *maker == pid.to_string()).count(), 0);
    }
}
