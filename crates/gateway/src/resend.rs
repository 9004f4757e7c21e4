//! Events of the log are sent to endpoints again, each with its schedule begun anew.

use futures_util::future::join_all;
use relay_broker::Session;
use relay_event::{EndpointId, Event, Standing, Timestamp};
use tokio::time::timeout;

use crate::{
    gateway::Gateway,
    problem::{Kind, Problem},
};

/// One event for one endpoint.
pub(crate) struct Resend<'a> {
    /// The event's place in the log.
    pub(crate) sequence: i64,
    pub(crate) event: &'a Event,
    pub(crate) endpoint: &'a EndpointId,
}

/// Sends all of them at once, and waits until the broker has confirmed each. What it has confirmed
/// waits for its first attempt, also if this fails.
pub(crate) async fn resend(
    gateway: &Gateway,
    session: &Session,
    work: &[Resend<'_>],
    now: Timestamp,
) -> Result<(), Problem> {
    let patience = gateway.config.confirm_timeout;
    let run = new_run(gateway, work, now).await?;
    let sending = work.iter().map(|one| async move {
        let sent = timeout(patience, session.replay(one.endpoint, one.event, run)).await;
        matches!(sent, Ok(Ok(()))).then(|| (one.sequence, one.endpoint.clone()))
    });
    let confirmed: Vec<_> = join_all(sending).await.into_iter().flatten().collect();
    note(gateway, &confirmed, run).await;
    if confirmed.len() < work.len() {
        return Err(unconfirmed());
    }
    Ok(())
}

async fn new_run(gateway: &Gateway, work: &[Resend<'_>], now: Timestamp) -> Result<Timestamp, Problem> {
    let deliveries: Vec<_> = work
        .iter()
        .map(|one| (one.sequence, one.endpoint.clone()))
        .collect();
    let before = gateway.store.newest_run(&deliveries).await?;
    Ok(Standing::run_after(before, now))
}

/// Notes that deliveries have begun anew. Their first attempts tell it too, so it may fail.
async fn note(gateway: &Gateway, deliveries: &[(i64, EndpointId)], run: Timestamp) {
    if deliveries.is_empty() {
        return;
    }
    let places: Vec<i64> = deliveries.iter().map(|(place, _)| *place).collect();
    let begun = gateway.store.begin_run(deliveries, run).await;
    gateway.announce_recorded(places);
    if let Err(error) = begun {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            deliveries = deliveries.len(),
            "sent again, but the log shows it only after the first attempt"
        );
    }
}

fn unconfirmed() -> Problem {
    Problem::new(
        Kind::Unconfirmed,
        "the broker did not confirm all that was sent, which may arrive or not: asking for it again is right",
    )
}
