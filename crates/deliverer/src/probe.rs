//! An endpoint that is closed off: its backlog stays in its queue, and one event now and then is tried,
//! in earnest. Events that outlived their whole schedule meanwhile go to the dead-letter queue.

use std::{sync::Arc, time::Duration};

use relay_broker::{Error, Received, Taken};
use relay_event::{DeadReason, Endpoint, History, Timestamp, outlived};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use crate::{
    breaker::{Failing, pause},
    consume::{BURIALS, Ended, Told, Turn},
    delivery::Line,
    notes::WITNESSED,
    pace::Permit,
};

/// How long events that outlived their schedule are cleared away before the next attempt, even if it be
/// at one of them: an endpoint that returned does not wait for the clearing, nor do those still to come.
const CLEARING: Duration = Duration::from_secs(3);

/// Tries until the endpoint is open again, or told to stop.
pub(crate) async fn probe_all(
    line: &Line,
    told: &mut Told,
    at_once: bool,
    deliveries: &TaskTracker,
) -> Result<Turn, Error> {
    drop(told.replaced.take());
    let mut blocked = line.session.blocked();
    let mut wait = if at_once { Duration::ZERO } else { pause(0) };
    for failed in 1.. {
        let ready = async {
            sleep(wait).await;
            let permit = line.pace.permit().await.with_slot().await;
            let taking = blocked.wait_for(|blocked| !blocked).await;
            taking.ok().map(|_| permit)
        };
        let permit = tokio::select! {
            biased;
            over = over(line, told) => return Ok(over),
            permit = ready => permit,
        };
        let Some(permit) = permit else {
            return Ok(Turn::Ended(Ended::Lost));
        };
        let clearing = Instant::now() + CLEARING;
        let ended = probe(line, told, permit, clearing, deliveries).await?;
        let more_to_clear = Instant::now() >= clearing;
        tokio::select! {
            biased;
            // An attempt may take as long as the endpoint's timeout.
            over = over(line, told) => return Ok(over),
            _ = ended => {}
        }
        wait = if more_to_clear { pause(0) } else { pause(failed) };
    }
    Ok(Turn::Over)
}

/// What ends probing.
async fn over(line: &Line, told: &Told) -> Turn {
    tokio::select! {
        biased;
        () = told.stop.cancelled() => Turn::Ended(Ended::Stopped),
        () = line.gone.cancelled() => Turn::Ended(Ended::Gone),
        () = line.pace.until_open() => Turn::Over,
    }
}

/// Begins an attempt at the first event that is still owed one, and gives up those before it, many at
/// once. They are taken one by one: what is fetched and put back counts as returned, and an event
/// that is returned too often becomes a dead letter. Resolves when the attempt is settled.
async fn probe(
    line: &Line,
    told: &Told,
    permit: Permit,
    clearing: Instant,
    deliveries: &TaskTracker,
) -> Result<oneshot::Receiver<()>, Error> {
    let queue = line.session.topology().endpoint(&line.endpoint.id);
    let (done, ended) = oneshot::channel();
    let burials = Arc::new(Semaphore::new(BURIALS.into()));
    let mut given_up = 0_u64;
    while let Some(mut taken) = line.session.take_one(&queue).await? {
        let received = taken.read(&line.session, line.workshop.max_event_bytes);
        let Some(reason) = not_owed(line, &received, clearing) else {
            begin(line, taken, received, permit, done, deliveries);
            break;
        };
        let burial = tokio::select! {
            biased;
            () = told.stop.cancelled() => {
                taken.give_back().await;
                break;
            }
            burial = Arc::clone(&burials).acquire_owned() => burial,
        };
        line.clone().begin(deliveries, async move |line| {
            line.give_up(taken, &received, reason).await;
            drop(burial);
        });
        given_up += 1;
    }
    if given_up > 0 {
        tracing::warn!(endpoint = %line.endpoint.id, events = given_up, "given up: they outlived their schedule while every attempt failed, or are no valid events; they are in the dead-letter queue");
    }
    Ok(ended)
}

/// Why a message gets no attempt.
fn not_owed(line: &Line, received: &Received, clearing: Instant) -> Option<DeadReason> {
    if received.event.is_err() {
        return Some(DeadReason::InvalidEvent);
    }
    if Instant::now() >= clearing {
        return None;
    }
    let failing = line.pace.failing()?;
    is_expired(&line.endpoint, &received.history, &failing, Timestamp::now()).then_some(DeadReason::Expired)
}

/// For time in which nobody tried, nothing expires: how the endpoint fared then is not known.
fn is_expired(endpoint: &Endpoint, history: &History, failing: &Failing, now: Timestamp) -> bool {
    failing.witnessed() >= endpoint.lifetime().min(WITNESSED)
        && outlived(endpoint, history, failing.since, now)
}

fn begin(
    line: &Line,
    taken: Taken,
    received: Received,
    permit: Permit,
    done: oneshot::Sender<()>,
    deliveries: &TaskTracker,
) {
    line.clone().begin(deliveries, async move |line| {
        if let Ok(event) = &received.event {
            let sign = line.deliver_event(taken, &received, event, permit).await;
            line.workshop.metrics.probed(sign);
        }
        drop(done);
    });
}

#[cfg(test)]
mod tests {
    use relay_event::{ErrorClass, Outcome, Secret};

    use super::*;
    use crate::breaker::Seen;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default() + Duration::from_secs(seconds)
    }

    /// That of an endpoint that has always failed, as far as anybody knows, and was seen to from then to then.
    fn failing(first: u64, last: u64) -> Failing {
        let outcome = Outcome::Failed {
            error: ErrorClass::Connect,
            status: None,
        };
        let (first, last) = (at(first), at(last));
        Failing {
            since: at(0),
            seen: Some(Seen { first, last, outcome }),
        }
    }

    #[test]
    fn nothing_expires_for_time_in_which_nobody_tried() {
        let (url, types) = ("http://a/".parse().unwrap(), vec!["#".parse().unwrap()]);
        let mut endpoint = Endpoint::new(url, types, Secret::generate(), at(0));
        let history = History {
            published_at: Some(at(0)),
            ..History::default()
        };
        let now = 20 * 24 * 3600;
        let seen = |endpoint: &Endpoint, seconds| {
            is_expired(endpoint, &history, &failing(now - seconds, now), at(now))
        };
        endpoint.retry = "1d".parse().unwrap();
        assert!(!seen(&endpoint, 599));
        assert!(seen(&endpoint, 600));
        (endpoint.retry, endpoint.timeout_ms) = ("1s".parse().unwrap(), 1_000); // 13 s in all
        assert!(!seen(&endpoint, 12));
        assert!(seen(&endpoint, 13));
        let unseen = Failing {
            since: at(0),
            seen: None,
        };
        assert!(!is_expired(&endpoint, &history, &unseen, at(now)));
    }
}
