use std::fmt::{self, Write as _};

/// Input that was refused: which field, and what is allowed there instead of what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field's name as its writer spelled it, such as `type` or `types[0]`.
    pub field: String,
    /// What was given, what is allowed.
    pub problem: String,
}

impl Invalid {
    /// Refuses `field` because of `problem`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: shortened(on_one_line(field.into()), MAX_FIELD_BYTES),
            problem: shortened(on_one_line(problem.into()), MAX_PROBLEM_BYTES),
        }
    }
}

/// A refusal travels in a message's headers, and a producer may name a field as it likes.
const MAX_FIELD_BYTES: usize = 100;
const MAX_PROBLEM_BYTES: usize = 1_000;

/// Escapes control characters: a field's name may be a stranger's, and a refusal stands in logs and answers.
fn on_one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = |c: char| {
        let plain = (!c.is_control()).then_some(c);
        let code = c.is_control().then(|| c.escape_default());
        plain.into_iter().chain(code.into_iter().flatten())
    };
    text.chars().flat_map(escaped).collect()
}

fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}

/// The characters of a refused value that are shown.
const SHOWN: usize = 60;

/// Shows a refused value without flooding the reader: at most 60 characters of it.
pub(crate) struct Given<'a>(pub(crate) &'a str);

impl fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?} and {} bytes more", &self.0[..end], self.0.len() - end),
        }
    }
}

/// The same for a value in JSON, whose strings have quotes of their own.
pub(crate) struct GivenJson<'a>(pub(crate) &'a str);

impl fmt::Display for GivenJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, rest) = match self.0.char_indices().nth(SHOWN) {
            None => (self.0, 0),
            Some((end, _)) => (&self.0[..end], self.0.len() - end),
        };
        for c in shown.chars() {
            match c {
                '"' | '\'' | '\\' => f.write_char(c)?,
                c => write!(f, "{}", c.escape_debug())?,
            }
        }
        match rest {
            0 => Ok(()),
            rest => write!(f, " and {rest} bytes more"),
        }
    }
}

/// Text that parses into a domain type reads and writes as a JSON string; the field's name is the
/// reader's to add, for it knows the path.
macro_rules! text_type {
    ($name:ty) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse()
                    .map_err(|refused: $crate::Invalid| serde::de::Error::custom(refused.problem))
            }
        }
    };
}
pub(crate) use text_type;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_whatever_a_field_is_called() {
        let refused = Invalid::new("\u{1b}[31mRED\r\n2026 ERROR forged", "is given\ttwice");
        let text = refused.to_string();
        assert_eq!(text, r"\u{1b}[31mRED\r\n2026 ERROR forged: is given\ttwice");
    }
}
