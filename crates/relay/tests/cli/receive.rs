use axum::http::HeaderMap;
use relay_event::{Secret, Timestamp, signature::sign_plain};
use relay_testkit::Process;
use reqwest::Client;
use serde_json::Value;
use standardwebhooks::Webhook;

use crate::support::{ended, line};

/// A running `relay receive`, and a sender of webhooks.
pub(crate) struct Receiving {
    pub(crate) process: Process,
    pub(crate) port: String,
    client: Client,
}

impl Receiving {
    pub(crate) async fn start(env: &[(&str, &str)], args: &[&str]) -> Self {
        let args = [&["receive", "--port", "0"], args].concat();
        let process = Process::spawn("relay", env, &args);
        let line = process.wait_for_output("receiving on").await;
        let (_, rest) = line.split_once("127.0.0.1:").unwrap();
        let port = rest.chars().take_while(char::is_ascii_digit).collect();
        relay_service::install_crypto();
        Self {
            process,
            port,
            client: Client::new(),
        }
    }

    /// With no relay to ask.
    pub(crate) async fn alone(args: &[&str]) -> Self {
        Self::start(&[("RELAY_DATA", "/no/such/folder")], args).await
    }

    pub(crate) async fn post(&self, headers: HeaderMap, body: &str) -> u16 {
        let url = format!("http://127.0.0.1:{}/hook", self.port);
        let request = self.client.post(url).headers(headers).body(body.to_owned());
        request.send().await.unwrap().status().as_u16()
    }

    /// A delivery as the standard library of senders signs it.
    pub(crate) async fn deliver(&self, secret: &Secret, id: &str) -> u16 {
        let body = line(id, "order.created");
        self.post(signed(secret, id, &body), &body).await
    }
}

fn signed(secret: &Secret, id: &str, body: &str) -> HeaderMap {
    let now = Timestamp::now().as_secs();
    let signature = Webhook::new(secret.as_str())
        .unwrap()
        .sign(id, now, body.as_bytes())
        .unwrap();
    headers(&[
        ("webhook-id", id),
        ("webhook-timestamp", &now.to_string()),
        ("webhook-signature", &signature),
    ])
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let parsed = pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    parsed.collect()
}

#[tokio::test]
async fn good_signatures_are_taken_and_bad_ones_are_not() {
    let secret = Secret::generate();
    let receiving = Receiving::alone(&["--secret", secret.as_str()]).await;
    assert_eq!(receiving.deliver(&secret, "a").await, 200);
    assert_eq!(receiving.deliver(&Secret::generate(), "b").await, 401);
    assert_eq!(receiving.post(HeaderMap::new(), "{}").await, 401);
    assert_eq!(receiving.deliver(&secret, "a").await, 200);
    let body = line("p", "order.created");
    let plain = headers(&[
        ("x-webhook-delivery", "p"),
        ("x-webhook-event", "order.created"),
        ("x-webhook-signature", &sign_plain([&secret], body.as_bytes())),
    ]);
    assert_eq!(receiving.post(plain.clone(), &body).await, 200);
    assert_eq!(receiving.post(plain, "{}").await, 401);

    receiving.process.signal("INT");
    let output = ended(receiving.process).await.ok();
    let line = |text: &str| output.lines().filter(|line| line.contains(text)).count();
    assert_eq!(line("  a  ") + line("  p  "), 4, "{output}");
    assert_eq!(line("BAD SIGNATURE"), 3, "{output}");
    assert_eq!(line("verified  repeated"), 1, "{output}");
    let summary = "6 received, 2 distinct, 1 repeated, 0 failed on purpose, 3 bad signatures";
    assert!(output.contains(summary), "{output}");
    assert!(!output.contains(secret.as_str()), "{output}");
}

#[tokio::test]
async fn the_first_attempts_fail_as_asked() {
    let secret = Secret::generate();
    let receiving = Receiving::alone(&["--secret", secret.as_str(), "--fail-first", "2"]).await;
    let mut answers = Vec::new();
    for id in ["a", "b", "a", "a", "b", "a"] {
        answers.push(receiving.deliver(&secret, id).await);
    }
    assert_eq!(answers, [500, 500, 500, 200, 500, 200]);
    receiving.process.signal("INT");
    let output = ended(receiving.process).await.ok();
    let summary = "6 received, 2 distinct, 1 repeated, 4 failed on purpose, 0 bad signatures";
    assert!(output.contains(summary), "{output}");
}

#[tokio::test]
async fn without_secrets_everything_is_taken_and_that_is_said_once() {
    let receiving = Receiving::alone(&["--json", "--status", "503"]).await;
    assert_eq!(receiving.deliver(&Secret::generate(), "a").await, 503);
    assert_eq!(receiving.deliver(&Secret::generate(), "a").await, 503);
    receiving.process.signal("INT");
    let output = ended(receiving.process).await.ok();
    assert_eq!(
        output.matches("signatures are not checked").count(),
        1,
        "{output}"
    );
    let shown: Vec<Value> = output
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert_eq!(shown.len(), 2, "{output}");
    assert_eq!(
        (&shown[1]["attempt"], &shown[1]["signature"], &shown[1]["status"]),
        (&2.into(), &"unverified".into(), &503.into())
    );
    assert_eq!(shown[0]["body"]["type"], "order.created");
    assert!(
        output.contains(r#""body":{"specversion":"1.0","id":"a""#),
        "{output}"
    );
    assert!(output.contains(r#"{"b":1.50,"a":1e2}"#), "{output}");
}

#[tokio::test]
async fn a_taken_port_and_a_mistyped_secret_are_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let process = Process::spawn("relay", &[], &["receive", "--port", &port]);
    let output = ended(process).await.failed(1);
    assert!(output.contains("choose another --port"), "{output}");
    let process = Process::spawn("relay", &[], &["receive", "--secret", "whsec_hunter2"]);
    let output = ended(process).await.failed(2);
    assert!(
        output.contains("--secret") && !output.contains("hunter2"),
        "{output}"
    );
}
