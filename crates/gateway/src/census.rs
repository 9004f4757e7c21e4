//! The endpoints by state, as a metric.

use std::time::Duration;

use relay_event::EndpointState;
use relay_store::KnownEndpoints;
use tokio::time::MissedTickBehavior;

use crate::gateway::Gateway;

/// The time between two looks for what changed: one row of the store, if nothing did.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps the number of endpoints in each state up to date, for ever, with what other processes changed.
pub(crate) async fn count_endpoints(gateway: &Gateway) {
    let mut known = KnownEndpoints::<EndpointState>::new(|endpoint| endpoint.state);
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // While the store is away the numbers stay as they were; its absence is said by the health.
        if known.refresh(&gateway.store).await.is_ok() {
            gateway.metrics.count(known.iter().map(|(_, state)| state));
        }
    }
}
