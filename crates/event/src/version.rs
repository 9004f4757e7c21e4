//! The version of all endpoints together, as it travels with messages.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Invalid, invalid::Given};

/// A version of all endpoints together. Every change of an endpoint makes the next one.
///
/// As text, for example in a message's header: the lineage, a colon, and the number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointsVersion {
    /// The store's lineage: 16 lower-case hexadecimal digits. Numbers of another lineage tell nothing.
    pub lineage: String,
    /// The number of changes until then.
    pub number: i64,
}

impl fmt::Display for EndpointsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lineage, self.number)
    }
}

impl FromStr for EndpointsVersion {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let problem = || {
            let problem = format!("must be a lineage, a colon and a number, not {}", Given(text));
            Invalid::new("version", problem)
        };
        let (lineage, number) = text.split_once(':').ok_or_else(problem)?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if lineage.len() != 16 || !lineage.bytes().all(is_digit) {
            return Err(problem());
        }
        Ok(Self {
            lineage: lineage.to_owned(),
            number: number.parse().map_err(|_| problem())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_reads_as_it_was_written() {
        let version = EndpointsVersion {
            lineage: "0123456789abcdef".to_owned(),
            number: 17,
        };
        assert_eq!(version.to_string(), "0123456789abcdef:17");
        assert_eq!(version.to_string().parse(), Ok(version));
        for text in [
            "",
            "17",
            "0123456789abcdef",
            "0123456789abcdef:",
            "0123456789abcdeF:1",
            "0123:1",
        ] {
            assert!(text.parse::<EndpointsVersion>().is_err(), "{text}");
        }
    }
}
