//! Requests' bodies, read only as far as they are allowed to go.

use std::{io::Read, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use futures_util::StreamExt;
use relay_event::{Invalid, without_byte_order_mark};
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

/// The coding by which a body is packed (RFC 9110, section 8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let given = headers.get_all(header::CONTENT_ENCODING).into_iter();
        let given: Vec<_> = given
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        let given = given.join(", ");
        let named = given.split(',').map(|name| name.trim().to_ascii_lowercase());
        let mut named = named.filter(|name| !name.is_empty() && name != "identity");
        match (named.next().as_deref(), named.next()) {
            (None, _) => Ok(Self::Identity),
            (Some("gzip" | "x-gzip"), None) => Ok(Self::Gzip),
            _ => Err(Problem::unsupported_encoding(&given)),
        }
    }
}

/// A body of at most `limit` bytes, both as it comes and unpacked.
pub(crate) async fn read(
    gateway: &Gateway,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, Problem> {
    let coding = Coding::of(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced: Option<u64> = announced.and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let body = match coding {
        Coding::Identity => collect(gateway, body, limit).await,
        Coding::Gzip => match collect(gateway, body, limit).await {
            Ok(packed) => unpacked(gateway, &packed, limit),
            Err(problem) => Err(problem),
        },
    };
    body.inspect_err(|problem| {
        if problem.kind == Kind::Busy {
            gateway.limited.count(Limit::BODY_MEMORY);
        }
    })
}

/// The content of a gzip. Beyond the limit it is not unpacked.
fn unpacked(gateway: &Gateway, gzip: &[u8], limit: usize) -> Result<Bytes, Problem> {
    let mut gzip = MultiGzDecoder::new(gzip);
    let mut unpacked = gateway.bodies.begin();
    let mut chunk = [0; 8 * 1024];
    loop {
        let count = gzip.read(&mut chunk).map_err(|error| {
            let problem = format!("must be a whole gzip and nothing else, as Content-Encoding says: {error}");
            Invalid::new("body", problem)
        })?;
        if count == 0 {
            return Ok(unpacked.whole());
        }
        if count > limit - unpacked.len() {
            return Err(too_large(limit));
        }
        unpacked.extend(&chunk[..count])?;
    }
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
    Problem::new(
        Kind::TooLarge,
        format!("at most {limit} bytes are allowed, unpacked too"),
    )
}

/// A JSON object, whose refusal names the path of the field to blame.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = without_byte_order_mark(body);
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
            Category::Data => data(&path, &words(&error)).into(),
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
/// The refusal of a field, in a person's words.
fn data(path: &str, error: &str) -> Invalid {
    let missing = error.strip_prefix("missing field `");
    if let Some(name) = missing.and_then(|name| name.strip_suffix('`')) {
        let within = path.strip_suffix('.').unwrap_or(path);
        let field = if within.is_empty() {
            name.to_owned()
        } else {
            format!("{within}.{name}")
        };
        return Invalid::new(field, "is missing");
    }
    let problem = EXPECTED.iter().fold(error.to_owned(), |text, (theirs, words)| {
        text.replace(theirs, words)
    });
    Invalid::new(path, problem)
}

/// Words for types that serde calls by their names in Rust.
const EXPECTED: [(&str, &str); 8] = [
    ("invalid type: sequence", "invalid type: a list"),
    ("invalid type: map", "invalid type: an object"),
    ("expected a sequence", "expected a list"),
    ("expected u16", "expected a whole number"),
    ("expected u32", "expected a whole number"),
    ("expected u64", "expected a whole number"),
    ("expected usize", "expected a whole number"),
    ("expected a map", "expected an object"),
];

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "read by nobody")]
    struct Outer {
        inner: Inner,
        #[serde(default)]
        list: Vec<String>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "read by nobody")]
    struct Inner {
        count: u64,
    }

    #[test]
    fn a_refusal_names_the_field_in_a_persons_words() {
        let refused = |body: &str| json::<Outer>(body.as_bytes()).unwrap_err().detail;
        assert_eq!(refused("{}"), "inner: is missing");
        assert_eq!(refused(r#"{"inner": {}}"#), "inner.count: is missing");
        assert_eq!(
            refused(r#"{"inner": {"count": "1"}}"#),
            r#"inner.count: invalid type: string "1", expected a whole number"#
        );
        assert_eq!(
            refused(r#"{"inner": {"count": 1}, "list": 5}"#),
            "list: invalid type: integer `5`, expected a list"
        );
    }
}
