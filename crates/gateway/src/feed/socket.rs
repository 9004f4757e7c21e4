//! The feed over a WebSocket (RFC 6455), for clients that have it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use relay_event::WebhookId;
use relay_service::connections;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        handshake::derive_accept_key,
        protocol::{
            CloseFrame, Role, WebSocketConfig,
            frame::{
                Frame,
                coding::{CloseCode, Data, OpCode},
            },
        },
    },
};

use super::{
    follow::{Follower, Told},
    stream::Followed,
};
use crate::{
    access::Scope,
    cors,
    cursor::Cursor,
    gateway::Gateway,
    limits::Limit,
    log::json,
    metrics::How,
    openapi::problems,
    problem::{Kind, Problem},
    query::Query,
};

/// What a client may send, in bytes. Nothing that it says is listened to.
const HEARD: usize = 4 << 10;

/// The bytes that are gathered before they are written.
const WRITE_BUFFER: usize = 16 << 10;

const TOO_MANY: &str = "too many frames came within a second";

/// An event and where to go on after it; or only where, so that the client's place stays young.
#[derive(Serialize)]
struct Text<'a> {
    cursor: Cursor,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_id: Option<WebhookId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a RawValue>,
}

/// Stream the feed over a WebSocket.
///
/// Each message is a text `{"cursor": …, "webhook_id": …, "event": …}`; one without an event comes when there was none for 15
/// seconds. To go on after a cut, connect with the last `cursor` as `after`.
#[utoipa::path(
    get, path = "/v1/socket", operation_id = "follow_feed", tag = "feed",
    params(Followed),
    responses(
        (status = 101, description = "The socket is open."),
        problems::Refused,
        problems::NoHandshake,
        problems::CursorExpired,
    ),
)]
pub(crate) async fn open(
    State(gateway): State<Gateway>,
    scope: Scope,
    Query(followed): Query<Followed>,
    mut request: Request,
) -> Result<Response, Problem> {
    guard(&gateway, &scope, request.headers())?;
    let accept = match accept(&request) {
        Ok(accept) => accept,
        Err(problem) => return Ok(refused(problem)),
    };
    let follower = followed
        .begin(&gateway, How::Socket, scope, request.headers())
        .await?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(io) => serve(io, follower, &gateway).await,
            Err(error) => tracing::debug!(%error, "a socket was not opened"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// The key with which a handshake is accepted (RFC 6455, section 4.2.2).
fn accept(request: &Request) -> Result<HeaderValue, Problem> {
    let headers = request.headers();
    let is_handshake = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && names(headers, &header::CONNECTION, "upgrade")
        && names(headers, &header::UPGRADE, "websocket");
    if !is_handshake {
        let detail = "this takes a WebSocket handshake (RFC 6455): GET with `Connection: Upgrade`, `Upgrade: websocket`, `Sec-WebSocket-Version: 13` and a `Sec-WebSocket-Key`; a proxy in between must pass them on";
        return Err(Problem::new(Kind::UpgradeRequired, detail));
    }
    let version = single(headers, &header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version.as_bytes() != b"13") {
        let detail = "`Sec-WebSocket-Version` must be 13 (RFC 6455)";
        return Err(Problem::new(Kind::UpgradeRequired, detail));
    }
    let key = single(headers, &header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    key.filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16))
        .and_then(|key| HeaderValue::try_from(derive_accept_key(key)).ok())
        .ok_or_else(|| {
            let detail = "`Sec-WebSocket-Key` must be 16 bytes in base64 (RFC 6455)";
            Problem::new(Kind::Invalid, detail)
        })
}

/// Looks for a word in the lists of these headers.
fn names(headers: &HeaderMap, name: &header::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|listed| listed.trim().eq_ignore_ascii_case(word))
}

