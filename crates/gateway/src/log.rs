//! The log as it is read: events, their deliveries, their attempts.

pub(crate) mod attempts;
pub(crate) mod deliveries;
pub(crate) mod events;
pub(crate) mod status;
mod view;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use relay_event::EventId;
use relay_store::LoggedEvent;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::IntoParams;

use crate::{cursor::Cursor, gateway::Gateway, problem::Problem};

/// The event a path names, by its own id or the one that receivers know it by; what is no id names none.
pub(crate) struct Id(pub(crate) EventId);

impl FromRequestParts<Gateway> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, gateway).await;
        path.ok()
            .and_then(|Path(id)| id.parse().ok())
            .map(Self)
            .ok_or_else(Problem::no_such_event)
    }
}

/// Which of the events with an id.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// The event's source; needed only if several sources use the same ids. Without it, the newest. A webhook
    /// id is of one event.
    #[param(example = "/orders")]
    pub(crate) source: Option<String>,
}

/// An event's bytes, as part of an answer.
pub(crate) fn json<'a>(event: &LoggedEvent, body: &'a [u8]) -> Result<&'a RawValue, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        tracing::error!(event = %event.webhook_id(), %error, "the log holds an event that is no JSON");
        Problem::internal()
    })
}

/// An event that is in the log: the one that receivers know by this id; of several with this id of their own,
/// the newest.
pub(crate) async fn find(
    gateway: &Gateway,
    id: &EventId,
    source: Option<&str>,
) -> Result<LoggedEvent, Problem> {
    let found = gateway.store.logged_event(id, source).await?;
    found.ok_or_else(Problem::no_such_event)
}

/// How many of a list are answered with at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Limit(u32);

impl Default for Limit {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<String> for Limit {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let limit = text.parse().ok().filter(|limit| (1..=1_000).contains(limit));
        limit.map(Self).ok_or("must be a whole number from 1 to 1000")
    }
}

impl Limit {
    pub(crate) fn get(self) -> u32 {
        self.0
    }

    /// How many to fetch: one more, to know whether there is another page.
    fn fetched(self) -> u32 {
        self.0 + 1
    }

    /// A page of what was fetched, and where the next begins.
    fn page<T>(self, mut fetched: Vec<T>, place: impl Fn(&T) -> Cursor) -> (Vec<T>, Option<Cursor>) {
        let more = fetched.len() > self.0 as usize;
        fetched.truncate(self.0 as usize);
        let next = fetched.last().filter(|_| more).map(place);
        (fetched, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_limits() {
        let limit = |text: &str| Limit::try_from(text.to_owned());
        assert_eq!(limit("1"), Ok(Limit(1)));
        assert_eq!(limit("1000"), Ok(Limit(1_000)));
        for text in ["", "0", "1001", "-1", "ten", "1.0"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn there_is_a_next_page_only_if_there_is_more() {
        let place = |before: &i64| Cursor::Events { before: *before };
        assert_eq!(Limit(3).fetched(), 4);
        assert_eq!(Limit(3).page(vec![9, 8, 7], place), (vec![9, 8, 7], None));
        assert_eq!(
            Limit(3).page(vec![9, 8, 7, 6], place),
            (vec![9, 8, 7], Some(Cursor::Events { before: 7 }))
        );
        assert_eq!(Limit(3).page(vec![], place), (vec![], None));
    }
}
