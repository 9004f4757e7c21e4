//! A running gateway, and what its tests look at.

use std::time::Duration;

use clap::Parser;
use relay_broker::{Broker, Queue, Session};
use relay_event::{EndpointId, Event};
use relay_gateway::{Config, Limits};
use relay_service::{Context, Health};
use relay_store::{Store, StoreUrl};
use relay_testkit::{shared_broker, wait_until};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Relay {
    pub(crate) url: String,
    pub(crate) config: Config,
    pub(crate) context: Context,
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) running: JoinHandle<anyhow::Result<()>>,
    client: reqwest::Client,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The body of a problem document, which this must be.
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        let problem = self.json();
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(problem["type"], format!("urn:event-relay:problem:{kind}"));
        assert_eq!(problem["status"], status);
        assert!(
            problem["title"].is_string() && problem["detail"].is_string(),
            "{problem}"
        );
        problem
    }
}

#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    limits: Limits,
}

/// The settings of a test, with a namespace and a store of its own.
pub(crate) fn config(amqp_url: &str, folder: &TempDir) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        token: None,
        cors_origins: Vec::new(),
        amqp_url: amqp_url.parse().unwrap(),
        namespace: relay_testkit::namespace().parse().unwrap(),
        store: StoreUrl::sqlite(folder.path().join("relay.db")),
        max_event_bytes: relay_event::DEFAULT_MAX_EVENT_BYTES,
        max_batch_bytes: 4 * 1024 * 1024,
        source: "/relay".to_owned(),
        confirm_timeout: Duration::from_secs(10),
        limits: Defaults::parse_from(["defaults"]).limits,
    }
}

impl Relay {
    /// With the broker that all tests share, and ready.
    pub(crate) async fn start(folder: &TempDir) -> Self {
        let relay = Self::start_with(config(shared_broker().await, folder)).await;
        relay.until_ready().await;
        relay
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        relay_service::install_crypto();
        let store = Store::open(&config.store).await.unwrap();
        let broker = Broker::start(config.broker("relay-gateway"), None);
        let listener = config.bind().await.unwrap();
        let address = listener.local_addr().unwrap();
        let context = Context {
            registry: prometheus::Registry::new(),
            health: Health::default(),
            shutdown: CancellationToken::new(),
            metrics_address: address,
        };
        let program = {
            let (config, context) = (config.clone(), context.clone());
            let (broker, store) = (broker.clone(), store.clone());
            async move { relay_gateway::run(&config, &context, &broker, &store, listener).await }
        };
        Self {
            url: format!("http://{address}"),
            config,
            context,
            broker,
            store,
            running: tokio::spawn(program),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    pub(crate) async fn until_ready(&self) {
        wait_until("the gateway to be ready", || async {
            // Before it has begun, nothing is needed yet.
            !self.context.registry.gather().is_empty() && self.context.health.is_ready()
        })
        .await;
    }

    pub(crate) async fn session(&self) -> Session {
        self.broker.session().await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await.unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Value) -> Answer {
        self.call_as(method, path, "application/json", body.to_string())
            .await
    }

    pub(crate) async fn call_as(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = self.request(method, path);
        self.send(request.header("content-type", content_type).body(body))
            .await
    }

    /// Adds an endpoint, and answers with its id.
    pub(crate) async fn add(&self, types: &[&str]) -> String {
        let body = json!({"url": "https://example.com/hook", "types": types});
        let added = self.call(Method::POST, "/v1/endpoints", body).await;
        assert_eq!(added.status, 201, "{added:?}");
        added.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn patch(&self, id: &str, body: Value) -> Answer {
        self.call(Method::PATCH, &format!("/v1/endpoints/{id}"), body)
            .await
    }

    pub(crate) async fn delete(&self, id: &str) -> Answer {
        self.send(self.request(Method::DELETE, &format!("/v1/endpoints/{id}")))
            .await
    }

    /// Publishes events of these types.
    pub(crate) async fn publish(&self, types: &[&str]) {
        for event_type in types {
            let body = json!({"type": event_type});
            let published = self.call(Method::POST, "/v1/events", body).await;
            assert_eq!(published.status, 202, "{published:?}");
        }
    }

    /// The number of messages that are ready in a queue.
    pub(crate) async fn waiting(&self, queue: Queue) -> u32 {
        let look = || async { self.session().await.depth(queue).await };
        let depth = wait_until("a look at the queue", look).await;
        depth.unwrap().ready
    }

    /// The events in a queue, which must be so many, with the endpoints that they are addressed to. They stay there.
    pub(crate) async fn look_into(&self, queue: Queue, count: u32) -> Vec<(Event, Option<EndpointId>)> {
        assert_eq!(self.waiting(queue).await, count);
        let session = self.session().await;
        let mut consumer = session.consume(queue, 1_000).await.unwrap();
        let mut events = Vec::new();
        for _ in 0..count {
            let mut taken = consumer.next().await.unwrap();
            let received = taken.read(&session, 10_000_000);
            events.push((received.event.unwrap(), received.endpoint));
            taken.give_back().await;
        }
        consumer.stop().await;
        events
    }

    /// The value of a metric, by its name and labels as they are written.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let families = self.context.registry.gather();
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no {series} in {text}"))
            .parse()
            .unwrap()
    }
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}
