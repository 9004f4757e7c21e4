//! A stand-in for a relay's HTTP API, and the commands on it.

use relay_testkit::{Answer, Process, Receiver};
use serde_json::{Value, json};

use crate::support::{Ended, ended};

pub(crate) struct Gateway {
    pub(crate) receiver: Receiver,
}

impl Gateway {
    /// It answers every request with 202.
    pub(crate) async fn start() -> Self {
        let receiver = Receiver::start().await;
        receiver.respond_with(ok(202, &json!({"id": "x"})));
        Self { receiver }
    }

    /// Answers by method, path and query, and body.
    pub(crate) fn answer(&self, by: impl Fn(&str, &str, Value) -> Answer + Send + Sync + 'static) {
        self.receiver.respond_by(move |request| {
            let body = serde_json::from_slice(&request.body).unwrap_or_default();
            by(&request.method, &request.path, body)
        });
    }

    pub(crate) fn start_command(&self, args: &[&str]) -> Process {
        let url = format!("http://{}", self.receiver.addr());
        Process::spawn("relay", &[("RELAY_URL", &url), ("RELAY_TOKEN", "abc")], args)
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ended {
        ended(self.start_command(args)).await
    }

    /// What was asked for, in order: the method, the path and the query.
    pub(crate) fn asked(&self) -> Vec<String> {
        let requests = self.receiver.requests();
        let line = |request: &relay_testkit::Request| format!("{} {}", request.method, request.path);
        requests.iter().map(line).collect()
    }

    /// The bodies of the requests, in order.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        let requests = self.receiver.requests();
        requests.iter().map(relay_testkit::Request::json).collect()
    }
}

pub(crate) fn ok(status: u16, body: &Value) -> Answer {
    Answer::status(status).body(body.to_string())
}

pub(crate) fn problem(status: u16, detail: &str) -> Answer {
    let problem = json!({"title": "Some Problem", "status": status, "detail": detail});
    ok(status, &problem).header("content-type", "application/problem+json")
}
