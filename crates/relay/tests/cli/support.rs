//! A relay's broker objects in a namespace of their own, and the commands on them.

use std::{collections::BTreeSet, path::Path};

use futures_util::{StreamExt, future::join_all, stream};
use lapin::{BasicProperties, Connection, ConnectionProperties, options::BasicPublishOptions};
use relay_broker::{Config, Queue, Session, Settlement};
use relay_event::{DeadReason, EndpointId, Event, History, Timestamp};
use relay_testkit::{Process, WAIT_LIMIT, binary, namespace, shared_broker, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) struct World {
    pub(crate) session: Session,
    amqp_url: String,
    namespace: String,
    pub(crate) folder: TempDir,
}

/// How a command ended, and all it printed.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.output);
        self.output
    }

    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}", self.output);
        self.output
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::at(shared_broker().await).await
    }

    pub(crate) async fn at(amqp_url: &str) -> Self {
        let namespace = namespace();
        Self {
            session: open(amqp_url, &namespace).await,
            amqp_url: amqp_url.to_owned(),
            namespace,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A new session, after the broker was away.
    pub(crate) async fn reconnect(&mut self) {
        self.session = open(&self.amqp_url, &self.namespace).await;
    }

    /// A session beside that of this world.
    pub(crate) async fn another_session(&self) -> Session {
        open(&self.amqp_url, &self.namespace).await
    }

    /// Returns true if the broker of this world has a relay's objects in this namespace.
    pub(crate) async fn has_relay(&self, namespace: &str) -> bool {
        Session::has_relay(&config(&self.amqp_url, namespace))
            .await
            .unwrap()
    }

    /// The name of an object of the broker, such as `archive`.
    pub(crate) fn name(&self, object: &str) -> String {
        format!("{}.{object}", self.namespace)
    }

    /// The broker of this world.
    pub(crate) fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    pub(crate) fn start(&self, args: &[&str]) -> Process {
        self.start_with(&[], args)
    }

    /// The same with other settings.
    pub(crate) fn start_with(&self, more: &[(&str, &str)], args: &[&str]) -> Process {
        Process::spawn("relay", &self.env(more), args)
    }

    /// Starts a line of the shell, in which `relay` is the relay.
    pub(crate) fn start_in_shell(&self, more: &[(&str, &str)], line: &str) -> Process {
        let path = path_with_relay();
        let env = [&self.env(more)[..], &[("PATH", &path)]].concat();
        Process::spawn_path(Path::new("/bin/sh"), &env, &["-c", line])
    }

    fn env<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = [
            ("RELAY_AMQP_URL", self.amqp_url.as_str()),
            ("RELAY_NAMESPACE", &self.namespace),
            ("RELAY_DATA", self.folder.path().to_str().unwrap()),
        ];
        [&own[..], more].concat()
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ended {
        ended(self.start(args)).await
    }

    /// A path in the world's folder.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) async fn publish(&self, events: &[Event]) {
        let published = stream::iter(events)
            .map(|event| self.session.publish_event(event, Timestamp::now()))
            .buffer_unordered(100);
        published.for_each(|confirmed| async { confirmed.unwrap() }).await;
    }

    /// Makes a dead letter of each event, for a new endpoint that wants their type.
    pub(crate) async fn kill(&self, event_type: &str, ids: &[String], reason: DeadReason) -> EndpointId {
        let events: Vec<Event> = ids.iter().map(|id| event(id, event_type)).collect();
        self.kill_events(&events, reason).await
    }

    /// The same of these events.
    pub(crate) async fn kill_events(&self, events: &[Event], reason: DeadReason) -> EndpointId {
        let endpoint = EndpointId::generate();
        self.publish(events).await;
        let mut taken = self.session.consume(Queue::Work, 1_000).await.unwrap();
        let history = History {
            attempts: 6,
            last_status: Some(500),
            ..History::default()
        };
        for some in events.chunks(500) {
            let mut settling = Vec::new();
            for _ in some {
                let mut message = taken.next().await.unwrap();
                let (session, endpoint, history) = (&self.session, &endpoint, &history);
                settling.push(async move {
                    let received = message.read(session, 1 << 20);
                    let dead = Settlement::Dead(reason);
                    for part in message.divide(1) {
                        let settled = part.settle(session, endpoint, &received, history, dead, None);
                        settled.await.unwrap();
                    }
                });
            }
            join_all(settling).await;
        }
        taken.stop().await;
        endpoint
    }

    /// Puts something into the dead-letter queue that is no event.
    pub(crate) async fn kill_garbage(&self, body: &[u8]) {
        let connection = Connection::connect(&self.amqp_url, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        let queue = self.name("dead");
        let before = self.depth(Queue::Dead).await;
        let sent = channel.basic_publish(
            "".into(),
            queue.as_str().into(),
            BasicPublishOptions::default(),
            body,
            BasicProperties::default(),
        );
        sent.await.unwrap().await.unwrap();
        connection.close(200, "OK".into()).await.unwrap();
        self.wait_depth(Queue::Dead, before + 1).await;
    }

    pub(crate) async fn depth(&self, queue: Queue) -> u32 {
        self.session
            .depth(queue)
            .await
            .unwrap()
            .map_or(0, |depth| depth.ready)
    }

    pub(crate) async fn wait_depth(&self, queue: Queue, wanted: u32) {
        wait_until(format!("{wanted} messages in {queue}"), || async {
            match self.depth(queue).await {
                depth if depth == wanted => Ok(()),
                depth => Err(format!("{depth} messages")),
            }
        })
        .await;
    }

    pub(crate) async fn wait_dead(&self, wanted: u32) {
        self.wait_depth(Queue::Dead, wanted).await;
    }

    /// The ids of the events in a queue, taking them off it; `n` different ones must come.
    pub(crate) async fn take_ids(&self, queue: Queue, n: usize) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        let mut taken = self.session.consume(queue, 1_000).await.unwrap();
        while ids.len() < n {
            let next = tokio::time::timeout(WAIT_LIMIT, taken.next()).await;
            let Ok(Some(mut message)) = next else {
                panic!("only {} of {n} events came from {queue}", ids.len());
            };
            let received = message.read(&self.session, 1 << 20);
            ids.insert(received.event.as_ref().unwrap().id().to_string());
            message.ack();
        }
        taken.stop().await;
        ids
    }

    /// The ids of the dead letters, as `relay dlq list` tells them.
    pub(crate) async fn dead_ids(&self) -> Vec<String> {
        let listed = self
            .run(&["dlq", "list", "--json", "--limit", "100000"])
            .await
            .json();
        let letters = listed["dead_letters"].as_array().unwrap();
        let ids = letters.iter().map(|letter| letter["event_id"].as_str());
        ids.map(|id| id.unwrap_or("-").to_owned()).collect()
    }
}

