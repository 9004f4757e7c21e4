use std::{
    fs::File,
    io::BufReader,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use relay_broker::Delays;
use relay_event::Event;
use tokio_util::sync::CancellationToken;

use super::{
    lines::Lines,
    window::{self, Published, Window},
};
use crate::{
    api::{Api, ApiError},
    data::DataArgs,
    progress::Progress,
};

const WINDOW: Window = Window {
    events: 32,
    bytes: 32 << 20,
};

/// Publishes through the HTTP API.
pub(super) async fn publish(
    relay: &DataArgs,
    lines: &mut Lines<BufReader<File>>,
    progress: &Progress,
    stop: &CancellationToken,
) -> anyhow::Result<Published> {
    let poster = Poster {
        api: Api::new(relay.http()?)?,
        progress,
        reached: AtomicBool::new(false),
        waiting: AtomicUsize::new(0),
    };
    Ok(window::publish(lines, WINDOW, progress, stop, |event| poster.post(event)).await)
}

struct Poster<'a> {
    api: Api,
    progress: &'a Progress,
    /// Whether the relay ever answered: one that is not there at all is an error.
    reached: AtomicBool,
    /// Events that are tried again at present.
    waiting: AtomicUsize,
}

impl Poster<'_> {
    /// Returns once the relay has accepted the event, by as many tries as it takes.
    async fn post(&self, event: Event) -> anyhow::Result<()> {
        let mut delays = Delays::new();
        let mut waits = false;
        loop {
            match self.api.publish(event.body().clone()).await {
                Err(error) if self.may_pass(&error) => {
                    if !waits {
                        self.begins_to_wait(&error);
                        waits = true;
                    }
                    delays.wait().await;
                }
                ended => {
                    self.reached.store(true, Relaxed);
                    if waits {
                        self.waits_no_more(ended.is_ok());
                    }
                    return Ok(ended.map(drop)?);
                }
            }
        }
    }

    fn may_pass(&self, error: &ApiError) -> bool {
        let answered = matches!(error, ApiError::Refused { .. });
        error.passes() && (answered || self.reached.load(Relaxed))
    }

    /// The first of those that wait says so, and the last of them that it is over.
    fn begins_to_wait(&self, error: &ApiError) {
        if self.waiting.fetch_add(1, Relaxed) == 0 {
            self.progress
                .note(&format!("{error}; trying again until it goes"));
        }
    }

    fn waits_no_more(&self, accepted: bool) {
        if self.waiting.fetch_sub(1, Relaxed) == 1 && accepted {
            self.progress.note("the relay takes events again; going on");
        }
    }
}
