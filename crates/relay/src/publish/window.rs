//! Many events on their way at once, within bounds, and how far everything before is safe.

use std::{collections::BTreeSet, io, io::BufRead};

use futures_util::{StreamExt, stream::FuturesUnordered};
use relay_event::Event;
use tokio_util::sync::CancellationToken;

use super::lines::{Line, Lines};
use crate::{api::long_after, progress::Progress, usage};

/// What may be on its way at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// How far a file was published.
pub(super) struct Published {
    /// Events that are safe.
    pub(super) confirmed: u64,
    /// Those of them that had been published before, and were not sent again.
    pub(super) repeated: u64,
    /// The first line that is not known to be safe, if there is one.
    pub(super) go_on_from: Option<u64>,
    /// Why it ended before the end.
    pub(super) failure: Option<anyhow::Error>,
}

/// Publishes what is left of the file, each event by `send`, which returns once it is safe.
pub(super) async fn publish<R, S, F>(
    lines: &mut Lines<R>,
    window: Window,
    progress: &Progress,
    stop: &CancellationToken,
    send: S,
) -> Published
where
    R: BufRead,
    S: Fn(Event) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let mut way = Way::default();
    let mut sending = FuturesUnordered::new();
    // The confirms of what was sent are waited for, for a while.
    let stopped_for_long = long_after(stop);
    tokio::pin!(stopped_for_long);
    loop {
        while way.takes_more(window) && !stop.is_cancelled() {
            let Some((number, event)) = way.read(lines.next()) else {
                break;
            };
            let bytes = event.body().len();
            way.begins(number, bytes);
            let sent = send(event);
            sending.push(async move { (number, bytes, sent.await) });
        }
        let ended = tokio::select! {
            ended = sending.next() => ended,
            () = &mut stopped_for_long => None,
        };
        let Some((number, bytes, sent)) = ended else {
            break;
        };
        way.ends(number, bytes, sent, progress);
    }
    way.published(stop.is_cancelled())
}

#[derive(Default)]
struct Way {
    /// The lines on their way.
    open: BTreeSet<u64>,
    bytes: usize,
    /// The last line read.
    last: u64,
    at_end: bool,
    confirmed: u64,
    failed: Option<(u64, anyhow::Error)>,
}

impl Way {
    fn takes_more(&self, window: Window) -> bool {
        !self.at_end && self.failed.is_none() && self.open.len() < window.events && self.bytes < window.bytes
    }

    /// Every line was an event when the file was checked.
    fn read(&mut self, line: io::Result<Option<Line>>) -> Option<(u64, Event)> {
        match line {
            Ok(Some(Line {
                number,
                event: Ok(event),
            })) => Some((number, event)),
            Ok(Some(Line {
                number,
                event: Err(refused),
            })) => {
                let changed = anyhow::anyhow!(refused).context("the file was changed meanwhile");
                self.fails(number, changed);
                None
            }
            Ok(None) => {
                self.at_end = true;
                None
            }
            Err(error) => {
                self.fails(self.last + 1, error.into());
                None
            }
        }
    }

    fn begins(&mut self, line: u64, bytes: usize) {
        self.open.insert(line);
        self.bytes += bytes;
        self.last = line;
    }

    fn ends(&mut self, line: u64, bytes: usize, sent: anyhow::Result<()>, progress: &Progress) {
        self.bytes -= bytes;
        match sent {
            Ok(()) => {
                self.open.remove(&line);
                self.confirmed += 1;
                progress.step();
            }
            // It stays among the open ones.
            Err(error) => self.fails(line, error),
        }
    }

    /// The first failure by line is the one to tell.
    fn fails(&mut self, line: u64, error: anyhow::Error) {
        if self.failed.as_ref().is_none_or(|(known, _)| line < *known) {
            self.failed = Some((line, error));
        }
    }

    fn published(self, stopped: bool) -> Published {
        let unsafe_line = self.open.first().copied();
        let complete = self.at_end && self.failed.is_none() && unsafe_line.is_none();
        let failure = match self.failed {
            Some((line, error)) => Some(error.context(format!("line {line}"))),
            None if stopped && !complete => Some(usage::stopped("stopped before the end")),
            None => None,
        };
        Published {
            confirmed: self.confirmed,
            repeated: 0,
            go_on_from: (!complete).then(|| unsafe_line.unwrap_or(self.last + 1)),
            failure,
        }
    }
}