/// A PATH whose `relay` is the relay.
pub(crate) fn path_with_relay() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", binary("relay").parent().unwrap().display())
}

pub(crate) async fn ended(process: Process) -> Ended {
    let status = process.wait_exit().await;
    Ended {
        code: status.code(),
        output: process.output(),
    }
}

async fn open(amqp_url: &str, namespace: &str) -> Session {
    Session::open(&config(amqp_url, namespace), None).await.unwrap()
}

fn config(amqp_url: &str, namespace: &str) -> Config {
    Config {
        url: amqp_url.parse().unwrap(),
        namespace: namespace.parse().unwrap(),
        name: "relay tests".to_owned(),
        new_queue_wait: std::time::Duration::ZERO,
        max_event_bytes: relay_event::DEFAULT_MAX_EVENT_BYTES,
    }
}

pub(crate) fn ids(prefix: &str, n: usize) -> Vec<String> {
    (0..n).map(|number| format!("{prefix}-{number}")).collect()
}

/// An event as one line of JSON, with data that a careless reader would change.
pub(crate) fn line(id: &str, event_type: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/tests","type":"{event_type}","data":{{"b":1.50,"a":1e2}}}}"#
    )
}

pub(crate) fn event(id: &str, event_type: &str) -> Event {
    Event::parse(line(id, event_type).into()).unwrap()
}

/// What a relay writes into its data folder.
pub(crate) fn relay_json(url: &str) -> String {
    json!({"url": url, "metrics_url": url, "amqp_url": "amqp://localhost/%2f", "namespace": "relay", "pid": 1})
        .to_string()
}
