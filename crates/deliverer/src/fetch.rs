//! How many messages are fetched ahead of their attempts. Few for most endpoints, since a thousand of
//! them share one process's memory; many where all that was fetched is under way and nothing waits.

use std::sync::Arc;

use relay_event::Endpoint;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::delivery::Line;

const FEW: u16 = 8;

/// How many messages all endpoints that fetch many may hold together, beyond their few.
const ROOM: usize = 8_192;

/// What endpoints share that fetch many.
pub(crate) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(ROOM))
}

/// How many one consumer fetches.
pub(crate) struct Fetch {
    ahead: u16,
    /// Its part of the room, if they are many.
    room: Option<OwnedSemaphorePermit>,
}

impl Fetch {
    pub(crate) fn few(endpoint: &Endpoint) -> Self {
        Self {
            ahead: few(endpoint),
            room: None,
        }
    }

    pub(crate) fn ahead(&self) -> u16 {
        self.ahead
    }

    pub(crate) fn is_many(&self) -> bool {
        self.room.is_some()
    }

    /// More, if the endpoint has begun with all of these, its window is wide enough, and there is room.
    pub(crate) fn more(&self, line: &Line) -> Option<Self> {
        let endpoint = &line.endpoint;
        let ahead = many(endpoint).min(bearable(endpoint, line.pace.window()));
        let begun = line.pace.under_way.len() >= usize::from(self.ahead);
        if !begun || !is_worth_it(self.ahead, ahead, many(endpoint)) {
            return None;
        }
        let beyond = ahead.saturating_sub(few(endpoint));
        let room = Arc::clone(&line.workshop.room);
        let room = Some(room.try_acquire_many_owned(beyond.into()).ok()?);
        Some(Self { ahead, room })
    }

    /// Whether what is fetched would wait too long, the endpoint having become slow.
    pub(crate) fn is_too_much(&self, line: &Line) -> bool {
        self.is_many() && self.ahead > bearable(&line.endpoint, line.pace.window())
    }
}

/// Another number means another consumer.
fn is_worth_it(now: u16, then: u16, most: u16) -> bool {
    then > now && (then >= now.saturating_mul(2) || then == most)
}

/// The last message of those fetched must not wait near the broker's `consumer_timeout` of 30 minutes
/// for its attempt: that would end the channel, and all consumers on it. So it waits for so many rounds
/// of attempts at most, should all of them time out.
fn rounds(endpoint: &Endpoint) -> u64 {
    (LONGEST_WAIT / endpoint.timeout().as_secs().max(1)).max(1)
}

const LONGEST_WAIT: u64 = 600;

/// Right for the narrowest window.
fn few(endpoint: &Endpoint) -> u16 {
    u16::try_from(rounds(endpoint)).unwrap_or(FEW).min(FEW)
}

/// Messages wait for their settlement after their attempt, so more are taken than are attempted.
fn many(endpoint: &Endpoint) -> u16 {
    let in_flight = u64::from(endpoint.max_in_flight);
    let by_timeout = in_flight * rounds(endpoint);
    let by_rate = endpoint
        .rate_limit
        .map_or(u64::MAX, |rate| u64::from(rate) * LONGEST_WAIT);
    let wanted = (2 * in_flight + 16).min(by_timeout).min(by_rate);
    u16::try_from(wanted).unwrap_or(u16::MAX)
}

/// How many a window of this size gets through in time.
fn bearable(endpoint: &Endpoint, window: u16) -> u16 {
    let by_timeout = u64::from(window) * rounds(endpoint);
    u16::try_from(by_timeout).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use relay_event::{Secret, Timestamp};

    use super::*;

    fn endpoint(max_in_flight: u16, timeout_ms: u64, rate_limit: Option<u32>) -> Endpoint {
        let (url, pattern) = ("http://127.0.0.1/".parse().unwrap(), "#".parse().unwrap());
        let mut endpoint = Endpoint::new(url, vec![pattern], Secret::generate(), Timestamp::now());
        endpoint.max_in_flight = max_in_flight;
        endpoint.timeout_ms = timeout_ms;
        endpoint.rate_limit = rate_limit;
        endpoint
    }

    #[test]
    fn takes_ahead_but_not_for_longer_than_the_broker_allows() {
        let many = |in_flight, timeout, rate| many(&endpoint(in_flight, timeout, rate));
        assert_eq!(many(32, 30_000, None), 80);
        assert_eq!(many(1_000, 30_000, None), 2_016);
        assert_eq!(many(1, 120_000, None), 5, "five times two minutes");
        assert_eq!(many(1_000, 100, Some(1)), 600, "one a second for ten minutes");
    }

    #[test]
    fn few_are_right_for_one_attempt_at_a_time() {
        assert_eq!(few(&endpoint(32, 30_000, None)), 8);
        assert_eq!(few(&endpoint(32, 120_000, None)), 5);
        assert_eq!(few(&endpoint(32, 100, None)), 8);
    }

    #[test]
    fn more_are_for_a_wider_window() {
        let slow = endpoint(32, 30_000, None);
        assert_eq!(bearable(&slow, 4), 80, "twenty rounds of 30 s");
        assert_eq!(bearable(&slow, 1), 20);
        assert_eq!(bearable(&endpoint(1_000, 100, None), 1_000), u16::MAX);
    }

    #[test]
    fn a_consumer_is_replaced_for_twice_as_many_or_for_the_most() {
        assert!(is_worth_it(8, 80, 216) && is_worth_it(80, 216, 216) && is_worth_it(200, 216, 216));
        assert!(!is_worth_it(80, 159, 216) && !is_worth_it(216, 216, 216) && !is_worth_it(80, 20, 216));
    }
}
