use std::{fmt, str::FromStr};

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

/// The id of an endpoint: `ep_` and 32 hexadecimal digits. It names the endpoint's queue too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(String);

impl EndpointId {
    /// A new id that sorts by time (UUID version 7).
    pub fn generate() -> Self {
        Self(format!("ep_{}", Uuid::now_v7().simple()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EndpointId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.strip_prefix("ep_").unwrap_or_default();
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() == 32 && digits.bytes().all(lower_hex) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            "endpoint",
            format!("must be `ep_` and 32 hexadecimal digits, not {}", Given(text)),
        ))
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_type!(EndpointId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_parse_back() {
        let endpoint = EndpointId::generate();
        assert_eq!(endpoint.as_str().parse(), Ok(endpoint.clone()));
        let event = EventId::generate();
        assert_eq!(event.as_str().parse(), Ok(event.clone()));
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
