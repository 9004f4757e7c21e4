//! How values stand in the tables. A code, once written, keeps its meaning.

use std::borrow::Cow;

use relay_event::{AttemptId, DeadReason, DeliveryState, EndpointId, ErrorClass, HoldReason, Timestamp};

/// The last millisecond of the year 9999, which is the last that reads.
const LAST: i64 = 253_402_300_799_999;

/// In their order, as that of standings depends on it.
pub(super) const fn state_code(state: DeliveryState) -> i16 {
    match state {
        DeliveryState::Pending => 0,
        DeliveryState::Retrying => 1,
        DeliveryState::Dead => 2,
        DeliveryState::Delivered => 3,
        DeliveryState::Canceled => 4,
    }
}

pub(super) fn reason_code(reason: DeadReason) -> i16 {
    match reason {
        DeadReason::AttemptsExhausted => 0,
        DeadReason::EndpointRemoved => 1,
        DeadReason::EndpointGone => 2,
        DeadReason::InvalidEvent => 3,
        DeadReason::DeliveryLimit => 4,
        DeadReason::InvalidRecord => 5,
        DeadReason::Expired => 6,
    }
}

pub(super) const fn hold_code(reason: HoldReason) -> i16 {
    match reason {
        HoldReason::Paused => 0,
        HoldReason::Disabled => 1,
        HoldReason::Circuit => 2,
        HoldReason::Rate => 3,
        HoldReason::Slow => 4,
        HoldReason::Behind => 5,
        HoldReason::Wide => 6,
        HoldReason::Returned => 7,
        HoldReason::Expired => 8,
        HoldReason::Blind => 9,
        HoldReason::Replay => 10,
        HoldReason::InDoubt => 11,
    }
}

pub(super) fn error_code(error: ErrorClass) -> i16 {
    match error {
        ErrorClass::Timeout => 0,
        ErrorClass::Dns => 1,
        ErrorClass::Connect => 2,
        ErrorClass::Tls => 3,
        ErrorClass::Reset => 4,
        ErrorClass::Body => 5,
        ErrorClass::Redirect => 6,
        ErrorClass::Protocol => 7,
    }
}

pub(super) fn millis(time: Timestamp) -> i64 {
    time.as_millis().clamp(0, LAST)
}

pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// PostgreSQL keeps no NUL in a text.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

pub(super) fn state(code: i16) -> Result<DeliveryState, sqlx::Error> {
    let state = |state: &DeliveryState| state_code(*state) == code;
    known(DeliveryState::ALL.into_iter().find(state), "state", code)
}

pub(super) fn reason(code: Option<i16>) -> Result<Option<DeadReason>, sqlx::Error> {
    let named = |code| {
        let reason = |reason: &DeadReason| reason_code(*reason) == code;
        known(DeadReason::ALL.into_iter().find(reason), "reason", code)
    };
    code.map(named).transpose()
}

pub(super) fn error(code: Option<i16>) -> Result<Option<ErrorClass>, sqlx::Error> {
    let named = |code| {
        let class = |class: &ErrorClass| error_code(*class) == code;
        known(ErrorClass::ALL.into_iter().find(class), "error", code)
    };
    code.map(named).transpose()
}

pub(super) fn hold(code: i16) -> Result<HoldReason, sqlx::Error> {
    let reason = |reason: &HoldReason| hold_code(*reason) == code;
    known(HoldReason::ALL.into_iter().find(reason), "reason to hold", code)
}

pub(super) fn time(millis: i64) -> Result<Timestamp, sqlx::Error> {
    known(Timestamp::from_millis(millis), "time", millis)
}

pub(super) fn time_or_none(millis: Option<i64>) -> Result<Option<Timestamp>, sqlx::Error> {
    millis.map(time).transpose()
}

pub(super) fn status(status: Option<i32>) -> Result<Option<u16>, sqlx::Error> {
    let number = |status| known(u16::try_from(status).ok(), "status", status);
    status.map(number).transpose()
}

pub(super) fn attempts(number: i64) -> Result<u32, sqlx::Error> {
    known(u32::try_from(number).ok(), "number of attempts", number)
}

pub(super) fn duration(millis: i64) -> Result<u64, sqlx::Error> {
    known(u64::try_from(millis).ok(), "duration", millis)
}

pub(super) fn endpoint(bytes: Vec<u8>) -> Result<EndpointId, sqlx::Error> {
    sixteen(bytes).map(EndpointId::from_bytes)
}

pub(super) fn attempt(bytes: Vec<u8>) -> Result<AttemptId, sqlx::Error> {
    sixteen(bytes).map(AttemptId::from_bytes)
}

/// Text of a domain type.
pub(super) fn parsed<T>(text: &str) -> Result<T, sqlx::Error>
where
    T: std::str::FromStr<Err = relay_event::Invalid>,
{
    text.parse().map_err(unreadable)
}

fn sixteen(bytes: Vec<u8>) -> Result<[u8; 16], sqlx::Error> {
    let unreadable = |bytes: Vec<u8>| unreadable(format!("an id of {} bytes", bytes.len()));
    bytes.try_into().map_err(unreadable)
}

fn known<T>(value: Option<T>, what: &str, stored: impl std::fmt::Display) -> Result<T, sqlx::Error> {
    value.ok_or_else(|| unreadable(format!("{stored} is no {what}")))
}

pub(super) fn unreadable(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(problem.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_code_of_its_own() {
        for value in DeliveryState::ALL {
            assert_eq!(state(state_code(value)).unwrap(), value);
        }
        assert!(DeliveryState::ALL.is_sorted_by_key(|state| state_code(*state)));
        for value in DeadReason::ALL {
            assert_eq!(reason(Some(reason_code(value))).unwrap(), Some(value));
        }
        for value in HoldReason::ALL {
            assert_eq!(hold(hold_code(value)).unwrap(), value);
        }
        for value in ErrorClass::ALL {
            assert_eq!(error(Some(error_code(value))).unwrap(), Some(value));
        }
        assert!(state(9).is_err() && reason(Some(9)).is_err() && error(Some(9)).is_err());
    }

    #[test]
    fn what_is_written_always_reads() {
        let late = Timestamp::default() + std::time::Duration::MAX;
        assert_eq!(
            time(millis(late)).unwrap().to_string(),
            "9999-12-31T23:59:59.999Z"
        );
        assert_eq!(text("a\0b"), "a\u{fffd}b");
    }
}
