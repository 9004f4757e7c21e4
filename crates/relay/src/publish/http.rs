use std::{
    fs::File,
    io::BufReader,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use relay_event::Event;
use tokio_util::sync::CancellationToken;

use super::{
    lines::Lines,
    window::{self, Published, Window},
};
use crate::{
    api::{Api, ApiError, Patience},
    data::DataArgs,
    progress::Progress,
};

const WINDOW: Window = Window {
    events: 32,
    bytes: 32 << 20,
};

/// Publishes through the HTTP API, each event by as many tries as it takes.
pub(super) async fn publish(
    relay: &DataArgs,
    lines: &mut Lines<BufReader<File>>,
    progress: &Progress,
    stop: &CancellationToken,
) -> anyhow::Result<Published> {
    let api = &Api::connect(relay)?;
    let repeated = &AtomicU64::new(0);
    let patience = &Patience::new(progress, ApiError::passes);
    let post = |event: Event| async move {
        let publishing = patience.until_done(async || api.publish(event.body().clone()).await);
        if publishing.await? {
            repeated.fetch_add(1, Relaxed);
        }
        Ok(())
    };
    let published = window::publish(lines, WINDOW, progress, stop, post).await;
    Ok(Published {
        repeated: repeated.load(Relaxed),
        ..published
    })
}
