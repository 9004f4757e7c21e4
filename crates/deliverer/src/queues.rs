//! The depth of the relay's queues, for the metrics.

use std::time::Duration;

use relay_broker::{Broker, Queue};
use tokio::time::MissedTickBehavior;

use crate::{Config, metrics::Metrics};

/// Reads the queues' lengths now and then, for ever.
pub(crate) async fn watch(broker: &Broker, metrics: &Metrics, config: &Config) {
    let mut ticks = tokio::time::interval(config.backlog_interval.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let session = broker.session().await;
        for queue in Queue::ALL {
            // A broker that is away is said elsewhere; the next round has news.
            let Ok(Some(depth)) = session.depth(queue).await else {
                continue;
            };
            metrics
                .queues
                .with_label_values(&[queue.as_str()])
                .set(depth.ready.into());
        }
    }
}
