//! Clients that come back after what they got last, whatever is done to them. What they get is read by
//! libraries that are nobody's here.

use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use relay_testkit::wait_until_within;
use relay_tests::{Api, TOKEN};
use reqwest::{Method, Response};
use serde_json::Value;
use sse_stream::SseStream;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

use super::{Item, OUTAGE, item, items, next};

#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Stream,
    Poll,
    Socket,
}

/// A client that reads the whole feed from its start, until dropped.
pub(super) struct Reader {
    got: Arc<Mutex<Vec<Item>>>,
    reading: JoinHandle<()>,
}

impl Reader {
    pub(super) fn start(api: &Api, way: Way) -> Self {
        let got = Arc::<Mutex<Vec<Item>>>::default();
        let mut place = Place {
            api: api.clone(),
            after: "start".to_owned(),
            got: Arc::clone(&got),
        };
        let reading = tokio::spawn(async move {
            loop {
                match way {
                    Way::Stream => place.stream().await,
                    Way::Poll => place.poll().await,
                    Way::Socket => place.socket().await,
                }
            }
        });
        Self { got, reading }
    }

    pub(super) fn count(&self) -> usize {
        assert!(!self.reading.is_finished(), "the client goes on for ever");
        self.got.lock().unwrap().len()
    }

    pub(super) fn got(&self) -> Vec<Item> {
        self.got.lock().unwrap().clone()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// How far a client has come.
struct Place {
    api: Api,
    after: String,
    got: Arc<Mutex<Vec<Item>>>,
}

impl Place {
    /// Reads a stream until it breaks.
    async fn stream(&mut self) {
        let last = Some(self.after.as_str()).filter(|after| *after != "start");
        let response = wait_until_within(OUTAGE, "a stream", || {
            asked(&self.api, "/v1/stream?after=start", last)
        });
        let mut blocks = blocks(response.await);
        while let Some(Ok(block)) = blocks.next().await {
            let id = block.id.unwrap();
            if let Some(event) = block.data {
                let event: Value = serde_json::from_str(&event).unwrap();
                assert_eq!(block.event.as_deref(), event["type"].as_str());
                let event = event["id"].as_str().unwrap().to_owned();
                self.got.lock().unwrap().push((id.clone(), event));
            }
            self.after = id;
        }
    }

    /// Reads a page, if the answer comes whole.
    async fn poll(&mut self) {
        let path = format!("/v1/feed?limit=1000&wait=30s&after={}", self.after);
        let response = wait_until_within(OUTAGE, "a page", || asked(&self.api, &path, None)).await;
        let Ok(text) = response.text().await else {
            return;
        };
        let page: Value = serde_json::from_str(&text).unwrap();
        self.got.lock().unwrap().extend(items(&page));
        self.after = next(&page);
    }

    /// Reads a socket until it breaks.
    async fn socket(&mut self) {
        let path = format!("/v1/socket?after={}", self.after);
        let mut socket = wait_until_within(OUTAGE, "a socket", || async {
            socket(&self.api, &path).await.map_err(|error| error.to_string())
        })
        .await;
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else {
                continue;
            };
            let told: Value = serde_json::from_str(&text).unwrap();
            if told.get("event").is_some() {
                self.got.lock().unwrap().push(item(&told));
            }
            self.after = told["cursor"].as_str().unwrap().to_owned();
        }
    }
}

/// An answer that is none of an outage.
async fn asked(api: &Api, path: &str, last_event_id: Option<&str>) -> Result<Response, String> {
    let mut request = api.request(Method::GET, path);
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let response = request.send().await.map_err(|error| error.to_string())?;
    match response.status().as_u16() {
        200 => Ok(response),
        503 => Err("503".to_owned()),
        other => panic!("{path}: {other} {}", response.text().await.unwrap()),
    }
}

/// A stream from this place on.
pub(super) async fn stream(api: &Api, path: &str, last_event_id: Option<&str>) -> SseStream<reqwest::Body> {
    blocks(asked(api, path, last_event_id).await.unwrap())
}

fn blocks(response: Response) -> SseStream<reqwest::Body> {
    SseStream::new(reqwest::Body::from(response))
}

/// The next event of a stream.
pub(super) async fn next_event(stream: &mut SseStream<reqwest::Body>) -> Value {
    loop {
        if let Some(event) = stream.next().await.unwrap().unwrap().data {
            return serde_json::from_str(&event).unwrap();
        }
    }
}

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(super) async fn socket(api: &Api, path: &str) -> Result<Socket, Error> {
    let url = format!("ws://{}{path}", api.address());
    let mut request = url.into_client_request().unwrap();
    let token = format!("Bearer {TOKEN}").parse().unwrap();
    request.headers_mut().insert("authorization", token);
    connect_async(request).await.map(|(socket, _)| socket)
}
