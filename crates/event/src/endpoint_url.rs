//! The URL of an endpoint, and what is wrong with one that can never work.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer};
use url::{Host, ParseError, Url};

use crate::invalid::{Given, Invalid, text_type};

/// The longest URL, in bytes.
const MAX_BYTES: usize = 2_048;

/// The longest host name and the longest part of one between dots (RFC 1035 section 2.3.4), in bytes.
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// The address where a consumer takes its events: an `http` or `https` URL with a host, without user name,
/// password or fragment, of at most 2,048 bytes. One that reading would turn into another host or path is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl(Url);

impl EndpointUrl {
    /// The parsed URL.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Reads a URL that was stored, perhaps when more was taken than today.
    pub(crate) fn stored<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Url::deserialize(deserializer).map(Self)
    }
}

impl FromStr for EndpointUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        read(text)
            .map(Self)
            .map_err(|problem| Invalid::new("url", problem))
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

text_type!(EndpointUrl);

/// Reads a URL, or says what is wrong with it.
fn read(text: &str) -> Result<Url, String> {
    let rest = after_scheme(text)?;
    // URLs are shown and logged; headers' values are not. The refusal does not repeat it.
    if authority(rest).contains('@') {
        return Err("must hold no user name or password: give an Authorization header instead".to_owned());
    }
    if text.len() > MAX_BYTES {
        return Err(format!("must have at most {MAX_BYTES} bytes, not {}", text.len()));
    }
    if let Some(found) = text.chars().find(|c| c.is_control()) {
        let name = match found {
            '\n' | '\r' => "a line break".to_owned(),
            '\t' => "a tab".to_owned(),
            found => format!("the control character U+{:04X}", u32::from(found)),
        };
        return Err(format!("must not hold {name}"));
    }
    if text.trim() != text {
        return Err("must not begin or end with a space".to_owned());
    }
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    if place.contains('\\') {
        return Err("must not hold a backslash: the parts of a URL are separated by /".to_owned());
    }
    if rest.contains('#') {
        return Err("must have no fragment (what stands after #): it is never sent".to_owned());
    }
    let host = host(rest)?;
    let url = Url::parse(text).map_err(|error| not_parsed(error, text))?;
    if url.port() == Some(0) {
        return Err("must name a port from 1 to 65535, not 0".to_owned());
    }
    if url.as_str().len() > MAX_BYTES {
        let bytes = url.as_str().len();
        return Err(format!(
            "must have at most {MAX_BYTES} bytes, not {bytes} as {}",
            Given(url.as_str())
        ));
    }
    check_host(host, &url)?;
    Ok(url)
}

