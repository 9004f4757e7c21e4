use axum::http::HeaderMap;
use relay_event::{
    Secret, Timestamp,
    signature::{self, Unverified},
};

/// What a delivery says of itself in its headers.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    /// The event's id.
    pub(super) id: Option<&'a str>,
    style: Style<'a>,
}

#[derive(Debug)]
enum Style<'a> {
    Standard {
        timestamp: &'a str,
        signatures: &'a str,
    },
    Plain {
        timestamp: Option<&'a str>,
        signatures: &'a str,
    },
    Unsigned,
}

/// Why a delivery is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unbelievable {
    #[error("it has no signature")]
    Unsigned,
    #[error(transparent)]
    Unverified(#[from] Unverified),
}

impl<'a> Signed<'a> {
    /// Reads the headers of either style.
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let style = match (text("webhook-signature"), text("x-webhook-signature")) {
            (Some(signatures), _) => Style::Standard {
                timestamp: text("webhook-timestamp").unwrap_or_default(),
                signatures,
            },
            (None, Some(signatures)) => Style::Plain {
                timestamp: text("x-webhook-timestamp"),
                signatures,
            },
            (None, None) => Style::Unsigned,
        };
        Self {
            id: text("webhook-id").or_else(|| text("x-webhook-delivery")),
            style,
        }
    }

    /// Whether one of these secrets has signed it.
    pub(super) fn verify(&self, secrets: &[Secret], body: &[u8]) -> Result<(), Unbelievable> {
        match self.style {
            Style::Standard {
                timestamp,
                signatures,
            } => {
                let id = self.id.unwrap_or_default();
                let now = Timestamp::now().as_secs();
                Ok(signature::verify(secrets, id, timestamp, signatures, body, now)?)
            }
            Style::Plain {
                timestamp,
                signatures,
            } => {
                signature::verify_plain(secrets, signatures, body)?;
                if let Some(timestamp) = timestamp {
                    signature::verify_plain_timestamp(timestamp, Timestamp::now().as_secs())?;
                }
                Ok(())
            }
            Style::Unsigned => Err(Unbelievable::Unsigned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let parsed = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        parsed.collect()
    }

    #[test]
    fn both_styles_are_checked() {
        let secrets = [Secret::generate()];
        let now = Timestamp::now().as_secs();
        let signature = signature::sign(&secrets, "1", now, b"x");
        let given = headers(&[
            ("webhook-id", "1"),
            ("webhook-timestamp", &now.to_string()),
            ("webhook-signature", &signature),
        ]);
        let signed = Signed::of(&given);
        assert_eq!((signed.id, signed.verify(&secrets, b"x")), (Some("1"), Ok(())));
        assert!(signed.verify(&secrets, b"y").is_err());
        assert!(signed.verify(&[], b"x").is_err());

        let plain = signature::sign_plain(&secrets, b"x");
        let given = headers(&[("x-webhook-delivery", "2"), ("x-webhook-signature", &plain)]);
        let signed = Signed::of(&given);
        assert_eq!((signed.id, signed.verify(&secrets, b"x")), (Some("2"), Ok(())));
        assert!(signed.verify(&secrets, b"y").is_err());

        let (written, old) = (Timestamp::now().to_string(), Err(Unverified::Timestamp.into()));
        for (timestamp, believed) in [
            (written.as_str(), Ok(())),
            (&now.to_string(), Ok(())),
            ("2026-01-31T09:30:00.000Z", old.clone()),
            ("1769851800", old),
        ] {
            let given = headers(&[
                ("x-webhook-timestamp", timestamp),
                ("x-webhook-signature", &plain),
            ]);
            assert_eq!(Signed::of(&given).verify(&secrets, b"x"), believed, "{timestamp}");
        }
    }

    #[test]
    fn what_is_not_signed_is_not_believed() {
        let signed = headers(&[("webhook-id", "1")]);
        let refused = Signed::of(&signed).verify(&[Secret::generate()], b"x");
        assert_eq!(refused, Err(Unbelievable::Unsigned));
    }
}
