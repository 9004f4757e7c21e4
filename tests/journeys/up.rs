//! Everything in one process, as the first person to try the relay meets it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use relay_testkit::{Answer, Process, Receiver, wait_until};
use relay_tests::metrics_address;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

/// The all-in-one with everything it owns in a folder.
struct Up {
    folder: TempDir,
}

impl Up {
    fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    fn spawn(&self, args: &[&str]) -> Process {
        let data = self.folder.path().join("data");
        let server = std::env::var("RELAY_RABBITMQ_SERVER").ok();
        let mut environment = vec![("RELAY_DATA", data.to_str().unwrap())];
        environment.extend(server.as_deref().map(|server| ("RELAY_RABBITMQ_SERVER", server)));
        Process::spawn("relay", &environment, args)
    }

    async fn start(&self) -> Process {
        let args = ["up", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
        let relay = self.spawn(&args);
        wait_until("the relay to be ready", || async {
            assert_eq!(relay.exit_status(), None, "{}", relay.output());
            relay.output().contains("The relay is ready.")
        })
        .await;
        relay
    }

    async fn cli(&self, args: &[&str]) -> String {
        let relay = self.spawn(args);
        assert!(relay.wait_exit().await.success(), "{args:?}: {}", relay.output());
        relay.output()
    }

    fn running(&self) -> Value {
        let text = fs::read(self.folder.path().join("data/relay.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Every process that was started with something of this folder in its environment or arguments.
    fn processes(&self) -> Vec<String> {
        let folder = self.folder.path().to_str().unwrap();
        let of_this = |process: &Path| {
            ["environ", "cmdline"].into_iter().any(|file| {
                fs::read(process.join(file)).is_ok_and(|text| String::from_utf8_lossy(&text).contains(folder))
            })
        };
        let all = fs::read_dir("/proc")
            .unwrap()
            .filter_map(Result::ok)
            .map(|entry| entry.path());
        all.filter(|process| of_this(process))
            .map(|process| process.display().to_string())
            .collect()
    }

    async fn wait_until_nothing_is_left(&self) {
        wait_until("every process of the relay to be gone", || async {
            let left = self.processes();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_whole_and_finds_everything_again() {
    let up = Up::new();
    let relay = up.start().await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::status(503).header("retry-after", "1"));
    let retry = [
        "endpoint",
        "add",
        "--url",
        &receiver.url(),
        "--types",
        "order.*",
        "--retry",
        "2s,2s,2s,2s,2s",
    ];
    up.cli(&retry).await;
    up.cli(&[
        "publish",
        "--type",
        "order.created",
        "--data",
        r#"{"order_id": 42}"#,
    ])
    .await;
    receiver.wait_for(1).await;
    let before = up.running();
    let token = fs::metadata(up.folder.path().join("data/token")).unwrap();
    assert_eq!(token.permissions().mode() & 0o777, 0o600);

    // The event waits for its retry while everything is stopped.
    relay.terminate();
    assert!(relay.wait_exit().await.success(), "{}", relay.output());
    up.wait_until_nothing_is_left().await;

    receiver.respond_with(Answer::status(204));
    let again = up.start().await;
    assert_eq!(up.running()["amqp_url"], before["amqp_url"]);
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests.last().unwrap().json()["data"]["order_id"], 42);

    // Killed without warning, it takes its broker with it, and is as it was after that too.
    again.kill_9();
    again.wait_exit().await;
    up.wait_until_nothing_is_left().await;
    let third = up.start().await;
    assert!(up.cli(&["endpoint", "list"]).await.contains(&receiver.url()));
    third.terminate();
    third.wait_exit().await;
}

/// A program that waits for it goes on then: it takes the token, publishes, adds endpoints.
#[tokio::test(flavor = "multi_thread")]
async fn it_says_that_it_is_ready_once_everything_is_there() {
    let up = Up::new();
    let listen = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let relay = up.spawn(&[&["up", "--log-format", "json"], &listen[..]].concat());
    relay_service::install_crypto();
    let client = Client::builder().no_proxy().build().unwrap();
    let ready = format!("http://{}/ready", metrics_address(&relay).await);
    let said = wait_until("the relay to be ready", || async {
        let answer = client.get(&ready).send().await.unwrap();
        let (status, said) = (answer.status(), answer.text().await.unwrap());
        match status {
            StatusCode::OK => Ok(said),
            _ => Err(said),
        }
    })
    .await;
    let said: Value = serde_json::from_str(&said).unwrap();
    let parts: Vec<&String> = said["components"].as_object().unwrap().keys().collect();
    assert_eq!(
        parts,
        ["broker", "deliverer", "gateway", "process", "recorder", "store"]
    );
    let token = fs::read_to_string(up.folder.path().join("data/token")).unwrap();
    let endpoints = format!("{}/v1/endpoints", up.running()["url"].as_str().unwrap());
    let listed = client.get(endpoints).bearer_auth(token.trim()).send().await;
    assert_eq!(listed.unwrap().status(), StatusCode::OK);
    up.cli(&["publish", "--type", "order.created", "--data", "1"])
        .await;
    relay.terminate();
    assert!(relay.wait_exit().await.success(), "{}", relay.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_broker_that_ends_is_started_again() {
    let up = Up::new();
    let relay = up.start().await;
    let receiver = Receiver::start().await;
    up.cli(&["endpoint", "add", "--url", &receiver.url(), "--types", "#"])
        .await;
    let pid = wait_until("the broker's pid", || async {
        let folder = up.folder.path().join("data/broker");
        let files = fs::read_dir(folder).ok()?.filter_map(Result::ok);
        let pid = files
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|end| end == "pid"))?;
        fs::read_to_string(pid).ok()
    })
    .await;
    let killed = std::process::Command::new("kill")
        .args(["-9", pid.trim()])
        .status()
        .unwrap();
    assert!(killed.success());
    relay.wait_for_output("starting it again").await;
    // An event published as soon as the broker is back is delivered.
    wait_until("an event to be accepted", || async {
        let publish = up.spawn(&["publish", "--type", "order.created", "--data", "1"]);
        if publish.wait_exit().await.success() {
            Ok(())
        } else {
            Err(publish.output())
        }
    })
    .await;
    receiver.wait_for(1).await;
    relay.terminate();
    assert!(relay.wait_exit().await.success(), "{}", relay.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_do_not_share_a_folder() {
    let up = Up::new();
    let relay = up.start().await;
    let second = up.spawn(&["up", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
    assert!(!second.wait_exit().await.success());
    assert!(
        second.output().contains("another relay runs on"),
        "{}",
        second.output()
    );
    relay.terminate();
    assert!(relay.wait_exit().await.success());
}
