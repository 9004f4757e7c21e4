//! The events of a relay one by one as they are recorded, for a person who watches.

use std::time::Duration;

use clap::Args;
use relay_event::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Api, Follow, Item, Next, Place, long_after, of_option},
    data::DataArgs,
    filter::Filter,
    output,
    progress::Progress,
    words::moment,
};

/// How long the relay may hold back an answer while there is nothing to say.
const WAIT: Duration = Duration::from_secs(30);

/// Which events, and from where on.
#[derive(Debug, Args)]
pub(crate) struct FeedArgs {
    #[command(flatten)]
    filter: Filter,

    /// Begin with what was recorded since then: a time such as 2026-01-31T09:30:00Z, or how long ago it
    /// was, such as 90s, 1h or 7d [default: with what is recorded from now on]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,

    /// Go on where an earlier one stopped, which said this
    #[arg(long, conflicts_with = "since")]
    cursor: Option<String>,

    #[command(flatten)]
    data: DataArgs,
}

impl FeedArgs {
    fn place(&self) -> Place {
        match (&self.cursor, self.since) {
            (Some(cursor), _) => Place::After(cursor.clone()),
            (None, Some(since)) => Place::Since(since),
            (None, None) => Place::Now,
        }
    }

    /// Hands every event to `take`, one after the other, until a signal or until nobody reads what is
    /// printed. Then it says where to go on.
    pub(crate) async fn follow(
        &self,
        doing: &str,
        take: impl AsyncFnMut(&Item) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (api, progress) = (Api::connect(&self.data)?, Progress::none());
        let stop = relay_service::shutdown_on_signals();
        let mut follow = Follow::new(&api, &self.filter, self.place(), &progress);
        let mut begun = false;
        let ended = tokio::select! {
            ended = each(&mut follow, doing, &stop, take, &mut begun) => ended,
            () = output::closed() => return Ok(()),
        };
        let (after, option) = match self.cursor {
            Some(_) => ("after", "--cursor"),
            None => ("since", "--since"),
        };
        let ended = ended.map_err(|error| of_option(error, &[(after, option)]));
        if let Some(place) = follow.go_on().filter(|_| begun || ended.is_ok()) {
            output::note(&format!("go on with {place}"));
        }
        ended
    }
}

async fn each(
    follow: &mut Follow<'_>,
    doing: &str,
    stop: &CancellationToken,
    mut take: impl AsyncFnMut(&Item) -> anyhow::Result<()>,
    begun: &mut bool,
) -> anyhow::Result<()> {
    loop {
        let next = tokio::select! {
            next = follow.next(WAIT) => next?,
            () = stop.cancelled() => return Ok(()),
        };
        let page = match next {
            Next::Page(page) => page,
            Next::Missed { oldest } => {
                output::note(
                    "some of what came then is no longer in the log, and is missing; going on with the oldest event there is",
                );
                follow.passed(&oldest);
                continue;
            }
        };
        if !*begun {
            output::note(&format!("{doing}; Ctrl-C ends"));
            *begun = true;
        }
        for item in &page.events {
            if stop.is_cancelled() {
                return Ok(());
            }
            tokio::select! {
                taken = take(item) => taken?,
                () = long_after(stop) => {
                    let id = item.event.id();
                    output::note(&format!("stopped: no answer to {id} came yet, so it comes once more"));
                    return Ok(());
                }
            }
            follow.passed(&item.cursor);
        }
        follow.passed(&page.next);
    }
}
