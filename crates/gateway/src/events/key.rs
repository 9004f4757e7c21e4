//! `Idempotency-Key`: what a request says that is the same however often it is sent.

use axum::http::HeaderMap;
use relay_event::Invalid;

const NAME: &str = "Idempotency-Key";
const MAX_BYTES: usize = 255;

/// A request's key, if it has one.
pub(super) fn read(headers: &HeaderMap) -> Result<Option<&str>, Invalid> {
    let mut given = headers.get_all(NAME).iter();
    let Some(first) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(refused("is given twice"));
    }
    let key = first.as_bytes();
    if (1..=MAX_BYTES).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic) {
        return Ok(first.to_str().ok());
    }
    Err(refused(format!(
        "must be 1 to {MAX_BYTES} visible ASCII characters without spaces, not {first:?}"
    )))
}

pub(super) fn beside_batch() -> Invalid {
    refused("cannot stand beside a batch, whose events have ids of their own")
}

pub(super) fn refused(problem: impl Into<String>) -> Invalid {
    Invalid::new(NAME, problem)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(keys: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append(NAME, HeaderValue::from_bytes(key).unwrap());
        }
        headers
    }

    #[test]
    fn a_key_is_visible_ascii() {
        let longest = "k".repeat(255);
        assert_eq!(read(&headers(&[])), Ok(None));
        for key in ["k", "\"8e03978e-40d5\"", &longest] {
            assert_eq!(read(&headers(&[key.as_bytes()])), Ok(Some(key)));
        }
        let too_long = "k".repeat(256);
        for wrong in [
            &[&b""[..]][..],
            &[b"two words"],
            &[b"\xc3\xa9"],
            &[b"tab\t"],
            &[too_long.as_bytes()],
            &[b"k", b"k"],
        ] {
            assert_eq!(read(&headers(wrong)).unwrap_err().field, "Idempotency-Key");
        }
    }
}
