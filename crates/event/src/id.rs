use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::invalid::{Given, Invalid, text_type};

/// The id of an event, chosen by its producer: CloudEvents' `id`, and the `webhook-id` header of
/// every attempt. 1 to 255 visible ASCII characters, because it travels as a header.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(String);

impl EventId {
    /// A new id that sorts by time (UUID version 7).
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// The id of the event that is published with this idempotency key to this source: always the same.
    pub fn of_key(source: &str, key: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(source)
            .chain_update([0])
            .chain_update(key)
            .finalize();
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
        if (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            "id",
            format!(
                "must be 1 to 255 visible ASCII characters without spaces, not {}",
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

fn leading_bytes(digest: &[u8]) -> u128 {
    digest
        .iter()
        .take(16)
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
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
    /// The id of an endpoint: `ep_` and 32 hexadecimal digits. It names the endpoint's queue too.
    EndpointId, "ep_", "endpoint"
}

own_id! {
    /// The id of an attempt's record: `at_` and 32 hexadecimal digits.
    AttemptId, "at_", "id"
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for text in ["", "two words", "line\nbreak", "ümlaut", &"x".repeat(256)] {
            assert!(text.parse::<EventId>().is_err(), "{text:?}");
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
