//! A stand-in for a relay's HTTP API, and the commands on it.

use std::path::Path;

use relay_testkit::{Answer, Process, Receiver};
use serde_json::{Value, json};

use crate::support::{Ended, ended, line, path_with_relay};

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
        self.start_with(&[], args)
    }

    /// The same with more settings.
    pub(crate) fn start_with(&self, more: &[(&str, &str)], args: &[&str]) -> Process {
        let url = format!("http://{}", self.receiver.addr());
        let env = [&[("RELAY_URL", url.as_str()), ("RELAY_TOKEN", "abc")], more].concat();
        Process::spawn("relay", &env, args)
    }

    /// Runs a line of the shell, in which `relay` is the relay.
    pub(crate) async fn run_in_shell(&self, line: &str) -> Ended {
        let url = format!("http://{}", self.receiver.addr());
        let path = path_with_relay();
        let env = [
            ("RELAY_URL", url.as_str()),
            ("RELAY_TOKEN", "abc"),
            ("PATH", &path),
        ];
        ended(Process::spawn_path(Path::new("/bin/sh"), &env, &["-c", line])).await
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

/// A page of the feed: its events by cursor and id.
pub(crate) fn page(events: &[(&str, &str)], next: &str, more: bool) -> Answer {
    let events: Vec<String> = events.iter().map(|(cursor, id)| item(cursor, id)).collect();
    let events = events.join(",");
    Answer::status(200).body(format!(
        r#"{{"events":[{events}],"next":"{next}","more":{more}}}"#
    ))
}

/// An event as the feed has it.
pub(crate) fn item(cursor: &str, id: &str) -> String {
    format!(r#"{{"cursor":"{cursor}","event":{}}}"#, line(id, "order.created"))
}

/// What is answered to a cursor older than what is kept.
pub(crate) fn expired(oldest: &str) -> Answer {
    let problem = json!({"type": "urn:event-relay:problem:cursor-expired", "title": "Cursor expired",
        "status": 410, "detail": "events after this cursor are no longer kept", "oldest": oldest});
    ok(410, &problem)
}