fn single<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// A refusal, with what would be accepted.
fn refused(problem: Problem) -> Response {
    let mut response = problem.into_response();
    if response.status() == StatusCode::UPGRADE_REQUIRED {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// Browsers let any page open a socket anywhere. Where no token is needed, nothing else would keep a page that
/// somebody happens to visit from reading a relay on their machine.
fn guard(gateway: &Gateway, scope: &Scope, headers: &HeaderMap) -> Result<(), Problem> {
    let origins = &gateway.config.cors_origins;
    match headers.get(header::ORIGIN) {
        Some(origin)
            if gateway.config.token.is_none() && !scope.is_granted() && !cors::allows(origins, origin) =>
        {
            let detail = "pages of this origin may not open it; name the origin by --cors-origin (RELAY_CORS_ORIGINS), or use an access token";
            Err(Problem::new(Kind::Forbidden, detail))
        }
        _ => Ok(()),
    }
}

/// Sends what comes, until either side ends.
async fn serve(io: Upgraded, follower: Follower, gateway: &Gateway) {
    let limits = &gateway.config.limits;
    let frames = limits.socket_frames.get();
    let unsent = limits.unsent_bytes.get();
    let config = WebSocketConfig::default()
        .read_buffer_size(HEARD)
        .max_message_size(Some(HEARD))
        .max_frame_size(Some(HEARD))
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(unsent.saturating_add(WRITE_BUFFER + HEARD));
    let io = Metered::new(TokioIo::new(io), frames.saturating_mul(HEARD));
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    if let Some(frame) = follow(&mut socket, follower, gateway).await {
        let _ = socket.send(Message::Close(Some(frame))).await;
    }
    // The client reads what was sent last, whatever it sends itself meanwhile.
    let _ = socket.into_inner().shutdown().await;
}

/// Sends what comes; returns what is to be said at the end, if the client is to be told anything.
async fn follow(
    socket: &mut WebSocketStream<Metered>,
    mut follower: Follower,
    gateway: &Gateway,
) -> Option<CloseFrame> {
    let limits = &gateway.config.limits;
    let mut frames = Window::default();
    let patience = limits.unsent_timeout;
    let mut pings = interval_at(Instant::now() + patience / 2, patience / 2);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unanswered: Option<Instant> = None;
    loop {
        let told = tokio::select! {
            // A pong that has come already counts before the tick that misses it.
            biased;
            heard = socket.next() => {
                match heard? {
                    // The next read sends the answer, and ends.
                    Ok(Message::Close(_)) => {
                        while let Some(Ok(_)) = socket.next().await {}
                        return None;
                    }
                    Ok(heard) => {
                        if heard.is_pong() {
                            unanswered = None;
                        }
                        if frames.add(1) > limits.socket_frames.get() {
                            return Some(flooded(gateway));
                        }
                    }
                    Err(_) if socket.get_ref().is_too_much => return Some(flooded(gateway)),
                    Err(error) => return violation(&error),
                }
                continue;
            }
            _ = pings.tick() => {
                match unanswered {
                    Some(pinged) if pinged.elapsed() >= patience => {
                        gateway.limited.count(connections::Limit::UNSENT);
                        return Some(close(CloseCode::Policy, "no ping was answered"));
                    }
                    Some(_) => {}
                    None => {
                        socket.send(Message::Ping(Bytes::new())).await.ok()?;
                        unanswered = Some(Instant::now());
                    }
                }
                continue;
            }
            // Last, since there may be no end of it.
            told = follower.next() => told,
        };
        let Some(Ok(text)) = told.as_ref().map(text) else {
            break;
        };
        send(socket, text, limits.unsent_bytes.get()).await.ok()?;
    }
    Some(match follower.is_over() {
        true => close(CloseCode::Policy, "the access token has expired"),
        false => close(CloseCode::Restart, "come back after the last cursor"),
    })
}

/// Counts a flood, and says that it is one.
fn flooded(gateway: &Gateway) -> CloseFrame {
    gateway.limited.count(Limit::SOCKET_FRAMES);
    close(CloseCode::Policy, TOO_MANY)
}

/// Sends a text; one that is larger than what may wait for a client goes in pieces.
async fn send(socket: &mut WebSocketStream<Metered>, text: String, most: usize) -> Result<(), Error> {
    if text.len() <= most {
        return socket.send(Message::Text(text.into())).await;
    }
    let (text, mut kind) = (Bytes::from(text), Data::Text);
    for start in (0..text.len()).step_by(most) {
        let end = text.len().min(start + most);
        let piece = Frame::message(text.slice(start..end), OpCode::Data(kind), end == text.len());
        socket.send(Message::Frame(piece)).await?;
        kind = Data::Continue;
    }
    Ok(())
}

fn close(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame {
        code,
        reason: reason.into(),
    }
}

/// The close that a client is sent that broke the rules (RFC 6455, section 7.4.1); none if it is gone.
fn violation(error: &Error) -> Option<CloseFrame> {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(close(CloseCode::Protocol, "this is no frame of RFC 6455")),
        Error::Utf8(_) => Some(close(CloseCode::Invalid, "text must be UTF-8")),
        Error::Capacity(_) => Some(close(CloseCode::Size, "messages may have 4 KiB")),
        _ => None,
    }
}

/// Counts what comes within a second.
#[derive(Default)]
struct Window {
    begun: Option<Instant>,
    count: usize,
}

impl Window {
    /// Adds these, and returns the count with them.
    fn add(&mut self, more: usize) -> usize {
        let now = Instant::now();
        if self
            .begun
            .is_none_or(|begun| now.duration_since(begun) >= Duration::from_secs(1))
        {
            self.begun = Some(now);
            self.count = 0;
        }
        self.count += more;
        self.count
    }
}

/// Reads so many bytes a second and fails beyond: what is not a whole message is counted by nobody else.
struct Metered {
    io: TokioIo<Upgraded>,
    window: Window,
    most: usize,
    is_too_much: bool,
}

impl Metered {
    fn new(io: TokioIo<Upgraded>, most: usize) -> Self {
        Self {
            io,
            window: Window::default(),
            most,
            is_too_much: false,
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if self.window.add(buffer.filled().len() - before) > self.most {
            self.is_too_much = true;
            return Poll::Ready(Err(io::Error::other(TOO_MANY)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn text(told: &Told) -> Result<String, Problem> {
    let text = match told {
        Told::Event(cursor, whole) => Text {
            cursor: cursor.clone(),
            webhook_id: Some(whole.event.webhook_id()),
            event: Some(json(&whole.event, &whole.body)?),
        },
        Told::Beat(cursor) => Text {
            cursor: cursor.clone(),
            webhook_id: None,
            event: None,
        },
    };
    serde_json::to_string(&text).map_err(|_| Problem::internal())
}
