//! What a deliverer, which otherwise only reads the store, writes down in it: that an endpoint is gone,
//! that it has been failing for a while, that it works again, and that it failed for too long. So that
//! its owner can see why nothing arrives, and so that it outlives every deliverer.

use std::{sync::Arc, time::Duration};

use relay_broker::Session;
use relay_event::{Endpoint, EndpointId, EndpointState, Outcome, Timestamp};
use relay_store::{Error, Store};
use tokio::time::timeout;

use crate::{DisableAfter, breaker::Failing};

/// A failure is noted when it has been seen for so long: the store is not told of every blip.
const NOTED_AFTER: Duration = Duration::from_secs(10);

/// And an endpoint is disabled only when this very process has seen it fail for so long: a relay that was off for a week does not know what happened meanwhile.
pub(crate) const WITNESSED: Duration = Duration::from_secs(600);

const GONE: &str = "it answered 410 Gone";

/// How long an announcement may take.
const ANNOUNCED: Duration = Duration::from_secs(2);

/// What is to be written down of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    Failing(Timestamp),
    Works,
    Disable { reason: String },
}

/// Decides it from what this process learnt of an endpoint and what is noted.
pub(crate) fn due(
    endpoint: &Endpoint,
    is_gone: bool,
    failing: Option<&Failing>,
    noted: Option<Timestamp>,
    disable_after: DisableAfter,
) -> Option<Due> {
    if endpoint.state != EndpointState::Active {
        return None;
    }
    if is_gone {
        return Some(Due::Disable {
            reason: GONE.to_owned(),
        });
    }
    due_of_failing(failing, noted, disable_after)
}

fn due_of_failing(
    failing: Option<&Failing>,
    noted: Option<Timestamp>,
    DisableAfter(limit): DisableAfter,
) -> Option<Due> {
    let Some(failing) = failing else {
        return noted.map(|_| Due::Works);
    };
    let seen = failing.seen?;
    let witnessed = failing.witnessed();
    let least = |wanted: Duration| limit.map_or(wanted, |limit| wanted.min(limit));
    if noted.is_none() {
        return (witnessed >= least(NOTED_AFTER)).then_some(Due::Failing(failing.since));
    }
    // To the last failure and not to now: who was sent nothing since did not fail.
    let too_long = limit.is_some_and(|limit| seen.last.since(failing.since) >= limit);
    let sure = witnessed >= least(WITNESSED);
    (too_long && sure).then(|| Due::Disable {
        reason: format!(
            "no attempt succeeded since {}; last: {}",
            failing.since,
            said(&seen.outcome)
        ),
    })
}

fn said(outcome: &Outcome) -> String {
    match (outcome.error(), outcome.status()) {
        (Some(error), _) => error.to_string(),
        (None, Some(status)) => format!("status {status}"),
        (None, None) => "no answer".to_owned(),
    }
}

/// What is to be written down, and of whom.
pub(crate) struct ToNote {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Since when it fails, as the store has it.
    pub(crate) noted: Option<Timestamp>,
    pub(crate) due: Due,
}

/// Writes it all down, and returns what is noted then of those that were written. When the store is away
/// it ends: the next of them would wait as long, and be as vain. What is missing is due again soon.
pub(crate) async fn write_all(
    store: &Store,
    session: &Session,
    all: Vec<ToNote>,
) -> Vec<(EndpointId, Option<Timestamp>)> {
    let mut written = Vec::new();
    for ToNote { endpoint, noted, due } in all {
        match write(store, session, &endpoint, noted, &due).await {
            Ok(noted) => written.push((endpoint.id.clone(), noted)),
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.id, %error, ?due, "what was learnt of it cannot be written down yet");
                if error.is_unavailable() {
                    break;
                }
            }
        }
    }
    written
}

async fn write(
    store: &Store,
    session: &Session,
    endpoint: &Endpoint,
    noted: Option<Timestamp>,
    due: &Due,
) -> Result<Option<Timestamp>, Error> {
    match due {
        Due::Disable { reason } => disable(store, session, endpoint, reason).await.map(|()| noted),
        Due::Failing(since) => note(store, endpoint, noted, Some(*since)).await,
        Due::Works => note(store, endpoint, noted, None).await,
    }
}

