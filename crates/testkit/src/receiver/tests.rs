use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn connect(receiver: &Receiver) -> TcpStream {
    TcpStream::connect(receiver.addr()).await.unwrap()
}

async fn send(client: &mut TcpStream, id: &str) {
    let request = format!("POST /hook HTTP/1.1\r\nWebhook-Id: {id}\r\nContent-Length: 2\r\n\r\n{{}}");
    client.write_all(request.as_bytes()).await.unwrap();
}

/// Everything up to and with `end`.
async fn read_to(client: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(client.read_u8().await.unwrap().into());
    }
    text
}

/// The status line's number of the next answer, which has no body.
async fn status(client: &mut TcpStream) -> u16 {
    read_to(client, "\r\n\r\n").await[9..12].parse().unwrap()
}

/// Everything until the connection ends, and how it ended.
async fn rest(client: &mut TcpStream) -> (String, std::io::Result<usize>) {
    let mut bytes = Vec::new();
    let end = client.read_to_end(&mut bytes).await;
    (String::from_utf8_lossy(&bytes).into_owned(), end)
}

/// What comes back for one request that is answered so.
async fn answered(answer: Answer) -> (String, std::io::Result<usize>) {
    let receiver = Receiver::start().await;
    receiver.respond_with(answer);
    let mut client = connect(&receiver).await;
    send(&mut client, "one").await;
    let rest = rest(&mut client).await;
    assert_eq!(receiver.requests().len(), 1);
    rest
}

async fn wait_for_in_flight(receiver: &Receiver, n: usize) {
    wait_until(format_args!("{n} in flight"), || async {
        let now = receiver.in_flight();
        (now == n).then_some(()).ok_or(now)
    })
    .await;
}

#[tokio::test]
async fn a_request_is_recorded_as_it_came() {
    let receiver = Receiver::start().await;
    let mut client = connect(&receiver).await;
    let request = b"PUT /hook?a=b HTTP/1.1\r\nX-Two: 1\r\nx-two: 2\r\nContent-Length: 3\r\n\r\n\x00\xff\n";
    client.write_all(request).await.unwrap();
    assert_eq!(status(&mut client).await, 204);
    let [request] = receiver.wait_for(1).await.try_into().unwrap();
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("PUT", "/hook?a=b")
    );
    assert_eq!(request.headers_named("X-TWO"), ["1", "2"]);
    assert_eq!(request.headers[0].0, "x-two");
    assert_eq!(request.body.as_ref(), b"\x00\xff\n");
    assert!(request.answered);
    assert_eq!(request.webhook_id(), None);
}

#[tokio::test]
async fn a_chunked_body_is_put_together() {
    let receiver = Receiver::start().await;
    let mut client = connect(&receiver).await;
    let request = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(status(&mut client).await, 204);
    let requests = receiver.requests();
    assert_eq!(requests[0].json(), serde_json::json!({"a": 1}));
}

#[tokio::test]
async fn the_script_goes_first_and_then_the_rule() {
    let receiver = Receiver::start().await;
    receiver.script([Answer::status(500), Answer::status(429).header("retry-after", 2)]);
    receiver.respond_by(|request| match (request.webhook_id(), request.attempt) {
        (Some("bad"), attempt) if attempt < 4 => Answer::status(503),
        _ => Answer::status(200),
    });
    let mut client = connect(&receiver).await;
    let mut answers = Vec::new();
    for id in ["bad", "bad", "good", "bad", "bad"] {
        send(&mut client, id).await;
        answers.push(status(&mut client).await);
    }
    assert_eq!(answers, [500, 429, 200, 503, 200]);
    assert_eq!((receiver.attempts_of("bad"), receiver.attempts_of("new")), (4, 0));
    let connections: Vec<_> = receiver.requests().iter().map(|r| r.connection).collect();
    assert_eq!(connections, [0; 5], "the connection is kept");
}

#[tokio::test]
async fn an_answer_carries_status_headers_and_body() {
    let answer = Answer::status(404).header("connection", "close").body("no");
    let (text, _) = answered(answer).await;
    assert_eq!(
        text,
        "HTTP/1.1 404 \r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
    );
}

#[tokio::test]
async fn an_answer_may_come_late() {
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::status(200).after(Duration::from_millis(50)));
    let mut client = connect(&receiver).await;
    send(&mut client, "one").await;
    assert_eq!(status(&mut client).await, 200);
    let [request] = receiver.requests().try_into().unwrap();
    assert!(request.arrived.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn held_requests_wait_for_the_release() {
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::Hold);
    let (mut one, mut two) = (connect(&receiver).await, connect(&receiver).await);
    send(&mut one, "one").await;
    send(&mut two, "two").await;
    let requests = receiver.wait_for(2).await;
    assert!(requests.iter().all(|request| !request.answered));
    assert_eq!(receiver.in_flight(), 2);
    receiver.release();
    assert_eq!((status(&mut one).await, status(&mut two).await), (204, 204));
    assert_eq!((receiver.in_flight(), receiver.max_in_flight()), (0, 2));
    assert!(receiver.requests().iter().all(|request| request.answered));

    send(&mut one, "three").await;
    wait_for_in_flight(&receiver, 1).await;
    drop(one);
    wait_for_in_flight(&receiver, 0).await;
    assert!(!receiver.requests()[2].answered, "the client hung up");
}

