//! The feed over a WebSocket (RFC 6455), for clients that have it.

use axum::{
    extract::{
        State,
        ws::{
            CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    http::HeaderMap,
    response::Response,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    follow::{Follower, Told},
    json,
    stream::Followed,
};
use crate::{
    cursor::Cursor,
    gateway::Gateway,
    metrics::How,
    openapi::problems,
    problem::{Kind, Problem},
    query::Query,
};

/// What a client may send, in bytes. Nothing that it says is listened to.
const HEARD: usize = 4 << 10;

/// An event and where to go on after it; or only where, so that the client's place stays young.
#[derive(Serialize)]
struct Text<'a> {
    cursor: Cursor,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a RawValue>,
}

/// Stream the feed over a WebSocket.
///
/// Each message is a text `{"cursor": …, "event": …}`; one without an event comes when there was none for 15
/// seconds. To go on after a cut, connect with the last `cursor` as `after`.
#[utoipa::path(
    get, path = "/v1/socket", operation_id = "follow_feed", tag = "feed",
    params(Followed),
    responses(
        (status = 101, description = "The socket is open."),
        problems::Refused,
        problems::CursorExpired,
    ),
)]
pub(crate) async fn open(
    State(gateway): State<Gateway>,
    Query(followed): Query<Followed>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|refused| {
        let detail = format!("this takes a WebSocket handshake (RFC 6455): {refused}");
        Problem::new(Kind::Invalid, detail)
    })?;
    let follower = followed.begin(&gateway, How::Socket, &headers).await?;
    let upgrade = upgrade.max_message_size(HEARD).max_frame_size(HEARD);
    Ok(upgrade.on_upgrade(|socket| serve(socket, follower)))
}

/// Sends what comes, until either side ends.
async fn serve(mut socket: WebSocket, mut follower: Follower) {
    loop {
        let told = tokio::select! {
            heard = socket.recv() => match heard {
                Some(Ok(_)) => continue,
                _ => return,
            },
            told = follower.next() => told,
        };
        let Some(told) = told else {
            break;
        };
        let Ok(text) = text(&told) else {
            break;
        };
        if socket.send(Message::Text(text)).await.is_err() {
            return;
        }
    }
    let come_back = CloseFrame {
        code: close_code::RESTART,
        reason: "come back after the last cursor".into(),
    };
    let _ = socket.send(Message::Close(Some(come_back))).await;
}

fn text(told: &Told) -> Result<Utf8Bytes, Problem> {
    let text = match told {
        Told::Event(cursor, whole) => Text {
            cursor: cursor.clone(),
            event: Some(json(&whole.body)?),
        },
        Told::Beat(cursor) => Text {
            cursor: cursor.clone(),
            event: None,
        },
    };
    let text = serde_json::to_string(&text).map_err(|_| Problem::internal())?;
    Ok(text.into())
}
