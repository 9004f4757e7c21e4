use relay_testkit::{Receiver, wait_until};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

/// What the gateways of journeys are told to ask for.
pub const TOKEN: &str = "a-token-of-the-journeys";

/// The relay's HTTP API, as a client sees it.
#[derive(Clone)]
pub struct Api {
    client: reqwest::Client,
    url: String,
}

/// An endpoint that was added.
#[derive(Debug, Clone)]
pub struct Added {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

impl Api {
    /// The API of a gateway at `host:port`.
    pub fn new(address: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            client,
            url: format!("http://{address}"),
        }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same as `host:port`.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// A call, to be completed and sent.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.url);
        self.client.request(method, url).bearer_auth(TOKEN)
    }

    /// Calls it.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(TOKEN);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        request.send().await.unwrap()
    }

    /// Posts an event as it is.
    pub async fn post_event(&self, content_type: &str, body: String) -> Response {
        let request = self
            .client
            .post(format!("{}/v1/events", self.url))
            .bearer_auth(TOKEN);
        request
            .header("content-type", content_type)
            .body(body)
            .send()
            .await
            .unwrap()
    }

    /// Calls it for an answer in JSON.
    pub async fn json(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let response = self.call(method, path, body).await;
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Adds an endpoint at a receiver; `settings` are merged over its URL.
    pub async fn add(&self, receiver: &Receiver, types: &[&str], settings: Value) -> Added {
        let mut body = json!({"url": receiver.url(), "types": types});
        body.as_object_mut()
            .unwrap()
            .extend(settings.as_object().cloned().unwrap_or_default());
        let added = self.json(Method::POST, "/v1/endpoints", Some(body)).await;
        let text = |field: &str| added[field].as_str().unwrap().to_owned();
        Added {
            id: text("id"),
            secret: text("secret"),
        }
    }

    /// One endpoint's view.
    pub async fn endpoint(&self, id: &str) -> Value {
        self.json(Method::GET, &format!("/v1/endpoints/{id}"), None).await
    }

    /// Changes an endpoint.
    pub async fn change(&self, id: &str, change: Value) -> Value {
        self.json(Method::PATCH, &format!("/v1/endpoints/{id}"), Some(change))
            .await
    }

    /// Removes an endpoint.
    pub async fn remove(&self, id: &str) {
        self.json(Method::DELETE, &format!("/v1/endpoints/{id}"), None)
            .await;
    }

    /// Publishes an event in shorthand and returns its id.
    pub async fn publish(&self, event_type: &str, data: Value) -> String {
        let body = json!({"type": event_type, "data": data});
        let published = self.json(Method::POST, "/v1/events", Some(body)).await;
        published["id"].as_str().unwrap().to_owned()
    }

    /// Publishes an event with an id of its own, again and again until it is accepted.
    pub async fn publish_until_accepted(&self, id: &str, event_type: &str, data: Value) {
        let body = json!({"id": id, "type": event_type, "data": data});
        wait_until("the event to be accepted", || self.offer(body.clone())).await;
    }

    /// Offers an event once: whether it was accepted, as against a 503 or no answer.
    pub async fn try_publish(&self, event_type: &str, data: Value) -> bool {
        self.offer(json!({"type": event_type, "data": data}))
            .await
            .is_ok()
    }

    /// Offers an event once; an error is a 503 or no answer.
    pub async fn offer(&self, body: Value) -> Result<(), String> {
        let request = self
            .client
            .post(format!("{}/v1/events", self.url))
            .bearer_auth(TOKEN);
        let sent = request
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await;
        match sent.map(|response| response.status().as_u16()) {
            Ok(202) => Ok(()),
            Ok(503) => Err("503".to_owned()),
            Ok(other) => panic!("{body}: {other}"),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until a process says that it is ready.
    pub async fn wait_until_ready(&self, metrics: &str) {
        wait_until("the process to be ready", || self.readiness(metrics, 200)).await;
    }

    /// Waits until a process says that it is not ready.
    pub async fn wait_until_not_ready(&self, metrics: &str) {
        wait_until("the process not to be ready", || self.readiness(metrics, 503)).await;
    }

    async fn readiness(&self, metrics: &str, wanted: u16) -> Result<(), String> {
        let answer = self
            .client
            .get(format!("http://{metrics}/ready"))
            .send()
            .await
            .map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        if status == wanted {
            Ok(())
        } else {
            Err(format!("{status} {}", answer.text().await.unwrap_or_default()))
        }
    }

    /// Waits until a process says this among its metrics.
    pub async fn wait_for_metric(&self, metrics: &str, line: &str) {
        wait_until(line, || async {
            let text = self.metrics(metrics).await;
            if text.contains(line) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    /// A process's metrics as text.
    pub async fn metrics(&self, metrics: &str) -> String {
        self.client
            .get(format!("http://{metrics}/metrics"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }
}
