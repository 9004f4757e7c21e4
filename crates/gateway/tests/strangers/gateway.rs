//! A gateway process, and raw connections to it.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use relay_testkit::{Process, namespace, shared_broker, wait_until, wait_until_within};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub(crate) const TOKEN: &str = "a-token-that-nobody-guesses-in-a-test";

/// The longest that a test waits for an answer before it says that none came.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway as its own process.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    process: Process,
    _folder: TempDir,
}

impl Gateway {
    /// Starts a gateway with these settings, and waits until it is ready.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = format!("sqlite:{}", folder.path().join("relay.db").display());
        let namespace = namespace();
        let always = [
            ("RELAY_AMQP_URL", shared_broker().await),
            ("RELAY_NAMESPACE", &namespace),
            ("RELAY_STORE_URL", &store),
            ("RELAY_LISTEN", "127.0.0.1:0"),
            ("RELAY_METRICS_LISTEN", "127.0.0.1:0"),
            ("RELAY_LOG_FORMAT", "json"),
            ("RELAY_NEW_QUEUE_WAIT", "0s"),
            ("RELAY_TOKEN", TOKEN),
        ];
        let program = Path::new(env!("CARGO_BIN_EXE_relay-gateway"));
        let process = Process::spawn_path(program, &[&always[..], settings].concat(), &[]);
        let address = said(&process, "taking requests", "address").await;
        let metrics = said(&process, "starts", "metrics").await;
        let gateway = Self {
            address,
            metrics,
            process,
            _folder: folder,
        };
        wait_until("the gateway to be ready", || async {
            gateway.admin("/ready").await.starts_with("HTTP/1.1 200")
        })
        .await;
        gateway
    }

    /// A new connection that has sent this.
    pub(crate) async fn connect(&self, first: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A refused connection may be closed already.
        let _ = stream.write_all(first).await;
        stream
    }

    /// The whole answer to a request of its own connection.
    pub(crate) async fn answer(&self, request: &[u8]) -> String {
        rest(self.connect(request).await).await
    }

    /// Publishes an event with the token over a new connection, and returns the answer.
    pub(crate) async fn publish(&self) -> String {
        self.answer(&publishing(TOKEN, br#"{"type":"a.b"}"#)).await
    }

    /// The answer of the address for operating.
    pub(crate) async fn admin(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(stream).await
    }

    /// The value of a metric, by its name and labels as they are written.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.admin("/metrics").await;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        value.parse().ok()
    }

    /// The times that a limit was reached.
    pub(crate) async fn limited(&self, limit: &str) -> f64 {
        let series = format!(r#"relay_http_limited_total{{limit="{limit}",server="gateway"}}"#);
        let value = self.metric(&series).await;
        value.unwrap_or_else(|| panic!("no {series}"))
    }

    /// The number of files that it has open.
    pub(crate) fn files(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.process.pid());
        std::fs::read_dir(folder).unwrap().count()
    }

    /// The memory it has, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line.unwrap().trim_end_matches("kB").trim().parse().unwrap();
        kib << 10
    }

    /// Changes a limit of the process; `limit` is an option of `prlimit`.
    pub(crate) fn limit(&self, limit: &str) {
        let pid = self.process.pid().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, limit]).status();
        assert!(status.unwrap().success(), "{limit}");
    }
}

/// An address that the process logged.
async fn said(process: &Process, line: &str, field: &str) -> SocketAddr {
    let line = process.wait_for_line(|said| said.contains(line)).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let value = line.get(field).or_else(|| line["fields"].get(field));
    value.unwrap().as_str().unwrap().parse().unwrap()
}

/// A request that publishes, whose connection ends with it.
pub(crate) fn publishing(token: &str, body: &[u8]) -> Vec<u8> {
    let mut request = head("POST", "/v1/events", token, body.len(), "connection: close\r\n");
    request.extend_from_slice(body);
    request
}

/// The head of a request with a body of so many bytes.
pub(crate) fn head(method: &str, path: &str, token: &str, length: usize, more: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{more}\r\n"
    )
    .into_bytes()
}

/// The bytes that come until the end of a connection. A connection that is reset has ended.
pub(crate) async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut text)).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(ended.is_ok(), "still open after {PATIENCE:?}, with {text:?}");
    text
}

/// The head of an answer, and nothing after it.
pub(crate) async fn answered(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, stream.read_u8()).await;
        let byte = byte.unwrap_or_else(|_| panic!("no answer but {:?}", String::from_utf8_lossy(&text)));
        match byte {
            Ok(byte) => text.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&text)),
        }
    }
    String::from_utf8(text).unwrap()
}

/// Waits until a gateway publishes again.
pub(crate) async fn until_published(gateway: &Gateway) {
    wait_until_within(PATIENCE, "an event to be published", || async {
        let answer = gateway.publish().await;
        answer.starts_with("HTTP/1.1 202").then_some(()).ok_or(answer)
    })
    .await;
}
