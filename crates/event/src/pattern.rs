use std::{fmt, str::FromStr};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{
    invalid::{Given, Invalid, text_type},
    limits::MAX_TYPE_BYTES,
    text,
};

/// The characters that CloudEvents' HTTP binding (section 3.1.3.2) has percent-encoded in a header, besides all
/// that is not ASCII.
const ENCODED_IN_HEADERS: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// What kind of event it is: CloudEvents' `type`, and the routing key it is published with. Words
/// separated by dots, such as `order.created`. A word may be empty, as it may be for RabbitMQ, and holds any
/// character but control characters and noncharacters; it may hold `*` and `#`, but not be one of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(String);

impl EventType {
    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The type as the value of a header: visible ASCII, and percent-encoded as CloudEvents' HTTP binding
    /// has it (section 3.1.3.2).
    pub fn to_header(&self) -> String {
        utf8_percent_encode(&self.0, ENCODED_IN_HEADERS).to_string()
    }
}

impl FromStr for EventType {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refused = |problem| Err(Invalid::new("type", problem));
        text::check("type", text)?;
        if !(1..=MAX_TYPE_BYTES).contains(&text.len()) {
            return refused(format!(
                "must have 1 to {MAX_TYPE_BYTES} bytes, not {}: {}",
                text.len(),
                Given(text)
            ));
        }
        if text.split('.').any(|word| matches!(word, "*" | "#")) {
            return refused(format!(
                "must be words separated by dots, none of which is `*` or `#` alone, for those stand for others in patterns: such as order.created, not {}",
                Given(text)
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_type!(EventType);

/// Which types an endpoint wants: a topic exchange's binding key. `*` stands for one word, `#` for
/// any number of words, none included; at most two `#` (RabbitMQ 4.3.5 refuses more). Where they are only a
/// part of a word they stand for themselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypePattern(String);

impl TypePattern {
    /// The pattern `#`, which every type matches.
    pub fn any() -> Self {
        Self("#".to_owned())
    }

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
        text::check("types", text)?;
        let hashes = text.split('.').filter(|word| *word == "#").count();
        if (1..=MAX_TYPE_BYTES).contains(&text.len()) && hashes <= 2 {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            "types",
            format!(
                "a pattern must be words, `*` (one word) or at most two `#` (any words), separated by dots, 1 to {MAX_TYPE_BYTES} bytes, such as order.*, not {}",
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
    fn what_the_broker_would_not_take_is_refused() {
        let long = format!("a.{}", "ü".repeat(127));
        for text in ["", "a.\n", "a\u{9b}", "\u{fffe}", &long] {
            assert!(text.parse::<EventType>().is_err(), "type {text:?}");
            assert!(text.parse::<TypePattern>().is_err(), "pattern {text:?}");
        }
        for text in ["a.*", "#.a", "*", "a.#.b"] {
            let refused = text.parse::<EventType>().expect_err(text);
            assert!(refused.problem.contains("`*` or `#`"), "{refused}");
        }
        assert!("#.a.#.b.#".parse::<TypePattern>().is_err());
    }

    #[test]
    fn words_are_any_text() {
        for text in [
            ".",
            "a..b",
            ".a",
            "a.",
            "a b",
            " ",
            "ä.b",
            "a*",
            "**",
            "a.b#",
            "日本.語",
            "%",
            "a,b",
        ] {
            assert!(matches(text, text), "{text:?}");
            assert!(matches("#", text), "{text:?}");
        }
        assert!(matches("a.*", "a."));
        assert!(matches("*.*", "."));
        assert!(!matches("*", "."));
        assert!(!matches("a*", "ab"));
        assert!(matches("a.*.b", "a..b"));
    }

    #[test]
    fn a_type_fits_into_a_header() {
        let header = |text: &str| text.parse::<EventType>().unwrap().to_header();
        assert_eq!(header("order.created"), "order.created");
        assert_eq!(header(" a%\"ü~'"), "%20a%25%22%C3%BC~'");
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
            pattern in prop::collection::vec("[ab*#]?", 2..7),
            words in prop::collection::vec("[ab]?", 2..7),
        ) {
            prop_assume!(pattern.iter().filter(|word| *word == "#").count() <= 2);
            prop_assert_eq!(matches(&pattern.join("."), &words.join(".")), oracle(&pattern, &words));
        }

        #[test]
        fn every_type_is_a_pattern_that_matches_itself(words in prop::collection::vec("[ -)+-\\-/-~ü&&[^#]]{0,8}", 2..6)) {
            let text = words.join(".");
            prop_assert!(matches(&text, &text));
        }
    }
}
