//! Pushing: events are taken once, matched with the endpoints that want them, posted as signed webhooks, and settled.

mod breaker;
mod client;
mod config;
mod consumers;
mod courier;
mod deliverer;
mod delivery;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod matching;
mod metrics;
mod notes;
mod pace;
mod post;
mod queues;
mod resolver;
mod shortage;
mod slots;
mod tls;
mod window;
mod worker;

use std::{num::NonZeroU32, sync::Arc};

use anyhow::Context as _;
use relay_broker::{Broker, Status};
use relay_service::Context;
use relay_store::Store;
use tokio::sync::Semaphore;

pub use config::{Config, DisableAfter};
pub use courier::{Courier, Posted};
pub use resolver::NameServers;

use crate::{
    deliverer::Deliverer,
    delivery::{HOLDING, Workshop},
    matching::Matching,
    metrics::Metrics,
    resolver::Resolver,
    shortage::Shortages,
    slots::Slots,
};

/// Its name among the parts of a process, which says when it has begun.
pub const PART: &str = "deliverer";

/// Delivers until `context` shuts down, then finishes the attempts under way.
///
/// # Errors
/// It cannot start: no root certificates, or its metrics are registered twice.
pub async fn run(config: &Config, context: &Context, broker: &Broker, store: &Store) -> anyhow::Result<()> {
    let (metrics, most) = (
        Metrics::register(&context.registry)?,
        max_attempts(config.max_attempts),
    );
    metrics.limit.set(most.into());
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (matching, reader) = Matching::new(store, Slots::new(most));
    let workshop = Arc::new(Workshop {
        client: client::Client::new(Resolver::new(config.name_servers.as_ref()))
            .context("could not set up the HTTP client")?,
        metrics,
        max_event_bytes: config.max_event_bytes,
        deliverer: config.signature(),
        matching,
        shortages: Shortages::default(),
        holding: Semaphore::new(HOLDING),
    });
    let deliverer = Deliverer {
        workshop: Arc::clone(&workshop),
        reader,
        store: store.clone(),
        store_health: context.health.component("store"),
        slots: most,
    };
    let broker_health = context.health.component("broker");
    context.health.begun(PART);
    tokio::select! {
        () = deliverer.run(broker, config, &context.shutdown) => {}
        () = queues::watch(broker, &workshop.metrics, config) => {}
        () = broker_health.follow(broker.status(), Status::trouble) => {}
    }
    Ok(())
}

/// The files that the attempts of a deliverer may need: two for each, for connections that wait for their next
/// attempt are as many, and those of its look-ups.
pub fn files(max_attempts: NonZeroU32) -> u64 {
    2 * u64::from(max_attempts.get()) + resolver::SOCKETS as u64
}

/// The attempts that may be under way at once in a process that may open so many files, without those that it
/// needs for all else.
fn attempts_within(files: u64) -> u64 {
    const OTHER_FILES: u64 = 256;
    let left = files.saturating_sub(OTHER_FILES + resolver::SOCKETS as u64);
    (left / 2).max(1)
}

/// Returns the attempts that are set, or fewer if the process may not open the files for them.
fn max_attempts(set: NonZeroU32) -> u32 {
    let wanted = set.get();
    let files = relay_service::raise_open_files();
    let allowed = files.map_or(u64::MAX, attempts_within);
    let most = u32::try_from(allowed).map_or(wanted, |allowed| wanted.min(allowed));
    if most < wanted {
        tracing::warn!(
            wanted,
            most,
            files,
            "fewer attempts may be under way at once than are set: the process may not open more files"
        );
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_and_look_ups_leave_files_for_all_else() {
        for attempts in [1, 100, 2_048] {
            let set = NonZeroU32::new(attempts).unwrap();
            assert_eq!(attempts_within(files(set) + 256), u64::from(attempts));
        }
        assert_eq!(attempts_within(300), 1);
    }
}
