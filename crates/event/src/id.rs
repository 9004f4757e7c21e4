use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    invalid::{Given, Invalid, text_type},
    limits::MAX_ID_BYTES,
    text,
};

/// The source of events that name none, unless a gateway is told another (`RELAY_SOURCE`).
///
/// It decides of [`WebhookId`]s, so it must never change.
pub const DEFAULT_SOURCE: &str = "/relay";

/// The id of an event, chosen by its producer: CloudEvents' `id`, which names the event together with its
/// source. 1 to 1,024 bytes of any text without control characters and noncharacters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(String);

impl EventId {
    /// A new id that sorts by time (UUID version 7).
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// The id of the event that is published with this idempotency key to this source: always the same.
    pub fn of_key(source: &str, key: &str) -> Self {
        let digest = digest(source, key);
        Self(format!("key_{:032x}", leading_bytes(&digest)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text::check("id", text)?;
        if (1..=MAX_ID_BYTES).contains(&text.len()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            "id",
            format!(
                "must have 1 to {MAX_ID_BYTES} bytes, not {}: {}",
                text.len(),
                Given(text)
            ),
        ))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_type!(EventId);

/// SHA-256 over the source, a zero byte (no source holds one) and the text.
fn digest(source: &str, text: &str) -> [u8; 32] {
    Sha256::new()
        .chain_update(source)
        .chain_update([0])
        .chain_update(text)
        .finalize()
        .into()
}

fn leading_bytes(digest: &[u8]) -> u128 {
    digest
        .iter()
        .take(16)
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// The id that a receiver knows an event by, in `webhook-id` or `X-Webhook-Delivery`: letters and digits of
/// ASCII, `_` and `-`. It depends on the event's source and id alone, so it is the same on every attempt,
/// replay and redelivery.
///
/// Standard Webhooks signs `id.timestamp.body`, so an id must not hold a full stop. It also has receivers
/// drop what comes twice by this id alone, where CloudEvents has only source and id together name an event.
/// So the event's own id is kept if it consists of these characters and the source is [`DEFAULT_SOURCE`].
/// Otherwise the id is derived: the first 64 characters of the event's id, with `_` for every other
/// character, then `_` and 16 hexadecimal digits, the beginning of SHA-256 over source, a zero byte and id.
/// An id that ends in `_` and 16 such digits itself is derived too, whatever its source: no producer can
/// choose an id that is kept and equals the one derived for another's event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebhookId(String);

impl WebhookId {
    /// Characters of the event's id in a derived one.
    const KEPT: usize = 64;
    /// Hexadecimal digits at the end of a derived one.
    const DIGITS: usize = 16;

    /// The id that receivers know this event by.
    pub fn of(source: &str, id: &EventId) -> Self {
        let own = id.as_str();
        if source == DEFAULT_SOURCE && own.chars().all(is_plain) && Self::fingerprint_in(own).is_none() {
            return Self(own.to_owned());
        }
        let plain = |c| if is_plain(c) { c } else { '_' };
        let begin: String = own.chars().take(Self::KEPT).map(plain).collect();
        Self(format!("{begin}_{:016x}", Self::fingerprint(source, own)))
    }

    /// The first 8 bytes of SHA-256 over source, a zero byte and id, as a number. The id is a text, since an
    /// older version may have recorded one that [`EventId`] refuses.
    pub fn fingerprint(source: &str, id: &str) -> u64 {
        let digest = digest(source, id);
        digest[..8]
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// The fingerprint at the end of a derived id; `None` if this text is none.
    pub fn fingerprint_in(text: &str) -> Option<u64> {
        let at = text.len().checked_sub(Self::DIGITS)?;
        let (begin, digits) = text.split_at_checked(at)?;
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let is_derived = begin.ends_with('_') && digits.bytes().all(lower_hex);
        is_derived.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for WebhookId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// An id of the relay's own making: a prefix and 32 hexadecimal digits, 16 bytes where it is stored.
macro_rules! own_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $field:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// A new id that sorts by time (UUID version 7).
            pub fn generate() -> Self {
                Self::from_bytes(Uuid::now_v7().into_bytes())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The id without its prefix.
            pub fn to_bytes(&self) -> [u8; 16] {
                let digits = &self.0[$prefix.len()..];
                u128::from_str_radix(digits, 16).unwrap_or_default().to_be_bytes()
            }

            /// The id of these bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(format!(concat!($prefix, "{:032x}"), u128::from_be_bytes(bytes)))
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                let digits = text.strip_prefix($prefix).unwrap_or_default();
                let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if digits.len() == 32 && digits.bytes().all(lower_hex) {
                    return Ok(Self(text.to_owned()));
                }
                Err(Invalid::new(
                    $field,
                    format!(
                        concat!("must be `", $prefix, "` and 32 hexadecimal digits, not {}"),
                        Given(text)
                    ),
                ))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        text_type!($name);
    };
}

own_id! {
    /// The id of an endpoint: `ep_` and 32 hexadecimal digits.
    EndpointId, "ep_", "endpoint"
}

own_id! {
    /// The id of an attempt's record: `at_` and 32 hexadecimal digits.
    AttemptId, "at_", "id"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn webhook_id(source: &str, id: &str) -> String {
        WebhookId::of(source, &id.parse().unwrap()).to_string()
    }

    /// The digits are those of `printf '/orders\0evt.1' | sha256sum`.
    #[test]
    fn a_webhook_id_is_the_event_s_or_derived_from_it() {
        let own = "0198b7a0-c5d0-7d3f-8a6e-2b4c1d9e8f70";
        let long = "x".repeat(1_024);
        for id in [own, "a_B-9", "key_0123456789abcdef0123456789abcdef", &long] {
            assert_eq!(webhook_id(DEFAULT_SOURCE, id), id);
        }
        assert_eq!(webhook_id("/orders", "evt.1"), "evt_1_61740e1c9866cdb8");
        assert_eq!(webhook_id("/orders", "1"), "1_c5d2ad7f86cfd1f6");
        assert_eq!(webhook_id(DEFAULT_SOURCE, "evt.1"), "evt_1_fd5be65423369aaf");
        // By characters, whatever they have of bytes.
        let derived = webhook_id(DEFAULT_SOURCE, &"ü😀".repeat(100));
        assert_eq!(derived.strip_suffix(&derived[64..]), Some(&*"_".repeat(64)));
        assert_eq!(derived.len(), 81);
    }

    #[test]
    fn no_producer_can_choose_the_webhook_id_of_another_s_event() {
        let derived = webhook_id("/orders", "1");
        let copied = webhook_id(DEFAULT_SOURCE, &derived);
        assert!(copied != derived && copied.starts_with(&derived), "{copied}");
        for text in ["_0123456789abcdef", "a_0123456789abcdef", "ü_0123456789abcdef"] {
            assert_eq!(WebhookId::fingerprint_in(text), Some(0x0123_4567_89ab_cdef));
        }
        for text in [
            "",
            "0123456789abcdef",
            "a_0123456789ABCDEF",
            "a_123456789abcdef",
            "a_+123456789abcde",
            "ü0123456789abcde",
        ] {
            assert_eq!(WebhookId::fingerprint_in(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_webhook_id_can_be_signed_and_names_one_event(source in "/[a-z]{0,3}", one in ".{1,80}", other in ".{1,80}") {
            let (Ok(one), Ok(other)) = (one.parse::<EventId>(), other.parse::<EventId>()) else {
                return Ok(());
            };
            let id = WebhookId::of(&source, &one);
            prop_assert!(id.as_str().chars().all(is_plain) && !id.as_str().is_empty());
            prop_assert_eq!(id == WebhookId::of(&source, &other), one == other);
            prop_assert_ne!(&id, &WebhookId::of("/another", &one));
            let derived = WebhookId::of("/another", &one);
            prop_assert_eq!(WebhookId::fingerprint_in(derived.as_str()), Some(WebhookId::fingerprint("/another", one.as_str())));
        }
    }

    #[test]
    fn generated_ids_parse_back() {
        let endpoint = EndpointId::generate();
        assert_eq!(endpoint.as_str().parse(), Ok(endpoint.clone()));
        assert_eq!(EndpointId::from_bytes(endpoint.to_bytes()), endpoint);
        let attempt = AttemptId::generate();
        assert_eq!(attempt.as_str().parse(), Ok(attempt.clone()));
        let event = EventId::generate();
        assert_eq!(event.as_str().parse(), Ok(event.clone()));
    }

    #[test]
    fn a_key_names_one_event_of_a_source() {
        let id = EventId::of_key("/orders", "k1");
        assert_eq!(id, EventId::of_key("/orders", "k1"));
        assert_ne!(id, EventId::of_key("/orders", "k2"));
        assert_ne!(id, EventId::of_key("/invoices", "k1"));
        assert_eq!(id.as_str().parse(), Ok(id));
    }

    #[test]
    fn ids_that_could_not_travel_are_refused() {
        for text in ["", "line\nbreak", "c1\u{9b}", "\u{ffff}", &"ü".repeat(513)] {
            assert!(text.parse::<EventId>().is_err(), "{text:?}");
        }
        for text in ["two words", " ", "ümlaut", "a/b?c#%", "😀", &"ü".repeat(512)] {
            assert_eq!(text.parse::<EventId>().expect(text).as_str(), text);
        }
        for text in [
            "",
            "ep_",
            "ep_123",
            "xx_0123456789abcdef0123456789abcdef",
            "ep_0123456789ABCDEF0123456789abcdef",
        ] {
            assert!(text.parse::<EndpointId>().is_err(), "{text:?}");
        }
    }
}
