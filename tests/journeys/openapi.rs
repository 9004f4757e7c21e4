//! The API does what its description says, and nothing else.

mod document;
mod schema;

use std::collections::BTreeSet;

use relay_event::{Attempt, AttemptId, DeadReason, DeliveryState, ErrorClass, Event, Timestamp};
use relay_store::{NewEvent, Record};
use relay_testkit::{Receiver, shared_broker};
use relay_tests::World;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

use self::{
    document::{Body, Document, Operation, object},
    schema::Judge,
};

/// A client without the token.
fn anybody() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

/// The description, as anybody gets it.
async fn description(world: &World) -> Document {
    let url = format!("{}/v1/openapi.json", world.api.url());
    let answer = anybody().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    Document(serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// A relay in which the description's examples are.
struct Example {
    world: World,
    document: Document,
    receiver: Receiver,
    endpoint: String,
    /// Where the feed begins.
    cursor: String,
}

impl Example {
    async fn start() -> Self {
        let world = World::without_deliverer(shared_broker().await).await;
        let (document, receiver) = (description(&world).await, Receiver::start().await);
        let endpoint = world.api.add(&receiver, &["order.*"], json!({})).await.id;
        let begin = world.api.json(Method::GET, "/v1/feed", None).await;
        let cursor = text(&begin["next"]);
        let example = Self {
            world,
            document,
            receiver,
            endpoint,
            cursor,
        };
        example.record().await;
        let commit = json!({"cursor": example.cursor});
        let api = &example.world.api;
        api.json(Method::POST, "/v1/feed/billing/commit", Some(commit))
            .await;
        example
    }

    /// Puts the example event into the log, with a delivery that died.
    async fn record(&self) {
        let event = json!({
            "specversion": "1.0", "id": self.document.example_of("EventId"), "source": "/orders",
            "type": "order.created", "subject": "42", "data": {"order_id": 42},
        });
        let event = Event::parse(event.to_string().into()).unwrap();
        let now = Timestamp::now();
        let attempt = Attempt {
            id: AttemptId::generate(),
            event_id: event.id().clone(),
            event_source: event.source().to_owned(),
            event_type: event.event_type().clone(),
            published_at: Some(now),
            endpoint: self.endpoint.parse().unwrap(),
            attempt: 1,
            at: now,
            duration_ms: 83,
            first_byte_ms: Some(80),
            status: Some(500),
            error: Some(ErrorClass::Body),
            detail: Some("broke off".to_owned()),
            answer: "out of order".to_owned(),
            state: DeliveryState::Dead,
            next_at: None,
            reason: Some(DeadReason::AttemptsExhausted),
            deliverer: "here-1".to_owned(),
            hop: 0,
        };
        let event = NewEvent {
            event,
            published_at: Some(now),
            routed_to: vec![attempt.endpoint.clone()],
        };
        let store = self.world.store().await;
        let records = [Record::Event(event), Record::Attempt(attempt)];
        store.record(&records, now).await.unwrap();
    }

    /// What is made anew in every relay, in place of what stands for it in the description.
    fn real(&self, text: &str) -> String {
        text.replace(self.document.example_of("EndpointId"), &self.endpoint)
            .replace(self.document.example_of("FeedCursor"), &self.cursor)
            .replace(
                self.document.example_of("EndpointUrl"),
                &self.receiver.url().to_string(),
            )
    }

    /// The path of an operation, with all parameters that have examples.
    fn path(&self, operation: &Operation) -> String {
        let example = |parameter: &Value| {
            let example = match self.document.example(parameter)? {
                Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
                one => text(&one),
            };
            Some((text(&parameter["name"]), self.real(&example)))
        };
        let mut path = operation.path.clone();
        for parameter in operation.parameters("path") {
            let (name, value) = example(parameter).unwrap();
            path = path.replace(&format!("{{{name}}}"), &value);
        }
        let query = operation.parameters("query").into_iter().filter_map(example);
        let query: Vec<String> = query.map(|(name, value)| format!("{name}={value}")).collect();
        format!("{path}?{}", query.join("&"))
    }

    fn request(&self, operation: &Operation, path: &str, body: Option<&Body>) -> RequestBuilder {
        let mut request = self.world.api.request(operation.method.clone(), path);
        if operation.may_answer(101) {
            for (name, value) in HANDSHAKE {
                request = request.header(name, value);
            }
        }
        let Some(Body { media_type, value }) = body else {
            return request;
        };
        if media_type == "application/octet-stream" {
            return self.in_binary_mode(operation, request).body(text(value));
        }
        let body = self.real(&value.to_string());
        request.header("content-type", media_type).body(body)
    }

    /// The data of an event may be anything, and the rest of it are headers.
    fn in_binary_mode(&self, operation: &Operation, mut request: RequestBuilder) -> RequestBuilder {
        // A key stands for the id of an event that has none.
        let is_key = |parameter: &&Value| parameter["name"] == "Idempotency-Key";
        for parameter in operation.parameters("header").into_iter().filter(|p| !is_key(p)) {
            let value = self.document.example(parameter).unwrap();
            request = request.header(text(&parameter["name"]), text(&value));
        }
        request.header("content-type", "application/octet-stream")
    }

    fn operation(&self, method: Method, path: &str) -> Operation {
        let mut operations = self.document.operations().into_iter();
        let found = operations.find(|operation| operation.method == method && operation.path == path);
        found.unwrap()
    }

    /// Sends a request, and judges its answer.
    async fn call(&self, operation: &Operation, request: RequestBuilder) -> u16 {
        self.ask(operation, request).await.0
    }

    /// The same; with what came.
    async fn ask(&self, operation: &Operation, request: RequestBuilder) -> (u16, String) {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let media_type = answer.headers().get("content-type").cloned();
        let media_type = media_type.as_ref().map(|value| value.to_str().unwrap());
        let body = match media_type {
            Some("text/event-stream") => an_event(answer).await,
            _ if status == 101 => String::new(),
            _ => answer.text().await.unwrap(),
        };
        self.document.judge(operation, status, media_type, &body);
        (status, body)
    }

    /// Comes back to a stream after all that came.
    async fn come_back(&self, operation: &Operation, path: &str, came: &str) -> u16 {
        let mut ids = came.lines().filter_map(|line| line.strip_prefix("id: "));
        let last = ids.next_back();
        let request = self.request(operation, path, None);
        self.call(operation, request.header("last-event-id", last.unwrap()))
            .await
    }
}

/// The beginning of a WebSocket (RFC 6455, section 1.3).
const HANDSHAKE: [(&str, &str); 4] = [
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// What a stream says up to the end of its first event.
async fn an_event(mut stream: Response) -> String {
    let mut said = String::new();
    while !(said.contains("\ndata: ") && said.ends_with("\n\n")) {
        let chunk = stream.chunk().await.unwrap().unwrap();
        said.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    said
}

/// A string as it is, anything else as JSON.
fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// Every operation, with every example of a body, answers as it says; and each of its successes is seen.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_as_it_is_described() {
    let example = Example::start().await;
    for operation in example.document.operations() {
        let (path, bodies) = (example.path(&operation), operation.bodies());
        let none = (!operation.needs_a_body()).then_some(None);
        let mut seen = BTreeSet::new();
        for body in bodies.iter().map(Some).chain(none) {
            let request = example.request(&operation, &path, body);
            let (status, came) = example.ask(&operation, request).await;
            seen.insert(status.to_string());
            if operation.may_answer(204) && status == 200 {
                let again = example.come_back(&operation, &path, &came).await;
                seen.insert(again.to_string());
            }
        }
        let described = object(&operation.description["responses"]).keys();
        let is_success = |status: &&String| status.starts_with('2') || *status == "101";
        let successes = described.filter(is_success).cloned();
        assert_eq!(seen, successes.collect(), "{operation}");
    }
}

/// CloudEvents has null attributes treated as unset, and an event is told as it came.
#[tokio::test(flavor = "multi_thread")]
async fn null_attributes_are_described_where_they_are_taken_and_where_they_are_told() {
    let example = Example::start().await;
    let whole = json!({
        "specversion": "1.0", "id": "nulls", "source": "/orders", "type": "order.created", "subject": null,
        "time": null, "datacontenttype": null, "x": null,
    });
    let short = json!({
        "specversion": null, "id": null, "source": null, "time": null, "type": "order.created", "subject": null,
    });
    for (path, media_type, value) in [
        ("/v1/events", "application/cloudevents+json", whole.clone()),
        ("/v1/events", "application/json", short),
        (
            "/v1/batches",
            "application/cloudevents-batch+json",
            json!([whole]),
        ),
    ] {
        let publish = example.operation(Method::POST, path);
        let schema = &publish.description["requestBody"]["content"][media_type]["schema"];
        let judged = Judge(&example.document.0).judge(schema, &value);
        assert_eq!(judged, Ok(()), "{path}: {value}");
        let media_type = media_type.to_owned();
        let request = example.request(&publish, path, Some(&Body { media_type, value }));
        assert_eq!(example.call(&publish, request).await, 202, "{path}");
    }
    let now = Timestamp::now();
    let event = NewEvent {
        event: Event::parse(whole.to_string().into()).unwrap(),
        published_at: Some(now),
        routed_to: Vec::new(),
    };
    let store = example.world.store().await;
    store.record(&[Record::Event(event)], now).await.unwrap();
    let show = example.operation(Method::GET, "/v1/events/{id}");
    let request = example.request(&show, "/v1/events/nulls", None);
    let (status, came) = example.ask(&show, request).await;
    assert!(status == 200 && came.contains(r#""subject":null"#), "{came}");
}

/// A callback that is new, known and removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_is_described_where_it_is_taken_and_where_it_is_told() {
    let example = Example::start().await;
    let publish = example.operation(Method::POST, "/v1/events");
    let schema = &publish.description["requestBody"]["content"]["application/json"]["schema"];
    let judge = Judge(&example.document.0);
    let job = |callback: Value| json!({"type": "job.started", "id": "job", "subject": "job-1", "callback": callback});
    let url = example.document.example_of("EndpointUrl");
    for wrong in [json!({}), json!({"url": url, "secret": null})] {
        assert!(judge.judge(schema, &job(wrong.clone())).is_err(), "{wrong}");
    }
    let ask = async |callback: Value| {
        let value = job(callback);
        assert_eq!(judge.judge(schema, &value), Ok(()), "{value}");
        let media_type = "application/json".to_owned();
        let request = example.request(&publish, "/v1/events", Some(&Body { media_type, value }));
        let (status, came) = example.ask(&publish, request).await;
        assert_eq!(status, 202, "{came}");
        serde_json::from_str::<Value>(&came).unwrap()["callback"].clone()
    };
    let new = ask(json!({"url": url})).await;
    assert!(new["secret"].is_string(), "{new}");
    let secret = example.document.example_of("Secret");
    let known = json!({"url": url, "secret": secret, "expires_at": "2099-12-31T00:00:00Z"});
    assert_eq!(ask(known.clone()).await["expires_at"], new["expires_at"]);
    example.world.api.remove(new["id"].as_str().unwrap()).await;
    assert_eq!(ask(known).await["removed"], true);
}

/// What a client may do wrong is answered as described too.
#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_described() {
    let example = Example::start().await;
    for operation in example.document.operations() {
        let path = example.path(&operation);
        let body = operation.bodies().into_iter().next();
        if operation.may_answer(401) {
            let url = format!("{}{path}", example.world.api.url());
            let request = anybody().request(operation.method.clone(), url);
            assert_eq!(example.call(&operation, request).await, 401, "{operation}");
        }
        if operation.may_answer(404) {
            let nowhere = operation
                .path
                .replace("{id}", "ep_00000000000000000000000000000000")
                .replace("{consumer}", "nobody");
            let request = example.request(&operation, &nowhere, body.as_ref());
            assert_eq!(example.call(&operation, request).await, 404, "{operation}");
        }
        if body.is_some() {
            let large = match &*operation.path {
                "/v1/batches" => format!("[{}]", ["0"; 1_001].join(",")),
                _ => format!(r#"{{"x": "{}"}}"#, "x".repeat(300_000)),
            };
            for (media_type, body, status) in [
                ("image/png", "?", 415),
                ("application/json", "{", 400),
                ("application/json", &*large, 413),
            ] {
                let request = example.request(&operation, &path, None);
                let request = request.header("content-type", media_type).body(body.to_owned());
                assert_eq!(example.call(&operation, request).await, status, "{operation}");
            }
        } else if operation.may_answer(400) {
            let request = example.request(&operation, &format!("{path}&nothing=1"), None);
            assert_eq!(example.call(&operation, request).await, 400, "{operation}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_sound() {
    let world = World::without_deliverer(shared_broker().await).await;
    let document = description(&world).await;
    let json = &document.0;
    assert!(json["openapi"].as_str().unwrap().starts_with("3.1."));
    assert!(json["info"]["title"].is_string() && json["info"]["version"].is_string());
    document.walk(&mut |path, members| {
        if let Some(Value::String(reference)) = members.get("$ref") {
            let target = reference
                .strip_prefix('#')
                .and_then(|pointer| json.pointer(pointer));
            assert!(target.is_some(), "{path}: {reference} leads nowhere");
        }
    });
    let judge = Judge(json);
    for (name, schema) in object(&json["components"]["schemas"]) {
        for example in schema["examples"].as_array().into_iter().flatten() {
            assert_eq!(judge.judge(schema, example), Ok(()), "{name}");
        }
    }
    let (mut names, mut open, mut readable) = (BTreeSet::new(), Vec::new(), Vec::new());
    for operation in document.operations() {
        is_sound(&document, &operation);
        let name = text(&operation.description["operationId"]);
        assert!(names.insert(name), "{operation}");
        let needs = &operation.description["security"];
        if *needs == json!([{"token": []}, {"access_token": []}]) {
            readable.push(operation.to_string());
        } else if *needs != json!([{"token": []}]) {
            open.push(operation.to_string());
        }
    }
    assert_eq!(json["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    assert_eq!(
        json["components"]["securitySchemes"]["access_token"]["in"],
        "query"
    );
    assert_eq!(open, ["GET /v1/openapi.json"]);
    readable.sort();
    let paths = ["events/{id}", "events/{id}/stream", "feed", "socket", "stream"];
    assert_eq!(readable, paths.map(|path| format!("GET /v1/{path}")));
}

fn is_sound(document: &Document, operation: &Operation) {
    let Operation {
        path, description, ..
    } = operation;
    assert!(description["summary"].is_string(), "{operation}");
    let tags = document.0["tags"].as_array().unwrap();
    assert!(
        tags.iter().any(|tag| tag["name"] == description["tags"][0]),
        "{operation}"
    );
    for parameter in operation.parameters("path") {
        let place = format!("{{{}}}", text(&parameter["name"]));
        assert!(
            path.contains(&place) && parameter["required"] == true,
            "{operation}"
        );
    }
    assert_eq!(
        path.matches('{').count(),
        operation.parameters("path").len(),
        "{operation}"
    );
    for answer in object(&description["responses"]).values() {
        assert!(answer["description"].is_string(), "{operation}: {answer}");
    }
    let judge = Judge(&document.0);
    for parameter in description["parameters"].as_array().into_iter().flatten() {
        assert!(parameter["description"].is_string(), "{operation}: {parameter}");
        if let Some(example) = document.example(parameter) {
            assert_eq!(
                judge.judge(&parameter["schema"], &example),
                Ok(()),
                "{operation}: {parameter}"
            );
        }
    }
    for Body { media_type, value } in operation.bodies() {
        let schema = &description["requestBody"]["content"][&media_type]["schema"];
        assert_eq!(judge.judge(schema, &value), Ok(()), "{operation}: {media_type}");
    }
}
