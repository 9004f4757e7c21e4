//! How a delivery is signed, and how a receiver checks it.
//!
//! The scheme is Standard Webhooks' symmetric one: HMAC-SHA256 over `id.timestamp.body`
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{Secret, Timestamp};

/// How far a receiver lets `webhook-timestamp` be from its own clock, both ways.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// Why a receiver should not believe a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// A header is missing or unreadable.
    #[error("`{0}` is missing or unreadable")]
    Header(&'static str),
    /// The timestamp is more than [`TOLERANCE`] from now.
    #[error("the timestamp is more than 5 minutes from this clock")]
    Timestamp,
    /// No signature was made with any of the secrets.
    #[error("no signature fits")]
    Signature,
}

/// The `webhook-signature` header: a `v1` signature for each secret, separated by spaces.
/// `timestamp` is in seconds since 1970.
pub fn sign<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> String {
    let one = |secret| {
        format!(
            "v1,{}",
            STANDARD.encode(mac(secret, id, timestamp, body).finalize().into_bytes())
        )
    };
    let signatures: Vec<String> = secrets.into_iter().map(one).collect();
    signatures.join(" ")
}

/// The `X-Webhook-Signature` header of the plain style: hexadecimal HMAC-SHA256 of the body alone,
/// keyed with the whole text of the secret; several, separated by commas, while secrets overlap.
pub fn sign_plain<'a>(secrets: impl IntoIterator<Item = &'a Secret>, body: &[u8]) -> String {
    let signatures: Vec<String> = secrets
        .into_iter()
        .map(|secret| hex(plain_mac(secret, body)))
        .collect();
    signatures.join(",")
}

/// Checks a delivery in the standard style as its receiver does. `now` and `timestamp` are in
/// seconds since 1970.
///
/// # Errors
/// Why it is not to be believed.
pub fn verify(
    secrets: &[Secret],
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now: i64,
) -> Result<(), Unverified> {
    let timestamp: i64 = timestamp
        .parse()
        .map_err(|_| Unverified::Header("webhook-timestamp"))?;
    if now.abs_diff(timestamp) > TOLERANCE.as_secs() {
        return Err(Unverified::Timestamp);
    }
    let given: Vec<Vec<u8>> = signatures
        .split(' ')
        .filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1,")?).ok())
        .collect();
    let fits = |secret: &Secret| {
        given
            .iter()
            .any(|tag| mac(secret, id, timestamp, body).verify_slice(tag).is_ok())
    };
    if secrets.iter().any(fits) {
        Ok(())
    } else {
        Err(Unverified::Signature)
    }
}

/// Checks a delivery in the plain style as its receiver does.
///
/// # Errors
/// No signature fits.
pub fn verify_plain(secrets: &[Secret], signatures: &str, body: &[u8]) -> Result<(), Unverified> {
    let fits = |secret: &Secret| {
        signatures
            .split(',')
            .filter_map(unhex)
            .any(|tag| plain_mac(secret, body).verify_slice(&tag).is_ok())
    };
    if secrets.iter().any(fits) {
        Ok(())
    } else {
        Err(Unverified::Signature)
    }
}

/// Checks how old a delivery in the plain style says it is: `X-Webhook-Timestamp` in RFC 3339, or in seconds
/// since 1970 as `plain-seconds` has it. No signature covers it.
///
/// # Errors
/// It is no time, or too far from `now`, which is in seconds since 1970.
pub fn verify_plain_timestamp(timestamp: &str, now: i64) -> Result<(), Unverified> {
    let seconds = timestamp.parse().ok();
    let written = || timestamp.parse::<Timestamp>().ok().map(Timestamp::as_secs);
    let timestamp = seconds
        .or_else(written)
        .ok_or(Unverified::Header("x-webhook-timestamp"))?;
    if now.abs_diff(timestamp) > TOLERANCE.as_secs() {
        return Err(Unverified::Timestamp);
    }
    Ok(())
}

fn mac(secret: &Secret, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = keyed(secret.key());
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    mac
}

