use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::invalid::{Given, Invalid, text_type};

/// A moment in UTC, to the millisecond. Reads and writes as RFC 3339.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// This machine's clock.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// From milliseconds since 1970, `None` outside the years 1970 to 9999.
    pub fn from_millis(millis: i64) -> Option<Self> {
        const YEAR_10000: i64 = 253_402_300_800_000;
        (0..YEAR_10000).contains(&millis).then_some(Self(millis))
    }

    /// Checks that a text is an RFC 3339 time, of any year: .NET's `DateTime.MinValue` is in the year 1.
    pub(crate) fn check(text: &str) -> Result<(), Invalid> {
        parsed(text).map(drop)
    }

    /// Milliseconds since 1970.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970.
    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Clocks before 1970 read as 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .map_err(|_| fmt::Error)?;
        let (date, time) = (whole.date(), whole.time());
        let (hour, minute, second, milli) = time.as_hms_milli();
        write!(f, "{date}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

impl FromStr for Timestamp {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parsed = parsed(text)?;
        i64::try_from(parsed.unix_timestamp_nanos() / 1_000_000)
            .ok()
            .and_then(Self::from_millis)
            .ok_or_else(|| refused(text))
    }
}

fn parsed(text: &str) -> Result<OffsetDateTime, Invalid> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| refused(text))
}

fn refused(text: &str) -> Invalid {
    Invalid::new(
        "time",
        format!(
            "must be an RFC 3339 time such as 2026-01-31T09:30:00Z, not {}",
            Given(text)
        ),
    )
}

text_type!(Timestamp);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        let moment = Timestamp::from_millis(1_614_265_330_042).unwrap();
        assert_eq!(moment.to_string(), "2021-02-25T15:02:10.042Z");
        assert_eq!(moment.to_string().parse(), Ok(moment));
        assert_eq!("2021-02-25T16:02:10.042+01:00".parse(), Ok(moment));
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn never_runs_backwards_into_a_negative_age() {
        let early = Timestamp::from_millis(1_000).unwrap();
        let late = early + Duration::from_secs(5);
        assert_eq!(late.since(early), Duration::from_secs(5));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
