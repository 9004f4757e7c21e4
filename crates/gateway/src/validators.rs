//! Validators, which tell whether a client has an answer already: a tag and a date (RFC 9110, sections 8.8 and 13).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use httpdate::{fmt_http_date, parse_http_date};
use relay_event::Timestamp;
use sha2::{Digest, Sha256};
use utoipa::IntoParams;

/// The tag of an answer that says this. Weak, since the same may be compressed or not.
pub(crate) fn tag(says: &str) -> HeaderValue {
    let digest = Sha256::digest(says);
    let tag: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("W/\"{tag}\"")).unwrap_or(HeaderValue::from_static("W/\"\""))
}

/// The headers by which a client says which answer it has. Described here, and read as headers.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "a description, not a value")]
pub(crate) struct Conditions {
    /// The `ETag` of an answer to the same request.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
    /// The `Last-Modified` of an answer to the same request; beside a tag it does not count.
    #[param(rename = "If-Modified-Since")]
    if_modified_since: Option<String>,
}

/// The tag and the date of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Validators {
    pub(crate) tag: HeaderValue,
    /// `None` if nobody knows since when it is so.
    pub(crate) date: Option<Date>,
}

impl Validators {
    /// Decides whether the client has this answer. What it says of a tag counts alone (section 13.1.3).
    pub(crate) fn are_known(&self, headers: &HeaderMap, now: Timestamp) -> bool {
        if headers.contains_key(header::IF_NONE_MATCH) {
            return names(headers, &self.tag);
        }
        let mut since = headers.get_all(header::IF_MODIFIED_SINCE).into_iter();
        match (self.date, since.next(), since.next()) {
            (Some(date), Some(since), None) => seconds(since).is_some_and(|since| date.is_kept(since, now)),
            _ => false,
        }
    }

    /// Says them in an answer.
    pub(crate) fn say(self, response: &mut Response, now: Timestamp) {
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.tag);
        if let Some(date) = self.date.and_then(|date| date.told(now)) {
            headers.insert(header::LAST_MODIFIED, date);
        }
    }
}

/// Looks for this tag among those that a client has.
fn names(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let mut known = headers.get_all(header::IF_NONE_MATCH).into_iter();
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let Ok(tag) = tag.to_str() else {
        return false;
    };
    known.any(|known| {
        let known = known.to_str().unwrap_or_default();
        let named = |known: &str| known.trim() == "*" || opaque(known) == opaque(tag);
        known.split(',').any(named)
    })
}

/// The time since which an answer is as it is.
///
/// HTTP's dates have whole seconds, so an answer is dated to the end of the second of its change, and has no
/// date before that second is over: whatever changes later has a later date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Date {
    /// In seconds since 1970, as clients are told.
    told: i64,
    /// Counts only for a client that gives back this very date.
    is_exact: bool,
}

impl Date {
    /// The date of an answer that this process saw change at this time. The time of the change itself does not
    /// do: the change may have become known much later.
    pub(crate) fn seen_at(time: Timestamp) -> Self {
        Self {
            told: end(time),
            is_exact: false,
        }
    }

    /// The same, for an answer that another process may learn of later than this one: a time at which a client
    /// asked says nothing then.
    pub(crate) fn exact(self) -> Self {
        Self {
            is_exact: true,
            ..self
        }
    }

    /// Tells whether the second of the change was over at this time.
    pub(crate) fn is_over(self, time: Timestamp) -> bool {
        self.told <= time.as_secs()
    }

    /// Decides whether a client that was answered at this time has what there is now. It is so if the client asked
    /// after the change was seen, or gives back the date that it was told then.
    fn is_kept(self, since: i64, now: Timestamp) -> bool {
        let is_known = match self.is_exact {
            true => since == self.told,
            false => self.told <= since && since <= now.as_secs(),
        };
        self.is_over(now) && is_known
    }

    fn told(self, now: Timestamp) -> Option<HeaderValue> {
        let told = u64::try_from(self.told).ok().filter(|_| self.is_over(now))?;
        let time = UNIX_EPOCH + Duration::from_secs(told);
        HeaderValue::try_from(fmt_http_date(time)).ok()
    }
}

/// The end of a time's second.
fn end(time: Timestamp) -> i64 {
    time.as_secs() + 1
}

