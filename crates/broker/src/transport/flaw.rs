//! The parts that were taken out of a message before lapin read it. The reader learns of them by the value of a
//! header. No producer can set that header, because it is removed from every message that the broker sends.

use std::fmt;

use relay_event::Invalid;

/// The reason why headers were cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Tables or lists nest deeper than so many levels.
    Deep(u64),
    /// There are more values than so many, those in tables and lists included.
    Many(u64),
    /// They have so many bytes, more than so many.
    Large(u64, u64),
    /// A length does not fit, or a type is unknown.
    Malformed,
    /// The name of a header is not UTF-8.
    Name,
    /// The content type or the content encoding is not UTF-8.
    Property,
}

/// The parts that are missing from a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Headers are, and why.
    pub(crate) headers: Option<Flaw>,
    /// The end of its body is: the bytes it has, and the most that are taken.
    pub(crate) body: Option<(u64, u64)>,
}

impl Flaw {
    fn refusal(self) -> Invalid {
        match self {
            Self::Deep(most) => Invalid::new("headers", format!("nest deeper than {most}")),
            Self::Many(most) => Invalid::new(
                "headers",
                format!("have more than {most} values, those in tables and lists included"),
            ),
            Self::Large(bytes, most) => {
                let problem = format!("have {bytes} bytes; at most {most} are allowed");
                Invalid::new("headers", problem)
            }
            Self::Malformed => Invalid::new("headers", "are malformed"),
            Self::Name => Invalid::new("headers", "have a name that is not UTF-8"),
            Self::Property => Invalid::new("content_type", "and content_encoding must be UTF-8"),
        }
    }
}

impl Cut {
    /// The reason why a message without these parts is no event; `None` if nothing is missing.
    pub(crate) fn refusal(self) -> Option<Invalid> {
        let too_large = |(bytes, most)| {
            let problem = format!("is {bytes} bytes; at most {most} are allowed");
            Invalid::new("event", problem)
        };
        let headers = self.headers.map(Flaw::refusal);
        headers.or_else(|| self.body.map(too_large))
    }

    /// Reads what [`fmt::Display`] writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut cut = Self::default();
        for part in text.split(',') {
            let mut words = part.split(' ');
            let code = words.next()?;
            let mut number = || words.next()?.parse().ok();
            match code {
                "deep" => cut.headers = Some(Flaw::Deep(number()?)),
                "many" => cut.headers = Some(Flaw::Many(number()?)),
                "large" => cut.headers = Some(Flaw::Large(number()?, number()?)),
                "malformed" => cut.headers = Some(Flaw::Malformed),
                "name" => cut.headers = Some(Flaw::Name),
                "property" => cut.headers = Some(Flaw::Property),
                "body" => cut.body = Some((number()?, number()?)),
                _ => return None,
            }
        }
        Some(cut)
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.headers {
            Some(Flaw::Deep(most)) => write!(f, "deep {most}")?,
            Some(Flaw::Many(most)) => write!(f, "many {most}")?,
            Some(Flaw::Large(bytes, most)) => write!(f, "large {bytes} {most}")?,
            Some(Flaw::Malformed) => f.write_str("malformed")?,
            Some(Flaw::Name) => f.write_str("name")?,
            Some(Flaw::Property) => f.write_str("property")?,
            None => {}
        }
        match self.body {
            Some((bytes, most)) => {
                let comma = if self.headers.is_some() { "," } else { "" };
                write!(f, "{comma}body {bytes} {most}")
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_reads_back() {
        let flaws = [
            None,
            Some(Flaw::Deep(16)),
            Some(Flaw::Many(256)),
            Some(Flaw::Large(70_000, 65_536)),
            Some(Flaw::Malformed),
            Some(Flaw::Name),
            Some(Flaw::Property),
        ];
        for headers in flaws {
            for body in [None, Some((16_777_216, 262_144))] {
                let cut = Cut { headers, body };
                if cut != Cut::default() {
                    assert_eq!(Cut::parse(&cut.to_string()), Some(cut), "{cut}");
                    assert!(cut.refusal().is_some());
                }
            }
        }
        assert_eq!(Cut::parse("else"), None);
        assert_eq!(Cut::parse("body 1"), None);
    }
}
