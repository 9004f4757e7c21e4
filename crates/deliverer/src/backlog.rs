//! How much waits where, for the metrics.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use relay_broker::{Broker, Error, Session};
use relay_event::EndpointId;
use tokio::{sync::watch, time::MissedTickBehavior};

use crate::{Config, metrics::Metrics};

const OTHER: &str = "other";

/// Reads the queues' lengths now and then, for ever.
pub(crate) async fn watch(
    broker: &Broker,
    endpoints: &watch::Receiver<BTreeSet<EndpointId>>,
    metrics: &Metrics,
    config: &Config,
) {
    let mut ticks = tokio::time::interval(config.backlog_interval.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = HashSet::new();
    loop {
        ticks.tick().await;
        let session = broker.session().await;
        let queues = endpoints.borrow().clone();
        // A broker that is away is said elsewhere; the next round has news.
        let Ok(lengths) = lengths(&session, &queues, config.endpoint_labels).await else {
            continue;
        };
        show(metrics, &lengths, &mut shown);
        let _ = count_shared(&session, metrics).await;
    }
}

/// Ready messages by label: the first endpoints by their ids, the others summed up.
async fn lengths(
    session: &Session,
    endpoints: &BTreeSet<EndpointId>,
    labels: usize,
) -> Result<BTreeMap<String, i64>, Error> {
    let mut lengths = BTreeMap::new();
    for (position, id) in endpoints.iter().enumerate() {
        let label = if position < labels {
            id.to_string()
        } else {
            OTHER.to_owned()
        };
        let depth = session.depth(&session.topology().endpoint(id)).await?;
        *lengths.entry(label).or_insert(0) += depth.map_or(0, |depth| i64::from(depth.ready));
    }
    Ok(lengths)
}

fn show(metrics: &Metrics, lengths: &BTreeMap<String, i64>, shown: &mut HashSet<String>) {
    for removed in shown.extract_if(|label| !lengths.contains_key(label)) {
        let _ = metrics.backlog.remove_label_values(&[&removed]);
    }
    for (label, length) in lengths {
        metrics.backlog.with_label_values(&[label]).set(*length);
        shown.insert(label.clone());
    }
}

async fn count_shared(session: &Session, metrics: &Metrics) -> Result<(), Error> {
    let topology = session.topology();
    for (label, queue) in [
        ("archive", topology.archive()),
        ("attempts", topology.attempts()),
        ("dead", topology.dead()),
    ] {
        if let Some(depth) = session.depth(&queue).await? {
            metrics.queues.with_label_values(&[label]).set(depth.ready.into());
        }
    }
    Ok(())
}