fn plain_mac(secret: &Secret, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = keyed(secret.as_str().as_bytes());
    mac.update(body);
    mac
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn hex(mac: Hmac<Sha256>) -> String {
    mac.finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector() -> Secret {
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap()
    }

    #[test]
    fn signs_the_specification_s_example() {
        let signature = sign(
            [&vector()],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// RFC 4231's method against `openssl dgst -sha256 -hmac`.
    #[test]
    fn signs_plainly_with_the_secret_s_text() {
        let signature = sign_plain([&vector()], b"hello");
        assert_eq!(
            signature,
            "c770c8b4e83a988d5236a41db64cb85cf40319a4d0c94a69aacc5703cf225ee4"
        );
        assert_eq!(verify_plain(&[vector()], &signature, b"hello"), Ok(()));
        assert_eq!(
            verify_plain(&[vector()], &signature, b"hullo"),
            Err(Unverified::Signature)
        );
        assert_eq!(
            verify_plain(&[Secret::generate()], &signature, b"hello"),
            Err(Unverified::Signature)
        );
    }

    #[test]
    fn an_old_timestamp_is_not_believed() {
        let header = sign([&vector()], "id", 1_000, b"x");
        assert_eq!(verify(&[vector()], "id", "1000", &header, b"x", 1_300), Ok(()));
        assert_eq!(
            verify(&[vector()], "id", "1000", &header, b"x", 1_301),
            Err(Unverified::Timestamp)
        );
        assert_eq!(
            verify(&[vector()], "id", "1000", &header, b"x", 699),
            Err(Unverified::Timestamp)
        );
        assert_eq!(
            verify(&[vector()], "id", "soon", &header, b"x", 1_000),
            Err(Unverified::Header("webhook-timestamp"))
        );
    }

    #[test]
    fn an_old_plain_timestamp_is_not_believed_in_either_form() {
        let now = 1_614_265_330;
        for (timestamp, says) in [
            ("1614265330", Ok(())),
            ("1614265030", Ok(())),
            ("1614265029", Err(Unverified::Timestamp)),
            ("2021-02-25T15:02:10.042Z", Ok(())),
            ("2021-02-25T15:07:10.999Z", Ok(())),
            ("2021-02-25T15:07:11.000Z", Err(Unverified::Timestamp)),
            ("", Err(Unverified::Header("x-webhook-timestamp"))),
            ("yesterday", Err(Unverified::Header("x-webhook-timestamp"))),
        ] {
            assert_eq!(verify_plain_timestamp(timestamp, now), says, "{timestamp:?}");
        }
    }

    proptest! {
        /// The receivers' own library takes every signature of ours, by either overlapping secret.
        #[test]
        fn the_independent_library_agrees(id in "[!-~]{1,40}", body in ".{0,200}") {
            let (old, new) = (Secret::generate(), Secret::generate());
            let now = crate::Timestamp::now().as_secs();
            let body = body.as_bytes();
            let signature = sign([&new, &old], &id, now, body);
            let mut headers = http::HeaderMap::new();
            headers.insert("webhook-id", id.parse().unwrap());
            headers.insert("webhook-timestamp", now.to_string().parse().unwrap());
            headers.insert("webhook-signature", signature.parse().unwrap());
            for secret in [&old, &new] {
                let receiver = standardwebhooks::Webhook::new(secret.as_str()).unwrap();
                prop_assert!(receiver.verify(body, &headers).is_ok());
                prop_assert_eq!(verify(std::slice::from_ref(secret), &id, &now.to_string(), &signature, body, now), Ok(()));
            }
            let stranger = [Secret::generate()];
            prop_assert_eq!(verify(&stranger, &id, &now.to_string(), &signature, body, now), Err(Unverified::Signature));
        }

        #[test]
        fn garbage_is_not_believed_and_does_not_panic(signatures in ".*", timestamp in ".*") {
            prop_assert!(verify(&[vector()], "id", &timestamp, &signatures, b"x", 0).is_err());
            prop_assert!(verify_plain(&[vector()], &signatures, b"x").is_err());
        }
    }
}