fn seconds(date: &HeaderValue) -> Option<i64> {
    let date = parse_http_date(date.to_str().ok()?).ok()?;
    let since = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// So many answers' dates are kept; then all are forgotten, and begin anew.
const MOST: usize = 10_000;

/// The times since which answers are as they are, for answers whose own times do not tell: a delivery's time is
/// that of its attempt, which may be recorded much later, and a list does not show when something left it.
#[derive(Default)]
pub(crate) struct Dates(Mutex<HashMap<String, (HeaderValue, Date)>>);

impl Dates {
    /// The date of the answer of this name, which has this tag now. One that is asked for the first time is
    /// new, whatever its own times: nobody knows what another process, or this one before it began anew, has
    /// told of it since.
    pub(crate) fn of(&self, name: &str, tag: &HeaderValue, now: Timestamp) -> Date {
        let mut dates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let date = match dates.get(name) {
            Some((known, date)) if known == tag => return *date,
            Some((_, before)) => Date::seen_at(now).after(*before),
            None => Date::seen_at(now),
        };
        if dates.len() >= MOST {
            dates.clear();
        }
        dates.insert(name.to_owned(), (tag.clone(), date));
        date
    }
}

impl Date {
    /// The same, but later than another.
    fn after(self, other: Self) -> Self {
        Self {
            told: self.told.max(other.told + 1),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    fn asking(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_tag_is_found_among_others() {
        let this = tag("this");
        assert_ne!(this, tag("that"));
        let text = this.to_str().unwrap();
        for (known, expected) in [
            (text.to_owned(), true),
            (text.trim_start_matches("W/").to_owned(), true),
            (format!("\"other\", {text}"), true),
            ("*".to_owned(), true),
            ("\"other\"".to_owned(), false),
            (String::new(), false),
        ] {
            let headers = asking(header::IF_NONE_MATCH, &known);
            assert_eq!(names(&headers, &this), expected, "{known}");
        }
        assert!(!names(&HeaderMap::new(), &this));
    }

    #[test]
    fn a_date_is_told_once_its_second_is_over() {
        let date = Date::seen_at(at(10_300));
        assert_eq!(date.told(at(10_999)), None);
        assert_eq!(date.told(at(11_000)).unwrap(), "Thu, 01 Jan 1970 00:00:11 GMT");
        assert!(!date.is_kept(10, at(12_000)), "asked in the second of the change");
        assert!(date.is_kept(11, at(12_000)) && date.is_kept(12, at(12_000)));
        assert!(!date.is_kept(13, at(12_000)), "in the future");
    }

    #[test]
    fn each_change_has_a_later_date() {
        let dates = Dates::default();
        let (a, b) = (tag("a"), tag("b"));
        let first = dates.of("x", &a, at(10_300));
        assert_eq!(first, Date::seen_at(at(10_300)));
        assert_eq!(dates.of("x", &a, at(20_000)), first);
        assert_eq!(dates.of("y", &b, at(10_300)), Date::seen_at(at(10_300)));
        let second = dates.of("x", &b, at(20_100));
        assert_eq!(second, Date::seen_at(at(20_100)));
        let third = dates.of("x", &a, at(20_200));
        assert_eq!(third, Date::seen_at(at(21_000)));
        assert!(!first.is_kept(10, at(20_000)) && first.is_kept(11, at(20_000)));
    }

    /// One process may have told of `a`, which another has never seen.
    #[test]
    fn a_date_of_before_a_restart_is_not_known() {
        let before = Dates::default().of("x", &tag("a"), at(10_300));
        let after = Dates::default().of("x", &tag("b"), at(20_000));
        assert!(!after.is_kept(before.told, at(30_000)));
        assert!(after.is_kept(after.told, at(30_000)));
    }

    #[test]
    fn an_exact_date_counts_alone() {
        let date = Date::seen_at(at(10_300)).exact();
        assert!(date.is_kept(11, at(12_000)));
        assert!(!date.is_kept(10, at(12_000)) && !date.is_kept(12, at(12_000)));
        assert!(!date.is_kept(11, at(10_999)), "its second is not over");
    }

    #[test]
    fn a_tag_counts_alone() {
        let validators = Validators {
            tag: tag("this"),
            date: Some(Date::seen_at(at(10_300))),
        };
        let now = at(20_000);
        let date = || "Thu, 01 Jan 1970 00:00:11 GMT".parse().unwrap();
        let mut headers = asking(header::IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:11 GMT");
        assert!(validators.are_known(&headers, now));
        headers.insert(header::IF_NONE_MATCH, "\"other\"".parse().unwrap());
        assert!(!validators.are_known(&headers, now));
        let mut twice = asking(header::IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:11 GMT");
        twice.append(header::IF_MODIFIED_SINCE, date());
        assert!(!validators.are_known(&twice, now));
        assert!(!validators.are_known(&asking(header::IF_MODIFIED_SINCE, "11"), now));
        assert!(!validators.are_known(&HeaderMap::new(), now));
    }
}
