//! Emptying the dead-letter queue. A letter is removed only after what it holds is safe elsewhere,
//! or unwanted; whatever happens before, it is back in the queue.

mod export;
mod oldest;
mod rate;
mod redeliver;
mod tally;
mod way;
mod work;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use relay_broker::{Queue, Session};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::{
    export::Export, oldest::Oldest, rate::Rate, redeliver::Redeliver, tally::Tally, way::Way, work::Work,
};
use super::{CONNECTION, filter::Filter};
use crate::{api::long_after, data::DataArgs, found::open_session, output, usage::Finding, words};

/// Some of what was meant stays.
const STAY: u8 = 3;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay dlq drain --redeliver --endpoint ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70 --rate 50/s
  relay dlq drain --export dead.ndjson --reason endpoint_removed
  relay dlq drain --discard --older-than 30days --dry-run

Exit codes:
  0    done
  1    failed; what was not done is in the queue
  2    wrong usage
  3    some that were to be redelivered or exported cannot be, and stay in the queue as they are
  130  stopped by a signal; what was not done is in the queue")]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    action: Action,

    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// No faster than so many a second, such as 50/s
    #[arg(long, value_name = "N/s")]
    rate: Option<Rate>,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    filter: Filter,

    /// At most so many: the oldest of those that can be dealt with, by when they died; those without a date
    /// come last
    #[arg(long, value_name = "N", value_parser = words::from_one)]
    limit: Option<u64>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Action {
    /// Send each to its endpoint again, with its schedule begun anew; one without an endpoint to all that want its
    /// event
    #[arg(long)]
    redeliver: bool,

    /// Write them to a new file, one JSON object a line, and remove them from the queue
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,

    /// Remove them for good
    #[arg(long)]
    discard: bool,
}

pub(super) async fn run(args: DrainArgs) -> anyhow::Result<()> {
    let broker = args.data.broker(CONNECTION)?;
    let redelivers = args.action.redeliver;
    let mut way = match args.action.export {
        Some(path) => Way::Export(Export::new(path)?),
        None if args.action.redeliver => Way::Redeliver(Redeliver::new(&args.data, &broker)),
        None => Way::Discard,
    };
    let summary = way.summary(args.dry_run);
    let mut session = open_session(&broker).await?;
    let stop = relay_service::shutdown_on_signals();
    let mut last = None;
    if let Some(limit) = args.limit {
        let found = tokio::select! {
            found = Oldest::find(&session, &args.filter, limit, &mut way) => found,
            () = stop.cancelled() => Err(work::stopped()),
        };
        close(&session, &stop).await;
        let oldest = found?;
        session = oldest.next_session(&broker).await?;
        last = oldest.last;
    }
    let chosen = args.filter.chooses();
    let mut tally = Tally::default();
    let work = Work {
        session: &session,
        filter: args.filter,
        limit: args.limit,
        last,
        dry_run: args.dry_run,
        rate: args.rate,
        way,
    };
    let ended = work.run(&mut tally, &stop).await;
    tokio::select! {
        () = until_removed(&session) => {}
        () = long_after(&stop) => {}
    }
    close(&session, &stop).await;
    output::say(&tally.text(&summary, chosen));
    ended?;
    match tally.stay() {
        0 => Ok(()),
        number => {
            let letters = output::count(number, "dead letter");
            let done = if redelivers { "redelivered" } else { "exported" };
            Err(Finding::new(STAY, format!("{letters} cannot be {done}")).into())
        }
    }
}

/// Ends a session, with what patience a user has that stopped it.
async fn close(session: &Session, stop: &CancellationToken) {
    tokio::select! {
        () = session.close() => {}
        () = long_after(stop) => {}
    }
}

/// Waits until what was removed is off the queue. Of many removals at once, a channel of the broker
/// hands only some to a quorum queue and the rest when those are written; what it still has when the
/// session closes would be back in the queue. To begin and end a consumer on the same channel takes
/// two rounds through the queue, after which it has none.
async fn until_removed(session: &Session) {
    const PATIENCE: Duration = Duration::from_secs(10);
    let rounds = async {
        if let Ok(consumer) = session.consume(Queue::Dead, 1).await {
            consumer.stop().await;
        }
    };
    // Without an answer, letters that were dealt with may come again: twice, but not lost.
    let _ = timeout(PATIENCE, rounds).await;
}
