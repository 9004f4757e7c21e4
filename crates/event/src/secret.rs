use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::invalid::{Invalid, text_type};

const PREFIX: &str = "whsec_";

/// A signing secret: `whsec_` and 24 to 64 random bytes in base64, as Standard Webhooks has it.
/// It never prints by `{:?}`; `Display` is for the one answer that hands it to its owner.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: String,
    key: Vec<u8>,
}

impl Secret {
    /// 32 random bytes.
    pub fn generate() -> Self {
        let key: [u8; 32] = rand::random();
        Self::from_key(key.to_vec())
    }

    /// The key that Standard Webhooks signs with: the decoded bytes.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The whole secret as its owner sees it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn from_key(key: Vec<u8>) -> Self {
        Self {
            text: format!("{PREFIX}{}", STANDARD.encode(&key)),
            key,
        }
    }
}

impl FromStr for Secret {
    type Err = Invalid;

    /// The refusal never repeats what was given.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let key = text
            .strip_prefix(PREFIX)
            .and_then(|encoded| STANDARD.decode(encoded).ok());
        match key {
            Some(key) if (24..=64).contains(&key.len()) => Ok(Self::from_key(key)),
            _ => Err(Invalid::new(
                "secret",
                "must be `whsec_` and 24 to 64 bytes in padded base64",
            )),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

text_type!(Secret);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_neither_prints_nor_shows_in_its_refusal() {
        let secret = Secret::generate();
        assert_eq!(secret.as_str().parse(), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let refused = "whsec_c2hvcnQ=".parse::<Secret>().unwrap_err();
        assert!(!refused.to_string().contains("c2hvcnQ"), "{refused}");
    }
}
