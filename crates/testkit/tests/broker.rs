//! The brokers for tests, with a real RabbitMQ.
#![allow(clippy::unwrap_used, reason = "a test only unwraps")]

use std::path::Path;
use std::time::Duration;

use relay_testkit::{
    Process, Proxy, private_broker, private_cluster, shared_broker, wait_until, wait_until_within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// Whether a broker answers the AMQP greeting at this URL.
async fn answers(url: &str) -> bool {
    let through = Proxy::start(url).await;
    let mut stream = TcpStream::connect(through.addr()).await.unwrap();
    let mut frame = [0; 3];
    let greeting = stream.write_all(b"AMQP\x00\x00\x09\x01").await;
    let start = stream.read_exact(&mut frame).await;
    greeting.is_ok() && start.is_ok() && frame == [1, 0, 0] // a method frame on channel 0
}

#[test]
fn the_shared_broker_outlives_the_runtime_that_started_it() {
    let first = Runtime::new().unwrap();
    let url = first.block_on(shared_broker());
    drop(first);
    let second = Runtime::new().unwrap();
    let again = second.block_on(async {
        assert!(answers(url).await);
        shared_broker().await
    });
    assert!(std::ptr::eq(url, again), "one broker for all");
}

#[tokio::test]
async fn a_private_broker_comes_back_at_its_address() {
    let mut broker = private_broker().await;
    let (url, pid) = (broker.amqp_url().to_owned(), broker.pid());
    assert!(answers(&url).await);
    broker.kill().await;
    assert!(!answers(&url).await);
    broker.start().await;
    assert_eq!(broker.amqp_url(), url);
    assert_ne!(broker.pid(), pid);
    assert!(answers(&url).await);
    broker.stop().await;
    assert!(!answers(&url).await);
}

/// Only a process that another test starts does anything here: it uses the shared broker, and then ends
/// as it is told.
#[tokio::test]
async fn a_user_of_the_shared_broker() {
    let Ok(end) = std::env::var("RELAY_TESTKIT_END") else {
        return;
    };
    println!("\nbroker at {}", shared_broker().await);
    match end.as_str() {
        "fail" => panic!("as the outer test wants it"),
        _ => std::future::pending().await,
    }
}

async fn start_user(end: &str, tmp: &Path) -> (Process, String) {
    let mut env = vec![("RELAY_TESTKIT_END", end), ("TMPDIR", tmp.to_str().unwrap())];
    let server = std::env::var("RELAY_RABBITMQ_SERVER");
    env.extend(
        server
            .iter()
            .map(|server| ("RELAY_RABBITMQ_SERVER", server.as_str())),
    );
    let this = std::env::current_exe().unwrap();
    let args = ["--exact", "a_user_of_the_shared_broker", "--nocapture"];
    let user = Process::spawn_path(&this, &env, &args);
    let limit = Duration::from_secs(120);
    let url = wait_until_within(limit, "the inner process's broker", || async {
        let output = user.output();
        let url = output.lines().find_map(|line| line.strip_prefix("broker at "));
        url.map(str::to_owned).ok_or(output)
    })
    .await;
    (user, url)
}

fn folders(tmp: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(tmp).unwrap();
    entries
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect()
}

#[tokio::test]
async fn the_shared_broker_and_its_folder_go_with_a_killed_process() {
    let tmp = tempfile::tempdir().unwrap();
    let (user, url) = start_user("wait", tmp.path()).await;
    assert!(answers(&url).await);
    assert_eq!(folders(tmp.path()).len(), 1);
    user.kill_9();
    wait_until("the broker's folder to go", || async {
        let left = folders(tmp.path());
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join(" "))
        }
    })
    .await;
    assert!(!answers(&url).await);
}

#[tokio::test]
async fn a_failing_test_keeps_and_names_the_folder_of_the_shared_broker() {
    let tmp = tempfile::tempdir().unwrap();
    let (user, url) = start_user("fail", tmp.path()).await;
    assert_eq!(user.wait_exit().await.code(), Some(101));
    let kept = folders(tmp.path());
    assert!(user.output().contains(&format!("is kept: {}", kept[0])));
    wait_until("the broker to end", || async { !answers(&url).await }).await;
    assert_eq!(folders(tmp.path()), kept);
}

#[tokio::test]
async fn the_nodes_of_a_cluster_are_one_broker() {
    let (mut nodes, _epmd) = private_cluster().await;
    let url = nodes[0].amqp_url().to_owned();
    nodes[0].kill().await;
    assert!(answers(nodes[1].amqp_url()).await);
    nodes[0].start().await;
    assert_eq!(nodes[0].amqp_url(), url);
    wait_until_within(Duration::from_secs(60), "the nodes to be together", || async {
        let said = nodes[2]
            .ctl(&["--quiet", "--formatter", "json", "cluster_status"])
            .await;
        let status: serde_json::Value = serde_json::from_str(&said).unwrap();
        let running = status["running_nodes"].as_array().map_or(0, Vec::len);
        (running == 3).then_some(()).ok_or(said)
    })
    .await;
}
