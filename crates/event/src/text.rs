//! The forms of text that CloudEvents' type system has.
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#type-system>

use iri_string::types::{UriReferenceStr, UriStr};

use crate::{
    invalid::{Given, Invalid},
    limits::MAX_SOURCE_BYTES,
};

/// The first character that no String of CloudEvents holds: a control character or a noncharacter.
/// (Unpaired surrogates, which it forbids too, are no Rust text.)
pub(crate) fn forbidden(text: &str) -> Option<char> {
    text.chars().find(|c| c.is_control() || is_noncharacter(*c))
}

/// Unicode 15.0, section 23.7.
fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

/// Checks that an attribute is a String.
pub(crate) fn check(name: &str, text: &str) -> Result<(), Invalid> {
    let Some(c) = forbidden(text) else {
        return Ok(());
    };
    Err(Invalid::new(
        name,
        format!(
            "must hold no control characters and no noncharacters (CloudEvents' type String), but holds U+{:04X}",
            u32::from(c)
        ),
    ))
}

/// Checks a `source`: a non-empty URI reference (RFC 3986, section 4.1).
///
/// # Errors
/// It is none, or longer than 1,024 bytes.
pub fn check_source(text: &str) -> Result<(), Invalid> {
    let is_reference = !text.is_empty() && UriReferenceStr::new(text).is_ok();
    if is_reference && text.len() <= MAX_SOURCE_BYTES {
        return Ok(());
    }
    Err(Invalid::new(
        "source",
        format!(
            "must be a URI reference of 1 to {MAX_SOURCE_BYTES} bytes, percent-encoded where RFC 3986 asks for it, such as /orders, not {}",
            Given(text)
        ),
    ))
}

/// Checks a `source` as versions of the relay did that knew less of URIs: their events are in the log.
pub(crate) fn check_source_of_old(text: &str) -> Result<(), Invalid> {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if (1..=MAX_SOURCE_BYTES).contains(&text.len()) && !text.chars().any(odd) {
        return Ok(());
    }
    check_source(text)
}

/// Checks a `dataschema`: a URI with a scheme. CloudEvents means one without a fragment (RFC 3986, section
/// 4.3), but schemas are named by fragments everywhere, so those pass.
pub(crate) fn check_schema(text: &str) -> Result<(), Invalid> {
    if UriStr::new(text).is_ok() {
        return Ok(());
    }
    Err(Invalid::new(
        "dataschema",
        format!(
            "must be an absolute URI (RFC 3986), such as https://example.com/schema.json, not {}",
            Given(text)
        ),
    ))
}

/// Checks a `datacontenttype`: a media type (RFC 2046, in the grammar of RFC 2045, section 5.1). Comments
/// may stand where spaces may, and a parameter may be empty, as HTTP has it (RFC 9110, section 5.6.6).
pub(crate) fn check_media_type(text: &str) -> Result<(), Invalid> {
    if MediaType(text).reads_whole() {
        return Ok(());
    }
    Err(Invalid::new(
        "datacontenttype",
        format!(
            "must be a media type (RFC 2046), such as application/json or text/plain; charset=utf-8, not {}",
            Given(text)
        ),
    ))
}

/// The rest of a media type, which is still to be read.
struct MediaType<'a>(&'a str);

