use std::time::Duration;

use clap::Args;
use relay_event::{DeadLetter, DeadReason, EndpointId, EventType, Timestamp, TypePattern};

use crate::endpoint::endpoint_id;

/// Which dead letters are meant: those that fit all that is given.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which dead letters")]
pub(super) struct Filter {
    /// Only those of this endpoint
    #[arg(long, value_name = "ID", value_parser = endpoint_id)]
    endpoint: Option<EndpointId>,

    /// Only those of these types, such as 'order.*'
    #[arg(long = "type", value_name = "PATTERN")]
    event_type: Option<TypePattern>,

    /// Only those that died of this: attempts_exhausted, expired, endpoint_removed,
    /// endpoint_gone, invalid_event, invalid_record or delivery_limit
    #[arg(long)]
    reason: Option<DeadReason>,

    /// Only those that have been dead for longer, such as 1h; a letter without a date is left out
    #[arg(long, value_name = "DURATION", value_parser = relay_service::args::time_or_none)]
    older_than: Option<Duration>,
}

impl Filter {
    /// Returns true if a letter is meant. One that does not say when it died is not known to be old.
    pub(super) fn matches(&self, letter: &DeadLetter, now: Timestamp) -> bool {
        let endpoint = self
            .endpoint
            .as_ref()
            .is_none_or(|id| letter.endpoint.as_ref() == Some(id));
        let event_type = self
            .event_type
            .as_ref()
            .is_none_or(|pattern| typed(letter).is_some_and(|event_type| pattern.matches(&event_type)));
        let reason = self.reason.is_none_or(|reason| letter.reason == reason);
        let old = self
            .older_than
            .is_none_or(|age| letter.dead_at.is_some_and(|died| now.since(died) > age));
        endpoint && event_type && reason && old
    }

    /// Returns true if anything is given.
    pub(super) fn chooses(&self) -> bool {
        self.endpoint.is_some()
            || self.event_type.is_some()
            || self.reason.is_some()
            || self.older_than.is_some()
    }
}

fn typed(letter: &DeadLetter) -> Option<EventType> {
    letter.event_type.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        DeadLetter {
            reason: DeadReason::EndpointGone,
            detail: None,
            endpoint: Some("ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70".parse().unwrap()),
            event_id: Some("1".to_owned()),
            event_type: Some("order.created".to_owned()),
            attempts: 1,
            first_attempt: None,
            last_attempt: None,
            last_status: Some(410),
            last_error: None,
            dead_at: Timestamp::from_millis(1_000),
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    #[test]
    fn all_that_is_given_must_fit() {
        let fits = |filter: &Filter| filter.matches(&letter(), at(2_000));
        assert!(fits(&Filter::default()));
        let mut filter = Filter {
            endpoint: letter().endpoint,
            event_type: Some("order.*".parse().unwrap()),
            reason: Some(DeadReason::EndpointGone),
            ..Filter::default()
        };
        assert!(fits(&filter));
        filter.reason = Some(DeadReason::InvalidEvent);
        assert!(!fits(&filter));
        filter.reason = None;
        filter.event_type = Some("user.#".parse().unwrap());
        assert!(!fits(&filter));
        filter.event_type = None;
        filter.endpoint = Some(EndpointId::generate());
        assert!(!fits(&filter));
    }

    #[test]
    fn a_letter_without_a_date_or_a_type() {
        let mut letter = letter();
        let old = Filter {
            older_than: Some(Duration::from_secs(5)),
            ..Filter::default()
        };
        assert!(!old.matches(&letter, at(6_000)));
        assert!(old.matches(&letter, at(6_001)));
        letter.dead_at = None;
        assert!(!old.matches(&letter, at(253_402_300_799_999)));
        assert!(Filter::default().matches(&letter, at(0)));
        letter.event_type = None;
        let typed = Filter {
            event_type: Some("#".parse().unwrap()),
            ..Filter::default()
        };
        assert!(!typed.matches(&letter, at(0)));
    }
}
