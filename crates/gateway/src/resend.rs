//! Events of the log are sent to endpoints again, each with its schedule begun anew.

use relay_event::{EndpointId, Timestamp};

use crate::{gateway::Gateway, problem::Problem};

/// Begins deliveries anew, each named by the event's place in the log and the endpoint, and returns the number of
/// events that were not forgotten meanwhile. The dispatcher sends them on; a broker that is away is waited for.
pub(crate) async fn resend(gateway: &Gateway, deliveries: &[(i64, EndpointId)]) -> Result<usize, Problem> {
    let places = gateway
        .store
        .begin_generation(deliveries, Timestamp::now())
        .await?;
    let count = places.len();
    if count > 0 {
        gateway.announce_recorded(places);
    }
    Ok(count)
}
