//! The feed over a WebSocket (RFC 6455), for clients that have it.

use axum::{
    extract::{
        State,
        ws::{
            CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    http::{HeaderMap, header},
    response::Response,
};
use relay_event::WebhookId;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    follow::{Follower, Told},
    stream::Followed,
};
use crate::{
    access::Scope,
    cors,
    cursor::Cursor,
    gateway::Gateway,
    log::json,
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
        problems::CursorExpired,
    ),
)]
pub(crate) async fn open(
    State(gateway): State<Gateway>,
    scope: Scope,
    Query(followed): Query<Followed>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    guard(&gateway, &scope, &headers)?;
    let upgrade = upgrade.map_err(|refused| {
        let detail = format!("this takes a WebSocket handshake (RFC 6455): {refused}");
        Problem::new(Kind::Invalid, detail)
    })?;
    let follower = followed.begin(&gateway, How::Socket, scope, &headers).await?;
    let upgrade = upgrade.max_message_size(HEARD).max_frame_size(HEARD);
    Ok(upgrade.on_upgrade(|socket| serve(socket, follower)))
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
    let (code, reason) = match follower.is_over() {
        true => (close_code::POLICY, "the access token has expired"),
        false => (close_code::RESTART, "come back after the last cursor"),
    };
    let reason = reason.into();
    let _ = socket
        .send(Message::Close(Some(CloseFrame { code, reason })))
        .await;
}

fn text(told: &Told) -> Result<Utf8Bytes, Problem> {
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
    let text = serde_json::to_string(&text).map_err(|_| Problem::internal())?;
    Ok(text.into())
}