impl MediaType<'_> {
    fn reads_whole(mut self) -> bool {
        self.read().is_some() && self.0.is_empty()
    }

    fn read(&mut self) -> Option<()> {
        self.spaces()?;
        self.token()?;
        self.eat('/')?;
        self.token()?;
        self.spaces()?;
        while self.eat(';').is_some() {
            self.spaces()?;
            if self.token().is_some() {
                self.spaces()?;
                self.eat('=')?;
                self.spaces()?;
                self.value()?;
                self.spaces()?;
            }
        }
        Some(())
    }

    fn eat(&mut self, c: char) -> Option<()> {
        self.0 = self.0.strip_prefix(c)?;
        Some(())
    }

    fn token(&mut self) -> Option<()> {
        let is_token = |c: char| c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?=".contains(c);
        let rest = self.0.trim_start_matches(is_token);
        (rest.len() < self.0.len()).then(|| self.0 = rest)
    }

    fn value(&mut self) -> Option<()> {
        if self.eat('"').is_none() {
            return self.token();
        }
        let mut characters = self.0.chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => drop(characters.next()?),
                _ => {}
            }
        }
        self.0 = characters.as_str();
        Some(())
    }

    /// Spaces, tabs and comments; `None` where a comment has no end.
    fn spaces(&mut self) -> Option<()> {
        loop {
            self.0 = self.0.trim_start_matches([' ', '\t']);
            if !self.0.starts_with('(') {
                return Some(());
            }
            self.comment()?;
        }
    }

    /// RFC 822, section 3.3: comments nest.
    fn comment(&mut self) -> Option<()> {
        let (mut depth, mut characters) = (0_usize, self.0.chars());
        loop {
            match characters.next()? {
                '(' => depth += 1,
                ')' => depth -= 1,
                '\\' => drop(characters.next()?),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        self.0 = characters.as_str();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_and_noncharacters_are_forbidden() {
        for c in [
            '\0',
            '\n',
            '\u{1f}',
            '\u{7f}',
            '\u{80}',
            '\u{9f}',
            '\u{fdd0}',
            '\u{fdef}',
            '\u{fffe}',
            '\u{ffff}',
            '\u{1fffe}',
            '\u{10ffff}',
        ] {
            let text = format!("a{c}b");
            assert_eq!(forbidden(&text), Some(c));
            let code = format!("U+{:04X}", u32::from(c));
            assert!(check("x", &text).unwrap_err().problem.ends_with(&code));
        }
        for text in [
            "",
            " a b ",
            "\u{a0}",
            "ü€😀",
            "\u{fdcf}\u{fdf0}\u{fffd}\u{feff}\u{202e}",
        ] {
            assert_eq!(forbidden(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_source_is_a_uri_reference() {
        for text in [
            "/relay",
            "orders",
            "urn:x:y",
            "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
            "https://example.com/a%20b?c=d#e",
            "//host/path",
            "?query",
            "#fragment",
            "mailto:a@example.com",
            "http://[::1]:80/",
            "/a:b@c!$&'()*+,;=~",
            "..",
        ] {
            assert_eq!(check_source(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "a b",
            "http://[bad",
            "/a<b>",
            "/a%zz",
            "/a%",
            "/ä",
            "/a\"b",
            "/a|b",
            "/a\\b",
            "/a^b",
            "/a`b",
            "/{id}",
            "/a\n",
            "1a:b",
            "http://host:port/",
            "/a#b#c",
            &format!("/{}", "x".repeat(MAX_SOURCE_BYTES)),
        ] {
            assert_eq!(check_source(text).expect_err(text).field, "source");
        }
        for (text, kept) in [("http://[bad", true), ("/ä", true), ("a b", false), ("", false)] {
            assert_eq!(check_source_of_old(text).is_ok(), kept, "{text}");
        }
    }

    #[test]
    fn a_schema_is_a_uri_with_a_scheme() {
        for text in [
            "https://example.com/s.json",
            "urn:x:y",
            "https://example.com/s.json#/a",
        ] {
            assert_eq!(check_schema(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "/s.json",
            "s.json",
            "//example.com/s",
            "https://example.com/a b",
            "http://[bad",
        ] {
            assert_eq!(check_schema(text).expect_err(text).field, "dataschema");
        }
    }

    #[test]
    fn a_content_type_is_a_media_type() {
        for text in [
            "application/json",
            "Application/CloudEvents+JSON; charset=UTF-8",
            "text/plain;charset=utf-8",
            "text/plain ; charset = \"us; \\\"ascii\"",
            "text/plain; charset=us-ascii (Plain (plain) text)",
            "text/xml;",
            "text/xml; ;a=b",
            "application/vnd.a-b.c_d+e!#$&^f",
            "*/*",
            "multipart/mixed; boundary=\"a b\"; x=\"\"",
        ] {
            assert_eq!(check_media_type(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "json",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "a b/c",
            "text/plain; charset",
            "text/plain; charset=",
            "text/plain; =x",
            "text/plain; a=\"b",
            "text/plain (no end",
            "text/plain, text/html",
            "text/plain charset=utf-8",
            "ä/b",
            "a/b;ä=c",
        ] {
            assert_eq!(check_media_type(text).expect_err(text).field, "datacontenttype");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~ä()\"\\\\;=/]{0,40}") {
            let _ = (check("x", &text), check_source(&text), check_schema(&text), check_media_type(&text));
        }
    }
}