/// Changes what is noted from `before` to `after`, unless others or its owner were faster.
async fn note(
    store: &Store,
    endpoint: &Endpoint,
    before: Option<Timestamp>,
    after: Option<Timestamp>,
) -> Result<Option<Timestamp>, Error> {
    let changing = store.update(&endpoint.id, |stored| {
        if stored.updated_at == endpoint.updated_at && stored.failing_since == before {
            stored.failing_since = after;
        }
        Ok(())
    });
    Ok(changing.await?.and_then(|(stored, ())| stored.failing_since))
}

/// Writes down that an endpoint is no longer sent to, unless it was changed since `seen`.
async fn disable(store: &Store, session: &Session, seen: &Endpoint, reason: &str) -> Result<(), Error> {
    let now = Timestamp::now();
    let changing = store.update(&seen.id, |endpoint| {
        let as_it_was = endpoint.updated_at == seen.updated_at;
        if as_it_was {
            let reason = reason.to_owned();
            endpoint.state = EndpointState::Disabled { reason, at: now };
            endpoint.updated_at = now.max(seen.updated_at + Duration::from_millis(1));
        }
        Ok(as_it_was)
    });
    let changed = changing.await.inspect_err(|error| {
        tracing::warn!(endpoint = %seen.id, reason, %error, "it is to be disabled, and that cannot be written down yet");
    })?;
    if matches!(changed, Some((_, true))) {
        tracing::warn!(endpoint = %seen.id, reason, "disabled; what is waiting for it stays until it is resumed or removed");
        // The others find it by looking, should this not arrive, as when the broker takes nothing.
        let _ = timeout(ANNOUNCED, session.announce_change(&seen.id)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use relay_event::ErrorClass;

    use super::*;
    use crate::breaker::Seen;

    const HOUR: u64 = 3600;
    const FIVE_DAYS: DisableAfter = DisableAfter(Some(Duration::from_secs(120 * HOUR)));

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default() + Duration::from_secs(seconds)
    }

    fn failing(since: u64, first: u64, last: u64) -> Failing {
        let outcome = Outcome::Failed {
            error: ErrorClass::Timeout,
            status: None,
        };
        let (first, last) = (at(first), at(last));
        Failing {
            since: at(since),
            seen: Some(Seen { first, last, outcome }),
        }
    }

    #[test]
    fn a_blip_is_not_noted_and_a_failure_is() {
        let due = |failing: &Failing| due_of_failing(Some(failing), None, FIVE_DAYS);
        assert_eq!(due(&failing(1, 1, 10)), None);
        assert_eq!(due(&failing(1, 1, 11)), Some(Due::Failing(at(1))));
    }

    #[test]
    fn a_success_clears_the_note() {
        assert_eq!(due_of_failing(None, Some(at(1)), FIVE_DAYS), Some(Due::Works));
        assert_eq!(due_of_failing(None, None, FIVE_DAYS), None);
    }

    #[test]
    fn too_long_is_too_long_once_it_was_seen() {
        let end = 120 * HOUR;
        let due = |failing: &Failing, limit| due_of_failing(Some(failing), Some(at(0)), limit);
        assert_eq!(due(&failing(1, 1, end), FIVE_DAYS), None, "a second is left");
        let reason = "no attempt succeeded since 1970-01-01T00:00:00.000Z; last: timeout".to_owned();
        assert_eq!(due(&failing(0, 1, end), FIVE_DAYS), Some(Due::Disable { reason }));
        assert_eq!(due(&failing(0, 1, end), DisableAfter(None)), None);
        assert_eq!(
            due(&failing(0, 1, end - 1), FIVE_DAYS),
            None,
            "nothing was sent since"
        );
        // The process began a moment ago.
        assert_eq!(due(&failing(0, end - 60, end), FIVE_DAYS), None);
        let unseen = Failing {
            since: at(0),
            seen: None,
        };
        assert_eq!(due(&unseen, FIVE_DAYS), None);
    }

    #[test]
    fn never_and_times_are_read() {
        assert_eq!("never".parse(), Ok(DisableAfter(None)));
        assert_eq!("5d".parse(), Ok(FIVE_DAYS));
        assert!("0".parse::<DisableAfter>().is_err());
    }
}