/// The part that follows `http://` or `https://`.
fn after_scheme(text: &str) -> Result<&str, String> {
    const EXAMPLE: &str = "such as https://example.com/hook";
    let trimmed = text.trim_start();
    let scheme = trimmed.split_once(':').map(|(scheme, _)| scheme);
    let is_scheme = |scheme: &&str| {
        let mut bytes = scheme.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let scheme = scheme.filter(is_scheme);
    let has_slashes = trimmed.contains("://");
    match scheme.map(str::to_ascii_lowercase).as_deref() {
        Some(known @ ("http" | "https")) => {
            let rest = &trimmed[known.len() + 1..];
            let rest = rest.strip_prefix("//");
            rest.ok_or_else(|| format!("must have two slashes after {known}:, {EXAMPLE}"))
        }
        Some(other) if has_slashes => Err(format!("must begin with http:// or https://, not {other}:")),
        _ => Err(format!("must begin with http:// or https://, {EXAMPLE}")),
    }
}

/// Everything up to the path.
fn authority(rest: &str) -> &str {
    rest.split(['/', '?', '#', '\\']).next().unwrap_or_default()
}

/// The host as it is written.
fn host(rest: &str) -> Result<&str, String> {
    let authority = authority(rest);
    let (host, port) = match authority.find(']') {
        Some(end) => authority.split_at(end + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() {
        return Err("must name a host, such as https://example.com/hook".to_owned());
    }
    let port = port.strip_prefix(':').unwrap_or(port);
    if !port.is_empty() && port.parse::<u16>().is_err() {
        return Err(format!("must name a port from 1 to 65535, not {}", Given(port)));
    }
    Ok(host)
}

fn not_parsed(error: ParseError, text: &str) -> String {
    match error {
        ParseError::EmptyHost => "must name a host, such as https://example.com/hook".to_owned(),
        ParseError::InvalidPort => "must name a port from 1 to 65535".to_owned(),
        ParseError::InvalidIpv6Address => {
            "must hold an IPv6 address such as http://[2001:db8::1]/".to_owned()
        }
        ParseError::InvalidIpv4Address => "must hold an IPv4 address of four numbers up to 255".to_owned(),
        ParseError::IdnaError | ParseError::InvalidDomainCharacter => {
            format!(
                "must hold a host name that can exist, not that of {}",
                Given(text)
            )
        }
        error => format!(
            "must be a URL such as https://example.com/hook, not {}: {error}",
            Given(text)
        ),
    }
}

/// Refuses a host name that cannot be, and one that reading has turned into another. The case of letters,
/// the encoding of international names (IDNA) and the ways to write an IPv6 address are no difference.
fn check_host(given: &str, url: &Url) -> Result<(), String> {
    let read = url.host_str().unwrap_or_default();
    if let Some(Host::Domain(_)) = url.host() {
        let labels: Vec<&str> = read.strip_suffix('.').unwrap_or(read).split('.').collect();
        if labels.contains(&"") {
            return Err(format!(
                "must hold a host name without an empty part between dots, not {}",
                Given(given)
            ));
        }
        if let Some(long) = labels.iter().find(|label| label.len() > MAX_LABEL_BYTES) {
            return Err(format!(
                "must hold a host name with at most {MAX_LABEL_BYTES} bytes between dots, not {} as in {}",
                long.len(),
                Given(long)
            ));
        }
        if read.len() > MAX_HOST_BYTES {
            return Err(format!(
                "must hold a host name of at most {MAX_HOST_BYTES} bytes, not {}",
                read.len()
            ));
        }
    }
    let same_label = |(given, read): (&str, &str)| {
        if given.is_ascii() {
            given.eq_ignore_ascii_case(read)
        } else {
            read.starts_with("xn--")
        }
    };
    let same = matches!(url.host(), Some(Host::Ipv6(_)))
        || given.split('.').count() == read.split('.').count()
            && given.split('.').zip(read.split('.')).all(same_label);
    if same {
        return Ok(());
    }
    Err(format!(
        "must name its host as it is: {} means {url}; give that if it is meant",
        Given(given)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<EndpointUrl>().expect_err(text).to_string()
    }

    #[test]
    fn what_is_given_is_what_is_kept() {
        let long = format!("https://example.com/{}", "a".repeat(1_900));
        for (given, kept) in [
            ("https://example.com/hook", "https://example.com/hook"),
            ("http://example.com", "http://example.com/"),
            ("HTTPS://Example.COM:443/Hook", "https://example.com/Hook"),
            ("http://example.com./", "http://example.com./"),
            ("http://localhost:9000/", "http://localhost:9000/"),
            ("http://my_service:65535/", "http://my_service:65535/"),
            ("http://127.0.0.1:9000/hook", "http://127.0.0.1:9000/hook"),
            ("http://[::1]:9000/", "http://[::1]:9000/"),
            ("http://[2001:DB8:0:0::1]/", "http://[2001:db8::1]/"),
            ("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
            (
                "https://bücher.example/straße",
                "https://xn--bcher-kva.example/stra%C3%9Fe",
            ),
            ("https://BÜCHER.example/", "https://xn--bcher-kva.example/"),
            ("https://例え.テスト/", "https://xn--r8jz45g.xn--zckzah/"),
            (
                "https://example.com/a?b=c&d=\\e/%20",
                "https://example.com/a?b=c&d=\\e/%20",
            ),
            ("https://example.com/a@b", "https://example.com/a@b"),
            ("https://example.com?to=a@b.c", "https://example.com/?to=a@b.c"),
            (&long, &long),
        ] {
            let url: EndpointUrl = given
                .parse()
                .unwrap_or_else(|refused| panic!("{given}: {refused}"));
            assert_eq!(url.to_string(), kept);
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        let label = format!("http://{}.example/", "a".repeat(64));
        let host = format!("http://{}example/", "abcdefg.".repeat(40));
        let long = format!("https://example.com/{}", "a".repeat(2_048));
        let longer = format!("https://example.com/{}", "ß".repeat(500));
        for (given, says) in [
            ("", "must begin with http:// or https://"),
            ("example.com", "must begin with http:// or https://"),
            ("example.com:8080/hook", "must begin with http:// or https://"),
            ("//example.com/", "must begin with http:// or https://"),
            ("ftp://example.com/", "not ftp:"),
            ("file:///etc/passwd", "not file:"),
            ("http://", "name a host"),
            ("http:///x", "name a host"),
            ("http://:80/", "name a host"),
            ("http:x", "two slashes"),
            ("http:/x", "two slashes"),
            ("http:\\\\x", "two slashes"),
            ("http://a\\b/", "backslash"),
            ("http://a/b\\c", "backslash"),
            ("https://example.com/#part", "no fragment"),
            ("https://user:secret@example.com/", "Authorization"),
            ("https://user@example.com/", "Authorization"),
            ("http://example.com:0/", "from 1 to 65535, not 0"),
            ("http://example.com:99999/", "from 1 to 65535, not \"99999\""),
            ("http://example.com:http/", "from 1 to 65535, not \"http\""),
            ("http://a..b/", "empty part"),
            ("http://.../", "empty part"),
            ("http://.a/", "empty part"),
            (&label, "at most 63 bytes between dots, not 64"),
            (&host, "at most 253 bytes"),
            (&long, "at most 2048 bytes, not 2068"),
            (&longer, "at most 2048 bytes, not 3020"),
            ("http://a/b\nX: y", "a line break"),
            ("http://a/b\r", "a line break"),
            ("http://a\t/", "a tab"),
            ("http://a/\0", "U+0000"),
            (" http://a/", "a space"),
            ("http://a/ ", "a space"),
            ("http://%31%32%37.0.0.1/", "means http://127.0.0.1/"),
            ("http://ex%61mple.com/", "means http://example.com/"),
            ("http://0x7f.1/", "means http://127.0.0.1/"),
            ("http://2130706433/", "means http://127.0.0.1/"),
            ("http://127.1/", "means http://127.0.0.1/"),
            ("http://１２７.0.0.1/", "means http://127.0.0.1/"),
            ("http://exam\u{ad}ple.com/", "means http://example.com/"),
            ("http://a。b/", "means http://a.b/"),
            ("http://256.1.1.1/", "IPv4"),
            ("http://[::g]/", "IPv6"),
            ("http://a b/", "can exist"),
        ] {
            let refused = refused(given);
            assert!(refused.contains(says), "{given:?}: {refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }

    /// An endpoint that was taken once is read, however it is written.
    #[test]
    fn what_is_stored_is_read() {
        #[derive(Deserialize)]
        struct Kept {
            #[serde(deserialize_with = "EndpointUrl::stored")]
            url: EndpointUrl,
        }
        for url in [
            "http://example.com:0/",
            "http://a..b/",
            "http://127.0.0.1/aX:%20y",
        ] {
            let kept: Kept = serde_json::from_str(&format!("{{\"url\":{url:?}}}")).unwrap();
            assert_eq!(kept.url.to_string(), url);
        }
    }
}
