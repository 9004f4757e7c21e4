use std::{fmt, str::FromStr};

use crate::invalid::{Given, Invalid, text_type};

/// RabbitMQ's limit for a routing or binding key.
const MAX_KEY_BYTES: usize = 255;

/// What kind of event it is: CloudEvents' `type`, and the routing key it is published with. Words
/// separated by dots, such as `order.created`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(String);

impl EventType {
    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventType {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let word = |word: &str| !word.is_empty() && word.bytes().all(is_word_byte);
        if text.len() <= MAX_KEY_BYTES && text.split('.').all(word) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            "type",
            format!(
                "must be words separated by single dots, at most {MAX_KEY_BYTES} visible ASCII characters without `*` and `#`, such as order.created, not {}",
                Given(text)
            ),
        ))
    }
}

/// `*` and `#` would make a type look like a pattern, and spaces never survive a header.
fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'*' | b'#')
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_type!(EventType);

/// Which types an endpoint wants: a topic exchange's binding key. `*` stands for one word, `#` for
/// any number of words, none included; at most two `#` (RabbitMQ 4.3.5 refuses more).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypePattern(String);

impl TypePattern {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the broker would route an event of this type by this pattern.
    pub fn matches(&self, event_type: &EventType) -> bool {
        let pattern: Vec<&str> = self.0.split('.').collect();
        let words: Vec<&str> = event_type.0.split('.').collect();
        matches_words(&pattern, &words)
    }
}

/// At most two `#` are allowed, so this branches little.
fn matches_words(pattern: &[&str], words: &[&str]) -> bool {
    match (pattern, words) {
        ([], words) => words.is_empty(),
        (["#", rest @ ..], words) => (0..=words.len()).any(|taken| matches_words(rest, &words[taken..])),
        (["*", rest @ ..], [_, words @ ..]) => matches_words(rest, words),
        ([word, rest @ ..], [first, words @ ..]) => word == first && matches_words(rest, words),
        (_, []) => false,
    }
}

impl FromStr for TypePattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let word =
            |word: &str| matches!(word, "*" | "#") || !word.is_empty() && word.bytes().all(is_word_byte);
        let hashes = text.split('.').filter(|word| *word == "#").count();
        if text.len() <= MAX_KEY_BYTES && hashes <= 2 && text.split('.').all(word) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            "types",
            format!(
                "a pattern must be words, `*` (one word) or at most two `#` (any words), separated by single dots, at most {MAX_KEY_BYTES} characters, such as order.*, not {}",
                Given(text)
            ),
        ))
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_type!(TypePattern);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, event_type: &str) -> bool {
        pattern
            .parse::<TypePattern>()
            .unwrap()
            .matches(&event_type.parse().unwrap())
    }

    #[test]
    fn matches_as_a_topic_exchange_does() {
        assert!(matches("order.*", "order.created"));
        assert!(!matches("order.*", "order"));
        assert!(!matches("order.*", "order.item.added"));
        assert!(matches("order.#", "order"));
        assert!(matches("order.#", "order.item.added"));
        assert!(matches("#.added", "order.item.added"));
        assert!(matches("#.item.#", "item"));
        assert!(matches("#", "anything.at.all"));
        assert!(!matches("order.created", "order.createdX"));
    }

    #[test]
    fn what_the_broker_or_a_header_would_not_take_is_refused() {
        let long = format!("a.{}", "x".repeat(254));
        for text in ["", ".", "a..b", ".a", "a.", "a b", "a.\n", "ä.b", &long] {
            assert!(text.parse::<EventType>().is_err(), "type {text:?}");
            assert!(text.parse::<TypePattern>().is_err(), "pattern {text:?}");
        }
        for text in ["a.*", "a.#", "a*"] {
            assert!(text.parse::<EventType>().is_err(), "type {text:?}");
        }
        for text in ["a*.b", "a.b#", "#.a.#.b.#", "**"] {
            assert!(text.parse::<TypePattern>().is_err(), "pattern {text:?}");
        }
    }

    /// The textbook meaning, by dynamic programming instead of recursion.
    fn oracle(pattern: &[String], words: &[String]) -> bool {
        let mut reach = vec![vec![false; words.len() + 1]; pattern.len() + 1];
        reach[0][0] = true;
        for p in 1..=pattern.len() {
            for w in 0..=words.len() {
                reach[p][w] = match pattern[p - 1].as_str() {
                    "#" => reach[p - 1][w] || w > 0 && reach[p][w - 1],
                    "*" => w > 0 && reach[p - 1][w - 1],
                    word => w > 0 && reach[p - 1][w - 1] && word == words[w - 1],
                };
            }
        }
        reach[pattern.len()][words.len()]
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_oracle(
            pattern in prop::collection::vec("[ab*#]", 1..7),
            words in prop::collection::vec("[ab]", 1..7),
        ) {
            prop_assume!(pattern.iter().filter(|word| *word == "#").count() <= 2);
            prop_assert_eq!(matches(&pattern.join("."), &words.join(".")), oracle(&pattern, &words));
        }

        #[test]
        fn every_type_is_a_pattern_that_matches_itself(words in prop::collection::vec("[!-)+-\\-/-~&&[^#]]{1,8}", 1..6)) {
            let text = words.join(".");
            prop_assert!(matches(&text, &text));
        }
    }
}
