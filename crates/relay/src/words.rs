//! How times and outcomes are put to people, and how people put times.

use std::fmt::Display;

use relay_event::{EndpointUrl, Event, Invalid, Timestamp};
use serde::Deserialize;

use crate::output;

/// A moment as people give it: a time, or how long ago it was.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    moment_before(text, Timestamp::now())
}

fn moment_before(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let span = humantime::parse_duration(text).map_err(|_| {
        "must be a time such as 2026-01-31T09:30:00Z, or how long ago it was, such as 90s, 1h or 7d"
            .to_owned()
    })?;
    let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    // Whoever asks for the last hundred years wants everything.
    Ok(Timestamp::from_millis(now.as_millis().saturating_sub(millis)).unwrap_or_default())
}

/// A moment to come as people give it: a time, or how long from now it is.
pub(crate) fn moment_ahead(text: &str) -> Result<Timestamp, String> {
    moment_after(text, Timestamp::now())
}

fn moment_after(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let span = humantime::parse_duration(text).ok();
    let time = span.and_then(|span| Timestamp::from_millis((now + span).as_millis()));
    time.ok_or_else(|| {
        "must be a time before the year 10000 such as 2026-01-31T09:30:00Z, or how long from now it is, such as 90s, 1h or 7d"
            .to_owned()
    })
}

/// A number, where none makes no sense.
pub(crate) fn from_one(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("must be a whole number from 1 on".to_owned()),
    }
}

/// A number from 1 to `MOST`.
pub(crate) fn from_one_to<const MOST: u32>(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if (1..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("must be a whole number from 1 to {MOST}")),
    }
}

/// An endpoint's URL. The refusal does not repeat it: it may hold a password.
pub(crate) fn endpoint_url(text: &str) -> Result<EndpointUrl, String> {
    text.parse().map_err(|refused: Invalid| refused.problem)
}

/// A time, and how long ago that is.
pub(crate) fn time(at: Timestamp, now: Timestamp) -> String {
    format!("{at} ({})", ago(at, now))
}

/// How long ago.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", output::roughly(now.since(at)))
}

/// When something is due.
pub(crate) fn due(at: Timestamp, now: Timestamp) -> String {
    if at > now {
        format!("in {}", output::roughly(at.since(now)))
    } else {
        "now".to_owned()
    }
}

/// When an event happened, if its producer says.
pub(crate) fn happened(event: &Event) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Happened {
        time: Option<Timestamp>,
    }
    serde_json::from_slice::<Happened>(event.body()).ok()?.time
}

/// What came of an attempt.
pub(crate) fn outcome(status: Option<u16>, error: Option<impl Display>) -> Option<String> {
    match (status, error) {
        (Some(status), Some(error)) => Some(format!("{status} {error}")),
        (Some(status), None) => Some(status.to_string()),
        (None, error) => error.map(|error| error.to_string()),
    }
}

/// A cell of a table that may have nothing in it.
pub(crate) fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    #[test]
    fn a_moment_is_a_time_or_a_span_back_from_now() {
        let now: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        let said = |text: &str| moment_before(text, now).map(|at| at.to_string());
        assert_eq!(said("1h").unwrap(), "2026-01-31T08:30:00.000Z");
        assert_eq!(said("7d").unwrap(), "2026-01-24T09:30:00.000Z");
        assert_eq!(
            said("2026-01-30T10:00:00+01:00").unwrap(),
            "2026-01-30T09:00:00.000Z"
        );
        assert_eq!(said("100years").unwrap(), "1970-01-01T00:00:00.000Z");
        for text in ["", "1", "yesterday", "-1h", "2026-01-31"] {
            assert!(said(text).unwrap_err().contains("how long ago"), "{text}");
        }
    }

    #[test]
    fn a_moment_to_come_is_a_time_or_a_span_from_now() {
        let now: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        let said = |text: &str| moment_after(text, now).map(|at| at.to_string());
        assert_eq!(said("1h").unwrap(), "2026-01-31T10:30:00.000Z");
        assert_eq!(
            said("2026-02-28T10:00:00+01:00").unwrap(),
            "2026-02-28T09:00:00.000Z"
        );
        for text in ["", "1", "tomorrow", "-1h", "2026-01-31", "9000years"] {
            assert!(said(text).unwrap_err().contains("how long from now"), "{text}");
        }
    }

    #[test]
    fn past_and_future_are_told_apart() {
        assert_eq!(ago(at(1_000), at(61_000)), "1m ago");
        assert_eq!(due(at(61_000), at(1_000)), "in 1m");
        assert_eq!(due(at(1_000), at(1_000)), "now");
        assert_eq!(time(at(0), at(5_000)), "1970-01-01T00:00:00.000Z (5s ago)");
    }

    #[test]
    fn an_outcome_has_what_there_is() {
        assert_eq!(outcome(Some(500), None::<&str>).unwrap(), "500");
        assert_eq!(outcome(Some(302), Some("redirect")).unwrap(), "302 redirect");
        assert_eq!(outcome(None, Some("timeout")).unwrap(), "timeout");
        assert_eq!(or_dash(outcome(None, None::<&str>)), "-");
    }
}
