//! The feed as it grows, event by event, for as long as somebody takes them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use relay_broker::Delays;
use relay_store::{EventFilter, WholeEvent};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::{
    place::is_kept,
    read::{Page, Size},
    tail::Following,
};
use crate::{
    access::Scope,
    cursor::Cursor,
    gateway::Gateway,
    metrics::How,
    problem::{Kind, Problem},
    streams::OpenStream,
};

/// How often a client that gets nothing is told where it is.
pub(crate) const BEAT: Duration = Duration::from_secs(15);

/// What is held for one client at once.
const SIZE: Size = Size {
    events: 100,
    bytes: 256 << 10,
};

/// Follows the feed. Nothing is read that was not asked for: who is slow reads later, from the store.
pub(super) struct Follower {
    gateway: Gateway,
    scope: Scope,
    filter: EventFilter,
    log: String,
    after: i64,
    ready: VecDeque<Arc<WholeEvent>>,
    beats: Interval,
    _following: Following,
    _open: OpenStream,
}

/// What a follower is told.
pub(super) enum Told {
    /// An event, and where to go on after it.
    Event(Cursor, Arc<WholeEvent>),
    /// That it has missed nothing up to here.
    Beat(Cursor),
}

impl Follower {
    /// Follows the feed from a place on.
    pub(super) async fn begin(
        gateway: &Gateway,
        how: How,
        scope: Scope,
        filter: EventFilter,
        after: i64,
    ) -> Result<Self, Problem> {
        let open = gateway.streams.begin(&scope.holder())?;
        let mut beats = interval_at(Instant::now() + BEAT, BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let known = gateway.extent().await?;
        // That something was forgotten a moment ago is told before it begins. A store that is away is
        // waited for afterwards: a browser does not come back after a 503.
        if after < known.last
            && let Ok(extent) = gateway.store.extent().await
        {
            is_kept(after, &extent)?;
        }
        Ok(Self {
            log: known.log,
            _following: gateway.tail.follow(gateway.metrics.follower(how)),
            gateway: gateway.clone(),
            scope,
            filter,
            after,
            ready: VecDeque::new(),
            beats,
            _open: open,
        })
    }

    /// What comes next; `None` when this process or the client's access ends, or what comes next is
    /// forgotten.
    pub(super) async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(whole) = self.ready.pop_front() {
                return Some(Told::Event(self.cursor(whole.event.sequence), whole));
            }
            tokio::select! {
                biased;
                () = self.gateway.shutdown.cancelled() => return None,
                () = self.scope.ended() => return None,
                page = read_on(&self.gateway, &self.filter, self.after) => {
                    let page = page?;
                    self.after = page.through;
                    if !page.events.is_empty() {
                        self.ready = page.events.into();
                        self.beats.reset();
                    }
                }
                _ = self.beats.tick() => return Some(Told::Beat(self.place())),
            }
        }
    }

    /// Whether it ended because the client's access did.
    pub(super) fn is_over(&self) -> bool {
        self.scope.is_over()
    }

    /// Where it is.
    pub(super) fn place(&self) -> Cursor {
        self.cursor(self.after)
    }

    fn cursor(&self, place: i64) -> Cursor {
        Cursor::feed(&self.log, place)
    }
}

/// The next page with anything new, when there is one. A store that is away is waited for.
async fn read_on(gateway: &Gateway, filter: &EventFilter, after: i64) -> Option<Page> {
    let mut delays = Delays::new();
    loop {
        gateway.tail.beyond(after).await;
        match gateway.read(filter, after, SIZE).await {
            Ok(page) => return Some(page),
            Err(problem) if problem.kind == Kind::CursorExpired => return None,
            Err(_) => delays.wait().await,
        }
    }
}
