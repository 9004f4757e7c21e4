use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};

use crate::invalid::{Given, Invalid, text_type};

const MIN: u64 = 1;
const MAX: u64 = 7 * 24 * 3600;

/// How long a retry waits: whole seconds, from 1 s to 7 days. Each distinct delay is a queue in the
/// broker, and its text (`30s`, `5m`, `1h30m`, `24h`) is that queue's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Delay(u64);

impl Delay {
    /// A delay of whole seconds.
    ///
    /// # Errors
    /// Outside 1 s to 7 days.
    pub fn from_secs(seconds: u64) -> Result<Self, Invalid> {
        if (MIN..=MAX).contains(&seconds) {
            return Ok(Self(seconds));
        }
        Err(Invalid::new(
            "retry",
            format!("a delay must be from 1s to 168h (7 days), not {seconds}s"),
        ))
    }

    /// The delay as a duration.
    pub fn as_duration(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// The shortest delay that is at least `wanted` long, out of `own` and a fixed ladder, so that
    /// answers with odd `Retry-After`s cannot make a queue each. A wait beyond the ladder's 24 h is 24 h.
    pub(crate) fn at_least(wanted: Duration, own: &[Delay]) -> Delay {
        const LADDER: [u64; 17] = [
            1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, LONGEST,
        ];
        const LONGEST: u64 = 86_400;
        LADDER
            .into_iter()
            .map(Delay)
            .chain(own.iter().copied())
            .filter(|delay| delay.as_duration() >= wanted)
            .min()
            .unwrap_or(Delay(LONGEST))
    }
}

impl FromStr for Delay {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match humantime::parse_duration(text) {
            Ok(duration) if duration.subsec_nanos() == 0 => Self::from_secs(duration.as_secs()),
            _ => Err(Invalid::new(
                "retry",
                format!(
                    "a delay must be whole seconds such as 30s, 5m or 24h, not {}",
                    Given(text)
                ),
            )),
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.0 / 3600, 'h'), (self.0 / 60 % 60, 'm'), (self.0 % 60, 's')];
        for (count, unit) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{count}{unit}")?;
        }
        Ok(())
    }
}

text_type!(Delay);

/// The waits between the attempts of one delivery: n delays make n + 1 attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RetrySchedule(Vec<Delay>);

impl RetrySchedule {
    /// The most delays a schedule may name.
    pub const MAX_DELAYS: usize = 20;

    /// A schedule of these delays; none means a single attempt.
    ///
    /// # Errors
    /// More than [`Self::MAX_DELAYS`].
    pub fn new(delays: Vec<Delay>) -> Result<Self, Invalid> {
        if delays.len() <= Self::MAX_DELAYS {
            return Ok(Self(delays));
        }
        Err(Invalid::new(
            "retry",
            format!(
                "at most {} delays are allowed, not {}",
                Self::MAX_DELAYS,
                delays.len()
            ),
        ))
    }

    /// The delays, in the order they are waited.
    pub fn delays(&self) -> &[Delay] {
        &self.0
    }

    /// Attempts in all: the first and one after each delay.
    pub fn attempts(&self) -> u32 {
        self.0.len() as u32 + 1
    }
}

impl Default for RetrySchedule {
    /// 30 s, 5 min, 30 min, 2 h, 24 h.
    fn default() -> Self {
        Self([30, 300, 1_800, 7_200, 86_400].map(Delay).to_vec())
    }
}

impl FromStr for RetrySchedule {
    type Err = Invalid;

    /// Delays separated by commas, or `none`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.trim() == "none" {
            return Ok(Self(Vec::new()));
        }
        let delays: Result<_, _> = text.split(',').map(|part| part.trim().parse()).collect();
        Self::new(delays?)
    }
}

impl fmt::Display for RetrySchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let texts: Vec<String> = self.0.iter().map(Delay::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

impl<'de> Deserialize<'de> for RetrySchedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?)
            .map_err(|refused| serde::de::Error::custom(refused.problem))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_reads_back_what_it_writes(seconds in MIN..=MAX) {
            let delay = Delay(seconds);
            prop_assert_eq!(delay.to_string().parse(), Ok(delay));
        }

        #[test]
        fn a_raised_delay_is_never_shorter_than_asked(seconds in 0_u64..=86_400, own in 1_u64..=MAX) {
            let wanted = Duration::from_secs(seconds);
            prop_assert!(Delay::at_least(wanted, &[Delay(own)]).as_duration() >= wanted);
        }
    }

    #[test]
    fn schedules_parse() {
        let schedule: RetrySchedule = "1s, 5m,24h".parse().unwrap();
        assert_eq!(schedule.to_string(), "1s,5m,24h");
        assert_eq!(schedule.attempts(), 4);
        assert_eq!("none".parse::<RetrySchedule>().unwrap().attempts(), 1);
        assert_eq!(RetrySchedule::default().to_string(), "30s,5m,30m,2h,24h");
    }

    #[test]
    fn delays_outside_the_limits_are_refused() {
        for text in ["", "0s", "500ms", "8days", "soon", "-1s", "5"] {
            assert!(text.parse::<Delay>().is_err(), "{text:?}");
        }
        assert!(RetrySchedule::new(vec![Delay(1); 21]).is_err());
    }

    #[test]
    fn a_long_wait_is_capped_at_a_day() {
        assert_eq!(
            Delay::at_least(Duration::from_secs(1_000_000), &[]),
            Delay(86_400)
        );
        assert_eq!(Delay::at_least(Duration::from_secs(31), &[Delay(45)]), Delay(45));
    }
}
