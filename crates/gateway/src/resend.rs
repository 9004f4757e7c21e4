//! Deliveries of events in the log are begun anew, or canceled.

use relay_event::{EndpointId, Timestamp};
use relay_store::Only;

use crate::{gateway::Gateway, problem::Problem};

/// A delivery: the event's place in the log, and the endpoint.
pub(crate) type Named = (i64, EndpointId);

/// The deliveries of one transaction.
const MOST: usize = 1_000;

/// Begins those of these deliveries anew that are meant, and returns them. The dispatcher sends them on; a broker that is
/// away is waited for. If this fails, some may have begun.
pub(crate) async fn begin(
    gateway: &Gateway,
    deliveries: &[Named],
    only: Only,
) -> Result<Vec<Named>, Problem> {
    let mut begun = Vec::new();
    for some in deliveries.chunks(MOST) {
        let of_these = gateway
            .store
            .begin_generation(some, only, Timestamp::now())
            .await?;
        announce(gateway, &of_these);
        begun.extend(of_these);
    }
    Ok(begun)
}

/// Cancels those of these deliveries that wait, and returns them. If this fails, some may be canceled.
pub(crate) async fn cancel(gateway: &Gateway, deliveries: &[Named]) -> Result<Vec<Named>, Problem> {
    let mut canceled = Vec::new();
    for some in deliveries.chunks(MOST) {
        let of_these = gateway.store.cancel(some, Timestamp::now()).await?;
        announce(gateway, &of_these);
        canceled.extend(of_these);
    }
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
