use std::{num::NonZeroU32, str::FromStr};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// So many a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate(NonZeroU32);

impl Rate {
    /// Lets them through evenly, not in bursts.
    pub(super) fn limiter(self) -> DefaultDirectRateLimiter {
        RateLimiter::direct(Quota::per_second(self.0).allow_burst(NonZeroU32::MIN))
    }

    /// How many come in a second.
    pub(super) fn per_second(self) -> usize {
        usize::try_from(self.0.get()).unwrap_or(usize::MAX)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix("/s").unwrap_or(text);
        number
            .parse()
            .map(Self)
            .map_err(|_| "must be a whole number a second, such as 50/s".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_parse() {
        let rate = |text: &str| text.parse::<Rate>().map(Rate::per_second);
        assert_eq!(rate("50/s"), Ok(50));
        assert_eq!(rate("7"), Ok(7));
        for text in ["0/s", "", "1/m", "fast", "-1/s"] {
            assert!(rate(text).is_err(), "{text:?}");
        }
    }
}
