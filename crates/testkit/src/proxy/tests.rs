use std::time::Duration;

use super::*;
use crate::wait::wait_until;

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = io::copy(&mut from, &mut to).await;
            });
        }
    });
    addr
}

async fn connected(proxy: &Proxy) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ping(&mut stream).await.unwrap(), *b"ping");
    stream
}

async fn ping(stream: &mut TcpStream) -> io::Result<[u8; 4]> {
    stream.write_all(b"ping").await?;
    let mut back = [0; 4];
    stream.read_exact(&mut back).await?;
    Ok(back)
}

async fn wait_for_connections(proxy: &Proxy, n: usize) {
    wait_until(format_args!("{n} connections"), || async {
        let open = proxy.connections();
        (open == n).then_some(()).ok_or(open)
    })
    .await;
}

#[tokio::test]
async fn bytes_and_their_end_go_through() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connected(&proxy).await;
    stream.write_all(b"last words").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"last words");
    wait_for_connections(&proxy, 0).await;
}

#[tokio::test]
async fn a_cut_resets_and_a_close_finishes_what_is_open() {
    let proxy = Proxy::start(echo().await).await;
    let (mut one, mut two) = (connected(&proxy).await, connected(&proxy).await);
    assert_eq!(proxy.connections(), 2);
    proxy.cut();
    for stream in [&mut one, &mut two] {
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    let mut three = connected(&proxy).await;
    proxy.close();
    let error = three.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    wait_for_connections(&proxy, 0).await;
}

#[tokio::test]
async fn refusing_spares_what_is_open() {
    let proxy = Proxy::start(echo().await).await;
    let mut open = connected(&proxy).await;
    proxy.refuse(true);
    let mut refused = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(ping(&mut refused).await.is_err());
    assert!(ping(&mut open).await.is_ok());
    proxy.refuse(false);
    connected(&proxy).await;
}

#[tokio::test]
async fn frozen_bytes_arrive_after_the_thaw() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connected(&proxy).await;
    proxy.freeze(true);
    stream.write_all(b"ping").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
    assert!(early.is_err(), "{early:?} came through the ice");
    assert_eq!(proxy.connections(), 1);
    proxy.freeze(false);
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, *b"ping");
}

#[tokio::test]
async fn a_frozen_connection_can_be_cut() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connected(&proxy).await;
    proxy.freeze(true);
    stream.write_all(b"ping").await.unwrap();
    proxy.cut();
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test]
async fn the_next_connection_is_cut_after_exactly_so_many_bytes_to_the_client() {
    let proxy = Proxy::start(echo().await).await;
    for bytes in [0, 3, 100_000] {
        proxy.cut_after(Toward::Client, bytes);
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(exchange(&mut stream).await, bytes);
    }
    connected(&proxy).await;
}

#[tokio::test]
async fn the_next_connection_is_cut_after_exactly_so_many_bytes_to_the_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await;
    for bytes in [0, 3, 100_000] {
        proxy.cut_after(Toward::Upstream, bytes);
        let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let (_, got) = tokio::join!(exchange(&mut client), exchange(&mut server));
        assert_eq!(got, bytes);
    }
}

/// Sends for as long as something may come, and counts the bytes that do.
async fn exchange(stream: &mut TcpStream) -> usize {
    let (mut from, mut to) = stream.split();
    let send = async {
        while to.write_all(&[7; 1000]).await.is_ok() {}
        std::future::pending().await
    };
    let receive = async {
        let mut got = 0;
        while from.read_u8().await.is_ok() {
            got += 1;
        }
        got
    };
    tokio::select! {
        got = receive => got,
        never = send => never,
    }
}

#[tokio::test]
async fn a_server_that_is_away_closes_the_client() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy = Proxy::start(gone).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(ping(&mut stream).await.is_err());
}

#[tokio::test]
async fn a_url_keeps_all_but_the_address() {
    let proxy = Proxy::start("amqp://guest:p%40ss@localhost:5672/%2f?heartbeat=5").await;
    let url = format!("amqp://guest:p%40ss@{}/%2f?heartbeat=5", proxy.addr());
    assert_eq!(proxy.url(), url);
}

#[tokio::test]
async fn dropping_it_closes_everything() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connected(&proxy).await;
    let addr = proxy.addr();
    drop(proxy);
    assert!(stream.read_u8().await.is_err());
    wait_until("the proxy's port to refuse", || async {
        TcpStream::connect(addr).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn connections_go_to_the_next_upstream_that_takes_them() {
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let (one, two) = (Proxy::start(echo().await).await, Proxy::start(echo().await).await);
    let proxy = Proxy::start_among([dead, one.addr(), two.addr()]).await;
    assert_eq!(proxy.url(), proxy.addr().to_string());
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(connected(&proxy).await);
    }
    assert!(one.connections() >= 2 && two.connections() >= 2);
    proxy.lead_to(two.addr());
    let before = one.connections();
    streams.push(connected(&proxy).await);
    assert_eq!(one.connections(), before);
}
