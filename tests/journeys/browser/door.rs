//! A reverse proxy before a gateway, of the sort that lets no stream through.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// What is said in place of a stream; pages may see it.
const BAD_GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\naccess-control-allow-origin: *\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// Listens on a free loopback port, and ends when dropped.
pub(crate) struct Door {
    pub(crate) url: String,
    streams: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Door {
    /// Before a gateway at this URL.
    pub(crate) async fn start(gateway: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let streams = watch::Sender::new(true);
        let gateway = gateway.trim_start_matches("http://").to_owned();
        let serving = tokio::spawn(serve(listener, gateway, streams.clone()));
        Self {
            url,
            streams,
            serving,
        }
    }

    /// Ends all streams, and takes no more.
    pub(crate) fn refuse_streams(&self) {
        self.streams.send_replace(false);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, gateway: String, streams: watch::Sender<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(pass(client, gateway.clone(), streams.subscribe()));
    }
}

/// The first request of a connection says what it is for.
async fn pass(mut client: TcpStream, gateway: String, mut streams: watch::Receiver<bool>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let is_stream = head.starts_with(b"GET /v1/stream?");
    if is_stream && !*streams.borrow() {
        return client.write_all(BAD_GATEWAY.as_bytes()).await;
    }
    let mut server = TcpStream::connect(gateway).await?;
    server.write_all(&head).await?;
    tokio::select! {
        passed = copy_bidirectional(&mut client, &mut server) => passed.map(drop),
        _ = streams.wait_for(|open| !open), if is_stream => Ok(()),
    }
}
