//! The ways in which a receiver goes wrong, and what an attempt there says of each.

use std::time::Duration;

use relay_testkit::{Answer, Then};

use Comes::{Answered, Failed, Lost};
use Way::{Answers, Greets, Https, Narrow, Refuses, Unread};

/// What a receiver does.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// It is not there.
    Refuses,
    /// It reads the request, and answers so.
    Answers(Answer),
    /// It answers so without reading the request.
    Unread(Vec<u8>, Then),
    /// The same, and its window is small.
    Narrow(Vec<u8>, Then),
    /// It says so before it is asked.
    Greets(Vec<u8>, Then),
    /// It is asked for TLS, and answers so.
    Https(Vec<u8>, Then),
}

/// What every attempt there comes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Comes {
    /// An answer with this status.
    Answered(u16),
    /// An error of this class, with the status if one came, and these words.
    Failed(&'static str, Option<u16>, &'static str),
    /// An answer with this status, or the reset that overtook it.
    Lost(u16),
}

/// A name, what is done, and what comes of it.
pub(super) type Case = (&'static str, Way, Comes);

const RESET: Comes = Failed("reset", None, "Connection reset by peer");
const ENDED: Comes = Failed("reset", None, "connection closed before message completed");
const SILENT: Comes = Failed("timeout", None, "no answer within 3 s");
const UNENDED: Comes = Failed("timeout", Some(200), "the answer did not end within 3 s");
const TOO_LARGE: Comes = Failed("protocol", None, "message head is too large");
const BAD_VERSION: Comes = Failed("protocol", None, "invalid HTTP version parsed");
const BAD_STATUS: Comes = Failed("protocol", None, "invalid HTTP status-code parsed");
const BAD_HEADER: Comes = Failed("protocol", None, "invalid HTTP header parsed");
const BAD_LENGTH: Comes = Failed("protocol", None, "invalid content-length parsed");
const NO_CHUNK: Comes = Failed("body", Some(200), "chunk size");
const SHORT: Comes = Failed("body", Some(200), "end of file before message length reached");

const OK: &str = "HTTP/1.1 200 OK\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const CONTINUE: &str = "HTTP/1.1 100 \r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 \r\nlink: x\r\n\r\n";
const REFUSAL: &[u8] = b"HTTP/1.1 413 \r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const BANNER: &[u8] = b"220 mail ready\r\n";

/// What has an end, or waits for one.
pub(super) fn finite() -> Vec<Case> {
    [
        connections(),
        silences(),
        heads(),
        statuses(),
        bodies(),
        unread(),
        handshakes(),
    ]
    .concat()
}

/// What goes on as fast as it is read.
pub(super) fn endless() -> Vec<Case> {
    let chunks = format!("{CHUNKED}1;");
    let trailers = format!("{CHUNKED}0\r\n");
    let huge = head("content-length: 9223372036854775807");
    let handshake = b"\x16\x03\x03\x40\0".to_vec();
    let too_much = |words| Failed("body", Some(200), words);
    vec![
        ("headers", Answers(Answer::EndlessHeaders), TOO_LARGE),
        ("a header", on(format!("{OK}x: "), "x"), TOO_LARGE),
        ("a status line", on("HTTP/1.1 200 ", "x"), TOO_LARGE),
        ("empty lines", on("", "\r\n"), TOO_LARGE),
        ("100s", on("", CONTINUE), SILENT),
        ("103s", on("", HINTS), SILENT),
        ("a body with a length", on(huge, "x"), Answered(200)),
        (
            "a body without a length",
            on("HTTP/1.0 200 \r\n\r\n", "x"),
            Answered(200),
        ),
        ("chunks", Answers(Answer::EndlessBody), Answered(200)),
        (
            "a chunk extension",
            on(chunks, "x"),
            too_much("chunk extensions over limit"),
        ),
        (
            "trailers",
            on(trailers, "x: and more\r\n"),
            too_much("chunk trailers"),
        ),
        (
            "a handshake",
            Https(handshake, Then::endless(vec![1; 16 * 1024])),
            Failed("tls", None, "what came is no TLS (HandshakePayloadTooLarge)"),
        ),
    ]
}

fn raw(text: impl AsRef<str>, then: Then) -> Way {
    Answers(Answer::raw(text.as_ref().as_bytes().to_vec(), then))
}

fn stay(text: impl AsRef<str>) -> Way {
    raw(text, Then::Stay)
}

fn close(text: impl AsRef<str>) -> Way {
    raw(text, Then::Close)
}

/// The piece again and again, some kilobytes at a time.
fn on(text: impl AsRef<str>, piece: &str) -> Way {
    raw(text, Then::endless(piece.repeat(8192 / piece.len())))
}

/// The piece again and again, so slowly that it never amounts to anything.
fn drip(text: impl AsRef<str>, piece: &'static str) -> Way {
    raw(text, Then::Repeat(piece.into(), Duration::from_millis(20)))
}

fn head(headers: &str) -> String {
    format!("{OK}{headers}\r\n\r\n")
}

fn connections() -> Vec<Case> {
    let in_body = Failed("body", Some(200), "Connection reset by peer");
    vec![
        ("refused", Refuses, Failed("connect", None, "Connection refused")),
        ("reset", Answers(Answer::Reset), RESET),
        ("ended", close(""), ENDED),
        ("reset in the head", raw("HTTP/1.1 20", Then::Reset), RESET),
        ("ended in the head", close("HTTP/1.1 20"), ENDED),
        ("reset in the body", Answers(Answer::ResetMidway), in_body),
        ("ended in the body", Answers(Answer::ShortBody), SHORT),
        (
            "ended after the answer",
            Answers(Answer::CloseIdle),
            Answered(204),
        ),
        ("ended after a 100", close(CONTINUE), ENDED),
    ]
}

fn silences() -> Vec<Case> {
    let late = Answer::status(200).after(Duration::from_secs(10));
    vec![
        ("silence", stay(""), SILENT),
        ("silence in the head", stay(OK), SILENT),
        ("silence in the body", stay(CHUNKED), UNENDED),
        ("silence after a 100", stay(CONTINUE), SILENT),
        ("too late", Answers(late), SILENT),
        ("a head in drips", drip(format!("{OK}x: "), "x"), SILENT),
        ("a body in drips", drip(CHUNKED, "1\r\n.\r\n"), UNENDED),
        (
            "a chunk size in drips",
            drip(format!("{CHUNKED}1;"), "x"),
            UNENDED,
        ),
    ]
}

fn heads() -> Vec<Case> {
    let http2 = "\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\0\x7f\x7f\0\x05\0\0\x40\0";
    let many = head(&["a: b"; 101].join("\r\n"));
    let large = |size| head(&format!("content-length: 0\r\nset-cookie: {}", "x".repeat(size)));
    let two = head("content-length: 1\r\ncontent-length: 2");
    let beyond = head("content-length: 99999999999999999999");
    vec![
        ("garbage", Answers(Answer::Garbage), BAD_VERSION),
        ("no HTTP", close("220 mail ready\r\n"), BAD_VERSION),
        ("HTTP/0.9", close("<html>hello</html>\r\n\r\n"), BAD_VERSION),
        ("HTTP/2", stay(http2), BAD_VERSION),
        ("HTTP/3.0", stay("HTTP/3.0 200 OK\r\n\r\n"), BAD_VERSION),
        ("a request", stay("POST /hook HTTP/1.1\r\n\r\n"), BAD_VERSION),
        ("a header without a colon", stay(head("what is this")), BAD_HEADER),
        ("a header with NUL", stay(head("a: \0")), BAD_HEADER),
        ("101 headers", stay(many), TOO_LARGE),
        ("a head of 32 KiB", stay(large(32 * 1024)), Answered(200)),
        ("a head of 128 KiB", stay(large(128 * 1024)), TOO_LARGE),
        (
            "lone line feeds",
            stay("HTTP/1.1 200 OK\ncontent-length: 0\n\n"),
            Answered(200),
        ),
        (
            "a length below zero",
            stay(head("content-length: -1")),
            BAD_LENGTH,
        ),
        ("two lengths", stay(two), BAD_LENGTH),
        ("a length beyond 64 bits", stay(beyond), BAD_LENGTH),
    ]
}

fn statuses() -> Vec<Case> {
    let status = |number| stay(format!("HTTP/1.1 {number}\r\ncontent-length: 0\r\n\r\n"));
    let after_others = format!("{CONTINUE}{HINTS}HTTP/1.1 204 \r\n\r\n");
    let upgrade = "HTTP/1.1 101 \r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    let not_asked = Failed("protocol", Some(101), "no other protocol was asked for");
    vec![
        ("200 without a reason", status("200"), Answered(200)),
        ("099", status("099 "), BAD_STATUS),
        ("99", status("99 "), BAD_STATUS),
        ("1000", status("1000 "), BAD_STATUS),
        ("600", status("600 "), Answered(600)),
        ("999", status("999 "), Answered(999)),
        ("100, 103 and the answer", stay(after_others), Answered(204)),
        ("101", stay(upgrade), not_asked),
    ]
}

fn bodies() -> Vec<Case> {
    let chunk = |size| close(format!("{CHUNKED}{size}\r\n.\r\n0\r\n\r\n"));
    let more = format!("{}..........", head("content-length: 1"));
    let less = format!("{}.", head("content-length: 2"));
    let huge = format!("{}.", head("content-length: 9223372036854775807"));
    let two = "HTTP/1.1 500 \r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n";
    let packed = Answer::status(200)
        .header("content-encoding", "gzip")
        .body("not packed");
    vec![
        ("more than its length", stay(more), Answered(200)),
        ("less than its length", stay(less), UNENDED),
        ("a huge length", close(huge), SHORT),
        (
            "HTTP/1.0, no length",
            close("HTTP/1.0 200 \r\n\r\nok"),
            Answered(200),
        ),
        (
            "HTTP/1.1, no length",
            close("HTTP/1.1 200 \r\n\r\nok"),
            Answered(200),
        ),
        ("no chunk size", chunk("what"), NO_CHUNK),
        (
            "a chunk size beyond 64 bits",
            chunk("fffffffffffffffff"),
            NO_CHUNK,
        ),
        ("two answers", stay(two), Answered(500)),
        (
            "garbage after the answer",
            stay("HTTP/1.1 204 \r\n\r\n\0what"),
            Answered(204),
        ),
        // Who unpacks finds that it cannot.
        ("said to be packed", Answers(packed), Answered(200)),
    ]
}

fn unread() -> Vec<Case> {
    let speaks = Failed("protocol", None, "");
    let refusal = REFUSAL.to_vec();
    vec![
        (
            "413, and reads no more",
            Narrow(refusal.clone(), Then::Stay),
            Answered(413),
        ),
        ("413, and ends", Narrow(refusal.clone(), Then::Close), Lost(413)),
        ("413, and resets", Unread(refusal, Then::Reset), Lost(413)),
        ("never reads", Narrow(Vec::new(), Then::Stay), SILENT),
        (
            "never reads, and ends",
            Unread(Vec::new(), Then::Close),
            Failed("reset", None, ""),
        ),
        ("speaks first", Greets(BANNER.to_vec(), Then::Stay), speaks),
    ]
}

fn handshakes() -> Vec<Case> {
    let http = b"HTTP/1.1 400 \r\nconnection: close\r\n\r\nThis is a port for HTTPS".to_vec();
    let alert = |number| vec![0x15, 3, 3, 0, 2, 2, number];
    // A ServerHello of TLS 1.1.
    let mut old = b"\x16\x03\x02\0\x2a\x02\0\0\x26\x03\x02".to_vec();
    old.extend([7; 32]);
    old.extend([0, 0, 0x35, 0]);
    let failed = |words| Failed("tls", None, words);
    vec![
        (
            "HTTP for TLS",
            Https(http, Then::Close),
            failed("what came is no TLS; the port may be one for http"),
        ),
        (
            "an alert",
            Https(alert(40), Then::Close),
            failed("the server broke off the handshake (HandshakeFailure)"),
        ),
        (
            "an alert of an old server",
            Https(alert(70), Then::Close),
            failed("the server has neither TLS 1.2 nor 1.3"),
        ),
        (
            "TLS 1.1",
            Https(old, Then::Stay),
            failed("the server has neither TLS 1.2 nor 1.3"),
        ),
        ("silence for TLS", Https(Vec::new(), Then::Stay), SILENT),
        ("ended for TLS", Https(Vec::new(), Then::Close), failed("")),
        ("reset for TLS", Https(Vec::new(), Then::Reset), failed("reset")),
    ]
}
