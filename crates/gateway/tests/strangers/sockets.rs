//! WebSockets (RFC 6455): who may open one, and how one ends that breaks the rules.

use relay_testkit::wait_until;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::gateway::{Gateway, TOKEN, answered, head};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn handshake(version: &str, key: &str) -> String {
    format!(
        "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: {version}\r\nsec-websocket-key: {key}\r\n"
    )
}

/// An open socket.
async fn open(gateway: &Gateway) -> TcpStream {
    let request = head("GET", "/v1/socket?after=now", TOKEN, 0, &handshake("13", KEY));
    let mut stream = gateway.connect(&request).await;
    let answer = answered(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    // The example of RFC 6455, section 1.3.
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    stream
}

/// A frame as a client sends it: masked, with a mask that changes nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
        long => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The code of the Close frame that comes, after frames of other kinds.
async fn closed(stream: &mut TcpStream) -> u16 {
    let reading = async {
        loop {
            let mut start = [0; 2];
            stream.read_exact(&mut start).await.unwrap();
            let mut payload = vec![0; usize::from(start[1] & 0x7f)];
            assert!(payload.len() < 126, "no frame of these is long");
            stream.read_exact(&mut payload).await.unwrap();
            if start[0] == 0x88 {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    };
    let closed = timeout(std::time::Duration::from_secs(60), reading).await;
    closed.expect("no close within a minute")
}

#[tokio::test]
async fn a_handshake_that_cannot_succeed_says_what_would() {
    let gateway = Gateway::start(&[]).await;
    let ask = async |more: String| {
        let more = format!("{more}connection: close\r\n");
        gateway.answer(&head("GET", "/v1/socket", TOKEN, 0, &more)).await
    };
    for version in ["8", "12", "14", ""] {
        let answer = ask(handshake(version, KEY)).await;
        assert!(answer.starts_with("HTTP/1.1 426"), "{version}: {answer}");
        assert!(answer.contains("sec-websocket-version: 13"), "{answer}");
    }
    let answer = ask(String::new()).await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    assert!(answer.contains("upgrade: websocket"), "{answer}");
    for key in [
        "",
        "a",
        "AAAA",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZSE=",
    ] {
        let answer = ask(handshake("13", key)).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{key}: {answer}");
    }
}

#[tokio::test]
async fn each_violation_is_named_by_the_code_of_a_close() {
    let gateway = Gateway::start(&[]).await;
    let mut unmasked = frame(0x81, b"");
    unmasked.truncate(2);
    unmasked[1] = 0;
    let large = frame(0x82, &[0; 60_000]);
    let fragmented = [frame(0x01, &[b'a'; 3_000]), frame(0x80, &[b'a'; 3_000])].concat();
    for (what, sent, code) in [
        ("unmasked", unmasked, 1002),
        ("reserved bits", frame(0xc1, b"a"), 1002),
        ("an unknown opcode", frame(0x83, b"a"), 1002),
        ("an unknown control opcode", frame(0x8b, b"a"), 1002),
        ("a fragmented ping", frame(0x09, b"a"), 1002),
        ("a long ping", frame(0x89, &[b'a'; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"a"), 1002),
        (
            "text within fragments",
            [frame(0x01, b"a"), frame(0x81, b"a")].concat(),
            1002,
        ),
        ("a close of one byte", frame(0x88, b"a"), 1002),
        (
            "a close with a forbidden code",
            frame(0x88, &1005u16.to_be_bytes()),
            1002,
        ),
        ("text that is not UTF-8", frame(0x81, b"\xff"), 1007),
        ("a close that is not UTF-8", frame(0x88, b"\x03\xe8\xff"), 1007),
        ("too large a message", large, 1009),
        ("too large a message in fragments", fragmented, 1009),
        ("an ordinary close", frame(0x88, &1000u16.to_be_bytes()), 1000),
    ] {
        let mut stream = open(&gateway).await;
        stream.write_all(&sent).await.unwrap();
        assert_eq!(closed(&mut stream).await, code, "{what}");
    }
    let series = r#"relay_feed_followers{how="socket"}"#;
    wait_until("all of them to be gone", || async {
        gateway.metric(series).await == Some(0.0)
    })
    .await;
}

#[tokio::test]
async fn a_ping_is_answered() {
    let gateway = Gateway::start(&[]).await;
    let mut stream = open(&gateway).await;
    stream.write_all(&frame(0x89, b"there?")).await.unwrap();
    let mut pong = [0; 8];
    stream.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"\x8a\x06there?");
}

#[tokio::test]
async fn a_flood_of_frames_is_closed() {
    let gateway = Gateway::start(&[]).await;
    let pieces = [frame(0x01, b"a"), frame(0x00, b"").repeat(100_000)].concat();
    for flood in [
        frame(0x89, b"a").repeat(100),
        frame(0x81, b"a").repeat(100),
        pieces,
    ] {
        let mut stream = open(&gateway).await;
        stream.write_all(&flood).await.unwrap();
        assert_eq!(closed(&mut stream).await, 1008);
    }
    assert_eq!(gateway.limited("socket_frames").await, 3.0);
}

/// The largest numbers are as good as any.
#[tokio::test]
async fn a_socket_opens_under_the_largest_limits() {
    let most = usize::MAX.to_string();
    let settings = [("RELAY_SOCKET_FRAMES", &*most), ("RELAY_UNSENT_BYTES", &most)];
    let gateway = Gateway::start(&settings).await;
    let mut stream = open(&gateway).await;
    stream.write_all(&frame(0x89, b"there?")).await.unwrap();
    let mut pong = [0; 8];
    stream.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"\x8a\x06there?");
}

/// A client that reads nothing answers nothing, however little is sent to it.
#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed() {
    let gateway = Gateway::start(&[("RELAY_UNSENT_TIMEOUT", "1s")]).await;
    let mut stream = open(&gateway).await;
    assert_eq!(closed(&mut stream).await, 1008);
    assert_eq!(gateway.limited("unsent").await, 1.0);
}

/// Pongs that nobody reads gather nowhere.
#[tokio::test]
async fn pings_whose_pongs_are_not_read_take_no_memory() {
    let gateway = Gateway::start(&[("RELAY_SOCKET_FRAMES", "1000000000")]).await;
    let mut stream = open(&gateway).await;
    let before = gateway.memory();
    let pings = frame(0x89, &[b'a'; 125]).repeat(500);
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(&pings).await.is_ok() {
        sent += pings.len();
    }
    let after = gateway.memory();
    assert!(after < before + (8 << 20), "{before} bytes, then {after}");
    drop(stream);
}
