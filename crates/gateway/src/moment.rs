//! Moments as requests name them.

use std::time::Duration;

use relay_event::{Invalid, Timestamp};
use serde::Deserialize;

/// A time, or so long before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Moment {
    At(Timestamp),
    Ago(Duration),
}

impl Moment {
    /// The time it is, as seen at `now`.
    pub(crate) fn seen_at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(span) => {
                let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_millis(now.as_millis().saturating_sub(span)).unwrap_or_default()
            }
        }
    }
}

impl TryFrom<String> for Moment {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        if let Ok(span) = humantime::parse_duration(&text) {
            return Ok(Self::Ago(span));
        }
        // In a query, a plus sign that was not encoded came as a space.
        let time = text.replace(' ', "+").parse();
        time.map(Self::At).map_err(|_| {
            "must be an RFC 3339 time such as 2026-01-31T09:30:00Z, or a span back from now such as 90s, 1h or 7d"
        })
    }
}

/// From when, if that matters, until when.
pub(crate) type Period = (Option<Timestamp>, Option<Timestamp>);

/// The period that two moments name.
pub(crate) fn period(
    since: Option<Moment>,
    until: Option<Moment>,
    now: Timestamp,
) -> Result<Period, Invalid> {
    let (since, until) = (since.map(|m| m.seen_at(now)), until.map(|m| m.seen_at(now)));
    match (since, until) {
        (Some(since), Some(until)) if since > until => Err(Invalid::new(
            "since",
            format!("{since} is after `until`, {until}"),
        )),
        period => Ok(period),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Result<Moment, &'static str> {
        text.to_owned().try_into()
    }

    #[test]
    fn a_moment_is_a_time_or_a_span_back() {
        let now: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        for (text, time) in [
            ("90s", "2026-01-31T09:28:30Z"),
            ("7d", "2026-01-24T09:30:00Z"),
            ("1000years", "1970-01-01T00:00:00Z"),
            ("2026-01-30T00:00:00Z", "2026-01-30T00:00:00Z"),
            ("2026-01-30T01:00:00+01:00", "2026-01-30T00:00:00Z"),
            ("2026-01-30T01:00:00 01:00", "2026-01-30T00:00:00Z"),
        ] {
            let time = time.parse::<Timestamp>().unwrap();
            assert_eq!(moment(text).unwrap().seen_at(now), time, "{text}");
        }
        for text in ["", "yesterday", "90", "-1h", "2026-01-30"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_period_does_not_end_before_it_begins() {
        let now = Timestamp::now();
        let given = |text| Some(moment(text).unwrap());
        assert_eq!(period(None, None, now), Ok((None, None)));
        assert!(period(given("2h"), given("1h"), now).is_ok());
        assert!(period(given("1h"), given("1h"), now).is_ok());
        assert_eq!(period(given("1h"), given("2h"), now).unwrap_err().field, "since");
    }
}
