//! The access token itself: what it lets see, signed. Nothing of it is kept.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use relay_event::{Timestamp, TypePattern};
use relay_store::EventFilter;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::Token;

/// What the relay's token is not used for by anything else.
const PURPOSE: &[u8] = b"event-relay access token 1";

/// The events that somebody may read, until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Access {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) types: Vec<TypePattern>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<String>,
    pub(super) expires_at: Timestamp,
}

impl Access {
    pub(super) fn filter(&self) -> EventFilter {
        EventFilter {
            types: self.types.clone(),
            source: self.source.clone(),
            subject: self.subject.clone(),
            ..EventFilter::default()
        }
    }

    /// How long it is still good for.
    pub(crate) fn left(&self) -> Duration {
        self.expires_at.since(Timestamp::now())
    }
}

/// What access tokens are signed with. It comes from the relay's token, so that they end with it; every
/// relay without one has the same, for there it protects nothing.
pub(crate) struct Key(Hmac<Sha256>);

impl Key {
    pub(crate) fn derive(token: Option<&Token>) -> Self {
        let mut derived = keyed(token.map(Token::as_str).unwrap_or_default().as_bytes());
        derived.update(PURPOSE);
        Self(keyed(&derived.finalize().into_bytes()))
    }

    /// The token that says so: claims and signature, with nothing in it that a URL would change.
    pub(crate) fn seal(&self, access: &Access) -> Result<String, serde_json::Error> {
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(access)?);
        let tag = self.mac(&claims).finalize().into_bytes();
        Ok(format!("{claims}.{}", URL_SAFE_NO_PAD.encode(tag)))
    }

    /// What a token says, if it was made with this key; it may have expired.
    pub(crate) fn open(&self, token: &str) -> Option<Access> {
        let (claims, tag) = token.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        // In the same time whichever bytes differ.
        self.mac(claims).verify_slice(&tag).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    fn mac(&self, claims: &str) -> Hmac<Sha256> {
        self.0.clone().chain_update(claims)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(token: &str) -> Key {
        Key::derive(Some(&token.parse().unwrap()))
    }

    fn access() -> Access {
        Access {
            types: vec!["import.*".parse().unwrap()],
            source: None,
            subject: Some("import-42".to_owned()),
            expires_at: "2026-01-31T09:30:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn only_the_same_key_opens_it() {
        let sealed = key("hunter2").seal(&access()).unwrap();
        assert_eq!(key("hunter2").open(&sealed), Some(access()));
        assert_eq!(key("hunter3").open(&sealed), None);
        assert_eq!(Key::derive(None).open(&sealed), None);
        let in_a_url = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        assert!(sealed.bytes().all(in_a_url), "{sealed}");
    }

    #[test]
    fn whatever_is_changed_of_it_it_does_not_open() {
        let key = key("hunter2");
        let sealed = key.seal(&access()).unwrap();
        for place in 0..sealed.len() {
            let mut garbled = sealed.clone().into_bytes();
            garbled[place] = if garbled[place] == b'A' { b'B' } else { b'A' };
            let garbled = String::from_utf8(garbled).unwrap();
            assert_eq!(key.open(&garbled), None, "{garbled}");
            assert_eq!(key.open(&sealed[..place]), None, "{place}");
        }
        let (claims, tag) = sealed.split_once('.').unwrap();
        let mut wider = access();
        wider.subject = None;
        let wider = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wider).unwrap());
        for forged in [
            String::new(),
            ".".to_owned(),
            format!("{claims}."),
            format!("{claims}.{tag}."),
            format!("{wider}.{tag}"),
            format!(" {sealed}"),
        ] {
            assert_eq!(key.open(&forged), None, "{forged}");
        }
    }
}
