//! A client of the gateway that costs as little as it can: requests from one text, one after the other
//! on each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use relay_tests::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{
    event::{EventBytes, Events},
    numbers,
};

/// Connections to the gateway, each with one request at a time.
const CONNECTIONS: usize = 64;

const MAX_HEADERS: usize = 32;

/// Publishes all, so many in a request.
pub(crate) async fn publish(world: &World, events: &Events, batch: usize) {
    let (address, authorization) = (world.api.address(), authorization(world));
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut client = Client::connect(address, &authorization, batch).await;
        let (events, next) = (*events, Arc::clone(&next));
        connections.spawn(async move {
            while let Some(part) = events.part(next.fetch_add(batch, Ordering::Relaxed), batch) {
                client.post(&part).await;
            }
        });
    }
    connections.join_all().await;
}

/// Asks for the same so many times, on as many connections, and returns the answers a second.
pub(crate) async fn ask(world: &World, count: usize, path: &str, headers: &str, code: u16) -> f64 {
    let request = get(world, path, headers);
    let address = world.api.address();
    let mut connections = JoinSet::new();
    let began = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(address).await;
        let request = request.clone();
        connections.spawn(async move {
            let mut answer = Vec::new();
            for _ in 0..count.div_ceil(CONNECTIONS) {
                stream.write_all(request.as_bytes()).await.unwrap();
                answered(&mut stream, &mut answer, code).await;
            }
        });
    }
    connections.join_all().await;
    numbers::rate(count, began.elapsed())
}

/// A request for this, with more lines of headers.
pub(crate) fn get(world: &World, path: &str, headers: &str) -> String {
    let (address, authorization) = (world.api.address(), authorization(world));
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: {authorization}\r\n{headers}\r\n")
}

pub(crate) async fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads the whole of an answer.
async fn answered(stream: &mut TcpStream, answer: &mut Vec<u8>, code: u16) {
    answer.clear();
    while !is_whole(answer, code) {
        let read = stream.read_buf(answer).await.unwrap();
        assert_ne!(read, 0, "the gateway hung up");
    }
}

fn authorization(world: &World) -> String {
    let request = world.api.request(reqwest::Method::POST, "/v1/events");
    let request = request.build().unwrap();
    let value = request.headers().get("authorization").unwrap();
    value.to_str().unwrap().to_owned()
}

struct Client {
    stream: TcpStream,
    head: String,
    batched: bool,
    event: EventBytes,
    body: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    async fn connect(address: &str, authorization: &str, batch: usize) -> Self {
        let stream = connect(address).await;
        let batched = batch > 1;
        let kind = if batched {
            "cloudevents-batch"
        } else {
            "cloudevents"
        };
        Self {
            stream,
            head: format!(
                "POST /v1/events HTTP/1.1\r\nhost: {address}\r\nauthorization: {authorization}\r\n\
                 content-type: application/{kind}+json\r\ncontent-length: "
            ),
            batched,
            event: EventBytes::new(),
            body: Vec::new(),
            answer: Vec::new(),
        }
    }

    async fn post(&mut self, events: &Events) {
        self.body.clear();
        for (number, kind) in events.iter() {
            if self.batched {
                self.body.push(if self.body.is_empty() { b'[' } else { b',' });
            }
            self.body.extend(self.event.write(number, kind));
        }
        if self.batched {
            self.body.push(b']');
        }
        let mut request = format!("{}{}\r\n\r\n", self.head, self.body.len()).into_bytes();
        request.extend(&self.body);
        self.stream.write_all(&request).await.unwrap();
        answered(&mut self.stream, &mut self.answer, 202).await;
    }
}

/// Whether the whole of an answer is there.
fn is_whole(answer: &[u8], code: u16) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(answer).unwrap() else {
        return false;
    };
    assert_eq!(response.code, Some(code), "{}", String::from_utf8_lossy(answer));
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"));
    // A 304 has no body.
    let length = length.map_or("0", |length| std::str::from_utf8(length.value).unwrap());
    answer.len() >= head + length.parse::<usize>().unwrap()
}
