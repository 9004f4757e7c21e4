use std::{fs::File, io::BufReader};

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
    let patience = &Patience::new(progress, ApiError::passes);
    let post = |event: Event| async move {
        let published = patience.until_done(async || api.publish(event.body().clone()).await);
        Ok(published.await.map(drop)?)
    };
    Ok(window::publish(lines, WINDOW, progress, stop, post).await)
}
