use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::invalid::{Given, Invalid};

/// Headers of the endpoint owner's own, sent with every attempt. They may hold credentials, so
/// their values never print.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct CustomHeaders(BTreeMap<String, String>);

/// What the relay, or HTTP itself, sets.
const RESERVED: [&str; 10] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
const RESERVED_PREFIXES: [&str; 2] = ["webhook-", "x-webhook-"];
const MAX_HEADERS: usize = 20;
const MAX_VALUE_BYTES: usize = 4096;

impl CustomHeaders {
    /// Headers by name; names are compared without case and kept in lower case.
    ///
    /// # Errors
    /// A name that is no token (RFC 9110 section 5.6.2) or is the relay's to set, a value with
    /// control or non-ASCII characters or over 4 KiB, a name twice, or more than 20 of them.
    pub fn new(headers: impl IntoIterator<Item = (String, String)>) -> Result<Self, Invalid> {
        let mut kept = BTreeMap::new();
        for (name, value) in headers {
            let name = header_name(&name)?;
            check_value(&name, &value)?;
            if kept.insert(name.clone(), value).is_some() {
                return Err(Invalid::new("headers", format!("{name} is given twice")));
            }
        }
        if kept.len() > MAX_HEADERS {
            return Err(Invalid::new(
                "headers",
                format!("at most {MAX_HEADERS} are allowed, not {}", kept.len()),
            ));
        }
        Ok(Self(kept))
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names alone, which may be shown.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn header_name(given: &str) -> Result<String, Invalid> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if given.is_empty() || given.len() > 100 || !given.bytes().all(token) {
        return Err(Invalid::new(
            "headers",
            format!("{} is not a header name", Given(given)),
        ));
    }
    let name = given.to_ascii_lowercase();
    if RESERVED.contains(&name.as_str()) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Err(Invalid::new(
            "headers",
            format!("{name} is set by the relay and cannot be chosen"),
        ));
    }
    Ok(name)
}

fn check_value(name: &str, value: &str) -> Result<(), Invalid> {
    let printable = |b: u8| b.is_ascii_graphic() || b == b' ' || b == b'\t';
    if value.len() <= MAX_VALUE_BYTES && value.bytes().all(printable) {
        return Ok(());
    }
    Err(Invalid::new(
        "headers",
        format!("the value of {name} must be at most {MAX_VALUE_BYTES} visible ASCII characters and spaces"),
    ))
}

impl std::fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl<'de> Deserialize<'de> for CustomHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = BTreeMap::<String, String>::deserialize(deserializer)?;
        Self::new(given).map_err(|refused| serde::de::Error::custom(refused.problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<CustomHeaders, Invalid> {
        CustomHeaders::new([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn the_relay_s_own_headers_cannot_be_chosen() {
        for name in [
            "Content-Type",
            "webhook-id",
            "X-Webhook-Signature",
            "Host",
            "Transfer-Encoding",
        ] {
            assert!(one(name, "x").is_err(), "{name}");
        }
        assert!(one("Authorization", "Bearer abc").is_ok());
    }

    #[test]
    fn nothing_can_be_smuggled_into_the_request() {
        for (name, value) in [
            ("a b", "x"),
            ("", "x"),
            ("a:b", "x"),
            ("a", "x\r\nhost: evil"),
            ("a", "ü"),
        ] {
            assert!(one(name, value).is_err(), "{name:?}: {value:?}");
        }
        let twice = [("A".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        assert!(CustomHeaders::new(twice).is_err());
    }

    #[test]
    fn values_do_not_print() {
        let headers = one("authorization", "Bearer abc").unwrap();
        assert_eq!(format!("{headers:?}"), r#"{"authorization"}"#);
    }
}
