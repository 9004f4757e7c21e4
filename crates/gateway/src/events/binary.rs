//! Events whose attributes are headers, beside the data.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>, section 3.1

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::percent_decode;
use relay_event::{Event, EventId, Invalid, KEY_BESIDE_ID};

use super::key;

const PREFIX: &str = "ce-";
const CONTENT_TYPE: &str = "Content-Type";

/// Whether any header is an attribute.
pub(super) fn is_binary(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| attribute_of(name).is_some())
}

/// Reads an event. All attributes must be there; a key stands for a missing id. A refusal names the
/// header.
pub(super) fn read(headers: &HeaderMap, data: &[u8], key: Option<&str>) -> Result<Event, Invalid> {
    let mut attributes = attributes(headers)?;
    let given = |name: &str| {
        let found = attributes.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    };
    if let Some(key) = key {
        if given("id").is_some() {
            return Err(key::refused(KEY_BESIDE_ID));
        }
        let id = EventId::of_key(given("source").unwrap_or_default(), key);
        attributes.push(("id".to_owned(), id.to_string()));
    }
    Event::from_binary(attributes, content_type(headers)?, data).map_err(as_header)
}

fn attributes(headers: &HeaderMap) -> Result<Vec<(String, String)>, Invalid> {
    let mut attributes = Vec::new();
    for (header, value) in headers {
        let Some(name) = attribute_of(header) else {
            continue;
        };
        if name == "datacontenttype" {
            let problem = "cannot be given: the Content-Type header is it";
            return Err(Invalid::new(header.as_str(), problem));
        }
        let value = decode(value).ok_or_else(|| {
            let problem = format!("must be UTF-8, percent-encoded beyond ASCII, not {value:?}");
            Invalid::new(header.as_str(), problem)
        })?;
        attributes.push((name.to_owned(), value));
    }
    Ok(attributes)
}

fn attribute_of(header: &HeaderName) -> Option<&str> {
    header.as_str().strip_prefix(PREFIX)
}

fn content_type(headers: &HeaderMap) -> Result<Option<&str>, Invalid> {
    let given = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str);
    given
        .transpose()
        .map_err(|_| Invalid::new(CONTENT_TYPE, "must be visible ASCII"))
}

/// Section 3.1.3.2: quotes come off, as older producers put them, and then one round of
/// percent-decoding. A `%` that begins no code stays, for those producers did not encode it.
fn decode(value: &HeaderValue) -> Option<String> {
    let unquoted = unquote(value.as_bytes()).unwrap_or(Cow::Borrowed(value.as_bytes()));
    let decoded = percent_decode(&unquoted).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// What a quoted string (RFC 7230, section 3.2.6) holds; `None` if this is none.
fn unquote(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let quoted = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if !quoted.contains(&b'\\') && !quoted.contains(&b'"') {
        return Some(Cow::Borrowed(quoted));
    }
    let mut bytes = quoted.iter();
    let mut text = Vec::with_capacity(quoted.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => text.push(*bytes.next()?),
            b'"' => return None,
            byte => text.push(*byte),
        }
    }
    Some(Cow::Owned(text))
}

fn as_header(refused: Invalid) -> Invalid {
    let field = match refused.field.as_str() {
        "data" => "data".to_owned(),
        "datacontenttype" => CONTENT_TYPE.to_owned(),
        name => format!("{PREFIX}{name}"),
    };
    Invalid::new(field, refused.problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's example, section 3.1.4, and more headers.
    fn headers(more: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-type", "com.example.someevent"),
            ("ce-time", "2018-04-05T03:56:24Z"),
            ("ce-id", "1234-1234-1234"),
            ("ce-source", "/mycontext/subcontext"),
            ("content-type", "application/json; charset=utf-8"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        for (name, value) in more {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_specification_s_example_is_read() {
        let event = read(&headers(&[]), br#"{ "n" : 1.50 }"#, None).unwrap();
        assert_eq!(
            event.body(),
            concat!(
                r#"{"id":"1234-1234-1234","source":"/mycontext/subcontext","specversion":"1.0","#,
                r#""time":"2018-04-05T03:56:24Z","type":"com.example.someevent","#,
                r#""datacontenttype":"application/json; charset=utf-8","data":{ "n" : 1.50 }}"#
            )
        );
    }

    #[test]
    fn values_are_decoded_once() {
        for (value, expected) in [
            (&b"Euro%20%E2%82%AC%20%F0%9F%98%80"[..], "Euro \u{20ac} \u{1f600}"),
            (b"%e2%82%ac", "\u{20ac}"),
            (b"%41%2541", "A%41"),
            (b"100%", "100%"),
            (b"a b", "a b"),
            ("\u{20ac}".as_bytes(), "\u{20ac}"),
            (br#""a \"b\" %20 \\""#, r#"a "b"   \"#),
            (br#""a"b""#, r#""a"b""#),
            (br#""a\""#, r#""a\""#),
            (b"\"", "\""),
        ] {
            let event = read(&headers(&[("ce-subject", value)]), b"", None).unwrap();
            assert_eq!(event.subject(), Some(expected));
        }
    }

    #[test]
    fn a_refusal_names_the_header() {
        for (header, value, field) in [
            ("ce-subject", &b"%C0%A0"[..], "ce-subject"),
            ("ce-subject", b"\xff", "ce-subject"),
            ("ce-subject", b"", "ce-subject"),
            ("ce-type", b"a.b", "ce-type"),
            ("ce-my-extension", b"x", "ce-my-extension"),
            ("ce-", b"x", "ce-"),
            ("ce-datacontenttype", b"text/plain", "ce-datacontenttype"),
        ] {
            let refused = read(&headers(&[(header, value)]), b"", None).unwrap_err();
            assert_eq!(refused.field, field, "{refused}");
        }
        for attribute in ["ce-specversion", "ce-id", "ce-source", "ce-type"] {
            let mut headers = headers(&[]);
            headers.remove(attribute);
            assert_eq!(
                read(&headers, b"", None).unwrap_err(),
                Invalid::new(attribute, "is missing")
            );
        }
        let mut empty = headers(&[]);
        empty.insert(header::CONTENT_TYPE, HeaderValue::from_static(""));
        assert_eq!(read(&empty, b"", None).unwrap_err().field, "Content-Type");
        assert_eq!(read(&headers(&[]), b"{", None).unwrap_err().field, "data");
    }

    #[test]
    fn a_key_stands_for_a_missing_id_alone() {
        let mut headers = headers(&[]);
        let both = read(&headers, b"", Some("k1")).unwrap_err();
        assert_eq!(both.field, "Idempotency-Key");
        headers.remove("ce-id");
        let keyed = read(&headers, b"", Some("k1")).unwrap();
        assert_eq!(keyed.id(), &EventId::of_key("/mycontext/subcontext", "k1"));
        headers.remove("ce-source");
        assert_eq!(
            read(&headers, b"", Some("k1")).unwrap_err(),
            Invalid::new("ce-source", "is missing")
        );
    }
}
