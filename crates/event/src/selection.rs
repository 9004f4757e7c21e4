//! The events that an endpoint wants, by their type, source and subject.

use serde::{Deserialize, Serialize};

use crate::{
    EventType, Invalid, TypePattern,
    limits::{MAX_SUBJECT_BYTES, check_length},
    text::{self, check_source},
};

/// The attributes of an event that decide which endpoints want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventAttributes<'a> {
    /// Its type.
    pub event_type: &'a EventType,
    /// Its source.
    pub source: &'a str,
    /// Its subject, if it has one.
    pub subject: Option<&'a str>,
}

/// A selection of events: those of certain types and, where these are set, of one source and with one subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// The types: those that any of these patterns matches.
    pub types: Vec<TypePattern>,
    /// The only source, compared as text; `None` for any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<String>,
    /// The only subject, compared as text; `None` for any, and for events without a subject.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<String>,
}

impl Selection {
    /// The most patterns that a selection may have.
    pub const MAX_TYPES: usize = 50;

    /// Selects events of these types, whatever their source and subject are.
    pub fn of_types(types: Vec<TypePattern>) -> Self {
        Self {
            types,
            source: None,
            subject: None,
        }
    }

    /// Returns true if an event with these attributes is selected.
    pub fn matches(&self, event: EventAttributes<'_>) -> bool {
        self.types.iter().any(|pattern| pattern.matches(event.event_type))
            && self.source.as_deref().is_none_or(|source| source == event.source)
            && self
                .subject
                .as_deref()
                .is_none_or(|subject| Some(subject) == event.subject)
    }

    /// Checks the limits of its fields.
    ///
    /// # Errors
    /// There are no types or more than [`Self::MAX_TYPES`], or no event can have this source or subject.
    pub fn check(&self) -> Result<(), Invalid> {
        if !(1..=Self::MAX_TYPES).contains(&self.types.len()) {
            let problem = format!(
                "must be 1 to {} patterns, not {}",
                Self::MAX_TYPES,
                self.types.len()
            );
            return Err(Invalid::new("types", problem));
        }
        self.source.as_deref().map_or(Ok(()), check_source)?;
        self.subject.as_deref().map_or(Ok(()), check_subject)
    }
}

fn check_subject(subject: &str) -> Result<(), Invalid> {
    if subject.is_empty() {
        let problem = format!("must be text of 1 to {MAX_SUBJECT_BYTES} bytes, not \"\"");
        return Err(Invalid::new("subject", problem));
    }
    text::check("subject", subject)?;
    check_length("subject", subject, MAX_SUBJECT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(source: Option<&str>, subject: Option<&str>) -> Selection {
        Selection {
            types: vec!["a.*".parse().unwrap()],
            source: source.map(str::to_owned),
            subject: subject.map(str::to_owned),
        }
    }

    #[test]
    fn type_source_and_subject_all_have_to_match() {
        let (good, bad) = ("a.b".parse().unwrap(), "b".parse().unwrap());
        let matches = |selection: &Selection, event_type, source, subject| {
            selection.matches(EventAttributes {
                event_type,
                source,
                subject,
            })
        };
        for (selection, expected) in [
            (selection(None, None), [true, true, true, true]),
            (selection(Some("/s"), None), [true, true, true, false]),
            (selection(None, Some("x")), [true, false, false, true]),
            (selection(Some("/s"), Some("x")), [true, false, false, false]),
        ] {
            let events = [
                ("/s", Some("x")),
                ("/s", Some("X")),
                ("/s", None),
                ("/s/", Some("x")),
            ];
            for ((source, subject), expected) in events.into_iter().zip(expected) {
                assert_eq!(
                    matches(&selection, &good, source, subject),
                    expected,
                    "{selection:?}, {source}, {subject:?}"
                );
                assert!(!matches(&selection, &bad, source, subject));
            }
        }
    }

    #[test]
    fn what_no_event_can_have_is_refused() {
        let long = "x".repeat(MAX_SUBJECT_BYTES + 1);
        for (wrong, field) in [
            (Selection::of_types(Vec::new()), "types"),
            (Selection::of_types(vec!["a".parse().unwrap(); 51]), "types"),
            (selection(Some(""), None), "source"),
            (selection(Some("two words"), None), "source"),
            (selection(Some(&format!("/{long}")), None), "source"),
            (selection(None, Some("")), "subject"),
            (selection(None, Some("a\nb")), "subject"),
            (selection(None, Some(&long)), "subject"),
        ] {
            assert_eq!(wrong.check().unwrap_err().field, field, "{wrong:?}");
        }
        assert_eq!(
            selection(Some("/s"), Some(&long[1..])).check(),
            Ok(()),
            "as long as a subject may be"
        );
    }
}