#[tokio::test]
async fn resets_are_resets() {
    let (text, end) = answered(Answer::Reset).await;
    assert_eq!(text, "");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let (text, end) = answered(Answer::ResetMidway).await;
    assert!(text.contains("content-length: 1000"), "{text}");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_short_body_ends_before_its_length() {
    let (text, end) = answered(Answer::ShortBody).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 1000"));
    assert_eq!(body.len(), 500);
    assert!(end.is_ok(), "a FIN, not a RST");
}

#[tokio::test]
async fn garbage_is_no_http() {
    let (text, _) = answered(Answer::Garbage).await;
    assert!(!text.is_empty());
    let mut fields = [httparse::EMPTY_HEADER; 8];
    assert!(
        httparse::Response::new(&mut fields)
            .parse(text.as_bytes())
            .is_err()
    );
}

#[tokio::test]
async fn an_idle_connection_closes_after_a_good_answer() {
    let (text, end) = answered(Answer::CloseIdle).await;
    assert_eq!(text, "HTTP/1.1 204 \r\n\r\n");
    assert!(end.is_ok());
}

#[tokio::test]
async fn endless_answers_go_on_until_the_client_hangs_up() {
    let drip = Answer::DripBody {
        every: Duration::from_millis(1),
        chunk: 3,
    };
    for (answer, piece) in [
        (drip, "3\r\n...\r\n"),
        (Answer::EndlessBody, "....\r\n4000\r\n...."),
        (Answer::EndlessHeaders, "\r\nx-more: "),
    ] {
        let receiver = Receiver::start().await;
        receiver.respond_with(answer);
        let mut client = connect(&receiver).await;
        send(&mut client, "one").await;
        for _ in 0..20 {
            read_to(&mut client, piece).await;
        }
        assert_eq!(receiver.in_flight(), 1);
        drop(client);
        wait_for_in_flight(&receiver, 0).await;
        assert!(!receiver.requests()[0].answered);
    }
}

#[tokio::test]
async fn raw_bytes_leave_the_connection_as_they_are_told_to() {
    let receiver = Receiver::start().await;
    let half = |then| Answer::raw("HTTP/1.1 200 \r\n\r\n", then);
    receiver.script([half(Then::Stay), half(Then::Reset)]);
    let mut client = connect(&receiver).await;
    send(&mut client, "one").await;
    assert_eq!(status(&mut client).await, 200);
    send(&mut client, "two").await;
    let (_, end) = rest(&mut client).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(receiver.requests()[1].connection, 0);
}

#[tokio::test]
async fn what_is_not_read_is_answered_at_its_first_byte_or_before() {
    let receiver = Receiver::narrow().await;
    receiver.respond_unread("no", Then::Stay);
    let mut client = connect(&receiver).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(read_to(&mut client, "no").await, "no");
    receiver.greet_with("hello", Then::Close);
    assert_eq!(rest(&mut connect(&receiver).await).await.0, "hello");
    assert_eq!(receiver.requests().len(), 0);
}

#[tokio::test]
async fn a_stopped_receiver_refuses_and_comes_back_on_its_port() {
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::Hold);
    let mut client = connect(&receiver).await;
    send(&mut client, "one").await;
    receiver.wait_for(1).await;
    receiver.stop().await;
    assert_eq!(receiver.in_flight(), 0);
    assert_eq!(rest(&mut client).await.0, "");
    for _ in 0..2 {
        let refused = TcpStream::connect(receiver.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        receiver.stop().await;
    }
    receiver.restart().await;
    receiver.respond_with(Answer::status(200));
    let mut client = connect(&receiver).await;
    send(&mut client, "one").await;
    assert_eq!(status(&mut client).await, 200);
    assert_eq!(receiver.requests()[1].attempt, 2);
}

#[tokio::test]
#[should_panic(expected = "not HTTP")]
async fn what_is_no_http_fails_the_test() {
    let receiver = Receiver::start().await;
    let mut client = connect(&receiver).await;
    client.write_all(b"\x16\x03\x01\r\n\r\n").await.unwrap();
    receiver.wait_for(1).await;
}

#[test]
#[should_panic(expected = "Hold takes no header")]
fn silence_has_no_headers() {
    let _ = Answer::Hold.header("retry-after", 1);
}
