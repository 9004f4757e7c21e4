//! Deliveries of events in the log are begun anew, or canceled.

use relay_event::{EndpointId, Timestamp};
use relay_store::Only;

use crate::{gateway::Gateway, problem::Problem};

/// A delivery: the event's place in the log, and the endpoint.
pub(crate) type Named = (i64, EndpointId);

/// Begins those of these deliveries anew that are meant, and returns them. The dispatcher sends them on; a broker that is
/// away is waited for.
pub(crate) async fn begin(
    gateway: &Gateway,
    deliveries: &[Named],
    only: Only,
) -> Result<Vec<Named>, Problem> {
    let store = &gateway.store;
    let begun = store.begin_generation(deliveries, only, Timestamp::now()).await?;
    announce(gateway, &begun);
    Ok(begun)
}

/// Cancels those of these deliveries that have not ended, and returns them.
pub(crate) async fn cancel(gateway: &Gateway, deliveries: &[Named]) -> Result<Vec<Named>, Problem> {
    let canceled = gateway.store.cancel(deliveries, Timestamp::now()).await?;
    announce(gateway, &canceled);
    Ok(canceled)
}

fn announce(gateway: &Gateway, changed: &[Named]) {
    let mut places: Vec<i64> = changed.iter().map(|(place, _)| *place).collect();
    places.dedup();
    if let Some((_, endpoint)) = changed.first() {
        // One announcement has others read the marks of all endpoints.
        gateway.announce_changed(endpoint);
        gateway.announce_recorded(places);
    }
}
