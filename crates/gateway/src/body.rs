//! Requests' bodies, read only as far as they are allowed to go.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use futures_util::StreamExt;
use relay_event::Invalid;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use tokio::time::{Instant, timeout_at};

use crate::{
    gateway::Gateway,
    limits::Limit,
    problem::{Kind, Problem},
};

/// For bodies that are no events: room for the longest endpoint there can be.
pub(crate) const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// The media type of the body, in lower case and without parameters. `None` if there is none, or it
/// claims to be anything but UTF-8.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let mut parts = given.split(';').map(|part| part.trim().to_ascii_lowercase());
    let media_type = parts.next()?;
    let charset = parts.find_map(|part| part.strip_prefix("charset=").map(ToOwned::to_owned));
    let utf_8 = charset.is_none_or(|charset| charset.trim_matches('"') == "utf-8");
    utf_8.then_some(media_type)
}

/// A body of at most `limit` bytes.
pub(crate) async fn read(
    gateway: &Gateway,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, Problem> {
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced: Option<u64> = announced.and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    collect(gateway, body, limit).await.inspect_err(|problem| {
        if problem.kind == Kind::Busy {
            gateway.limited.count(Limit::BODY_MEMORY);
        }
    })
}

async fn collect(gateway: &Gateway, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let limits = &gateway.config.limits;
    let begun = Instant::now();
    let end = begun + limits.body_timeout;
    let mut chunks = body.into_data_stream();
    let mut read = gateway.bodies.begin();
    loop {
        let seconds = read.len() / limits.body_rate;
        let late = begun + limits.head_timeout + Duration::from_secs(seconds as u64);
        let Ok(chunk) = timeout_at(end.min(late), chunks.next()).await else {
            return Err(too_slow(gateway, late < end));
        };
        let Some(chunk) = chunk else {
            return Ok(read.whole());
        };
        let chunk = chunk.map_err(|_| Invalid::new("body", "broke off"))?;
        if chunk.len() > limit - read.len() {
            return Err(too_large(limit));
        }
        read.extend(&chunk)?;
    }
}

fn too_slow(gateway: &Gateway, by_rate: bool) -> Problem {
    let limits = &gateway.config.limits;
    let (limit, detail) = if by_rate {
        let detail = format!(
            "the body must come with at least {} bytes a second",
            limits.body_rate
        );
        (Limit::BODY_RATE, detail)
    } else {
        let time = humantime::format_duration(limits.body_timeout);
        (Limit::BODY_TIME, format!("the body must arrive within {time}"))
    };
    gateway.limited.count(limit);
    Problem::new(Kind::BodyTimeout, detail)
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Kind::TooLarge, format!("at most {limit} bytes are allowed"))
}

/// A JSON object, whose refusal names the path of the field to blame.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // Otherwise a list would be read as the fields in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice::<IgnoredAny>(body).map_err(|error| unreadable(&error))?;
        return Err(Invalid::new("body", "must be a JSON object").into());
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|refused| {
        let path = refused.path().to_string();
        let error = refused.into_inner();
        match error.classify() {
            Category::Data => Invalid::new(path, words(&error)).into(),
            _ => unreadable(&error),
        }
    })?;
    reader.end().map_err(|error| unreadable(&error))?;
    Ok(value)
}

fn unreadable(error: &serde_json::Error) -> Problem {
    Problem::new(Kind::UnreadableJson, format!("the body must be JSON: {error}"))
}

/// The refusal without its position: the path says where.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}
