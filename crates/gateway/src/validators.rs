//! Entity tags: whether a client has an answer already (RFC 9110, section 8.8.3 and 13.1.2).

use axum::http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};

/// The tag of an answer that says this. Weak, since the same may be compressed or not.
pub(crate) fn of(says: &str) -> HeaderValue {
    let digest = Sha256::digest(says);
    let tag: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("W/\"{tag}\"")).unwrap_or(HeaderValue::from_static("W/\"\""))
}

/// Whether the client named this tag as one that it has.
pub(crate) fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let mut known = headers.get_all(header::IF_NONE_MATCH).into_iter();
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let Ok(tag) = tag.to_str() else {
        return false;
    };
    known.any(|known| {
        let known = known.to_str().unwrap_or_default();
        known.split(',').any(|known| opaque(known) == opaque(tag))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_among_others() {
        let tag = of("this");
        assert_ne!(tag, of("that"));
        let text = tag.to_str().unwrap();
        for (known, expected) in [
            (text.to_owned(), true),
            (text.trim_start_matches("W/").to_owned(), true),
            (format!("\"other\", {text}"), true),
            ("\"other\"".to_owned(), false),
            (String::new(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
            assert_eq!(is_known(&headers, &tag), expected, "{known}");
        }
        assert!(!is_known(&HeaderMap::new(), &tag));
    }
}
