//! What a receiver missed, by the relay's feed: listed, or delivered to it after all.

mod seen;
mod state;

use std::{io, path::PathBuf, time::Duration};

use anyhow::bail;
use clap::Args;
use relay_event::{EndpointUrl, Secret, Timestamp};
use relay_service::args::Unshown;
use reqwest::StatusCode;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use url::Url;

use self::{seen::Seen, state::State};
use crate::{
    api::{Api, Follow, Item, Next, Page, Place, Query, long_after, understand},
    data::{DataArgs, Token},
    events,
    filter::Filter,
    forward::{self, Forward},
    found::http_url,
    output::{self, Table},
    progress::Progress,
    usage::{Finding, Usage, stopped},
    words::{endpoint_url, happened, moment, or_dash},
};

const MISSED: u8 = 3;
const UNKNOWN: u8 = 4;

const STOPPED: &str = "stopped before the end";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay reconcile --since 24h --seen ids.txt --types 'order.*'
  psql -Atc 'select id from webhooks' | relay reconcile --since 24h --seen - --json
  RELAY_SECRET=whsec_… relay reconcile --feed https://relay.example.com --since 24h --seen ids.txt \\
    --forward-to http://127.0.0.1:3000/webhooks --state reconcile.json

An event that is on its way to the receiver at this moment counts as missed. Deliveries have the \
same headers, ids and signature as the relay's own; the first one that fails ends it. The state file \
is written only after what comes before it was listed or delivered, so a run that was stopped, even \
by kill -9, is taken up by the next one; what that one delivers twice has the same id.

Exit codes:
  0  nothing was missed, or all of it was delivered
  1  failed; with --state the next run goes on there
  2  wrong usage
  3  something was missed, and is listed
  4  the log no longer goes back to where the last run ended, so nobody can say what was missed of \
that time; the rest was gone through
  130  stopped by a signal")]
pub(crate) struct ReconcileArgs {
    /// The relay, by its base URL [default: RELAY_URL, else the one of the data folder]
    #[arg(long, value_name = "URL", value_parser = Unshown::<Url>::new(http_url))]
    feed: Option<Url>,

    /// Its API token [default: RELAY_TOKEN, else the one of the data folder]
    #[arg(long, value_name = "TOKEN", value_parser = Unshown::<Token>::new(token))]
    token: Option<Token>,

    #[command(flatten)]
    filter: Filter,

    /// Begin with what was recorded since then, unless the state file says where: a time such as
    /// 2026-01-31T09:30:00Z, or how long ago it was, such as 90s, 1h or 7d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,

    #[command(flatten)]
    task: Task,

    /// What deliveries are signed with, as whsec_…
    #[arg(long, env = "RELAY_SECRET", value_name = "SECRET", hide_env_values = true, value_parser = Unshown::<Secret>::new(forward::secret))]
    secret: Option<Secret>,

    /// A file that remembers how far this was done, for the next run; one for each receiver
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// Print one JSON object a line (NDJSON): what was missed as the feed has it, or each delivery with the
    /// answer to it
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Task {
    /// The list of what the receiver has seen: a file, or - for stdin, with a `webhook-id` on each line, or
    /// the id of an event, which counts for every source, or its id, a tab and its source [default: nothing]
    #[arg(long, value_name = "FILE")]
    seen: Option<PathBuf>,

    /// Deliver what was missed to this URL [default: list it]
    #[arg(long, value_name = "URL", requires = "secret", value_parser = Unshown::<EndpointUrl>::new(endpoint_url))]
    forward_to: Option<EndpointUrl>,
}

fn token(text: &str) -> Result<Token, String> {
    Token::parse(text).map_err(|refused| refused.to_string())
}

pub(crate) async fn run(args: ReconcileArgs) -> anyhow::Result<()> {
    let filter = args.filter.on(Query::default()).to_string();
    let state = State::open(args.state, args.since, filter)?;
    let way = match (args.task.forward_to, args.secret) {
        (None, _) => Way::List(list(args.json)),
        (Some(url), Some(secret)) => Way::Deliver(Forward::new(url, secret, args.json)?.into()),
        (Some(_), None) => return Err(Usage::new("--secret", "is missing").into()),
    };
    let api = Api::new(args.data.http_given(args.feed.as_ref(), args.token.as_ref())?)?;
    let seen = args.task.seen.as_deref().map(Seen::read).transpose()?;
    let progress = Progress::none();
    let mut follow = Follow::new(&api, &args.filter, state.place(), &progress);
    let mut work = Work {
        seen,
        way,
        state,
        tally: Tally::default(),
    };
    let stop = relay_service::shutdown_on_signals();
    let ended = work.go(&api, &mut follow, &stop).await;
    if ended.is_err() && stop.is_cancelled() {
        output::note(&work.state.go_on());
    }
    work.tally.conclude(ended, args.json)
}

struct Work {
    seen: Option<Seen>,
    way: Way,
    state: State,
    tally: Tally,
}

/// What is done with what was missed.
enum Way {
    List(List),
    Deliver(Box<Forward>),
}

/// Prints some of what was missed.
type List = Box<dyn FnMut(&[&Item]) -> io::Result<()>>;

#[derive(Default)]
struct Tally {
    events: u64,
    missed: u64,
    delivered: u64,
    /// Whether some of the time is no longer in the log.
    unknown: bool,
}

impl Work {
    /// Goes through the feed up to its end.
    async fn go(
        &mut self,
        api: &Api,
        follow: &mut Follow<'_>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut begun = false;
        loop {
            let asked = Timestamp::now();
            let next = tokio::select! {
                next = follow.next(Duration::ZERO) => next.map_err(|error| self.state.refused(error))?,
                () = stop.cancelled() => return Err(stopped(STOPPED)),
            };
            let page = match next {
                Next::Page(page) => page,
                Next::Missed { oldest } => {
                    self.tally.unknown = true;
                    let gap = tokio::select! {
                        gap = gap(api, self.state.until(), &oldest) => gap?,
                        () = stop.cancelled() => return Err(stopped(STOPPED)),
                    };
                    output::note(&gap);
                    follow.passed(&oldest);
                    continue;
                }
            };
            if !begun {
                // Should nothing come of it, the next run begins at the same moment, whenever that is.
                self.state.save(follow.cursor())?;
                begun = true;
            }
            self.page(follow, &page, stop).await?;
            follow.passed(&page.next);
            if !page.more {
                self.state.is_through(asked);
            }
            self.state.save(follow.cursor())?;
            if !page.more {
                return Ok(());
            }
        }
    }

    async fn page(
        &mut self,
        follow: &mut Follow<'_>,
        page: &Page,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let missed = |item: &&Item| !self.seen.as_ref().is_some_and(|seen| seen.has(&item.event));
        let missed: Vec<&Item> = page.events.iter().filter(missed).collect();
        self.tally.events += page.events.len() as u64;
        self.tally.missed += missed.len() as u64;
        let forward = match &mut self.way {
            Way::List(list) => return list(&missed).map_err(unprinted),
            Way::Deliver(forward) => forward,
        };
        for item in missed {
            if stop.is_cancelled() {
                return Err(stopped(STOPPED));
            }
            let posted = tokio::select! {
                posted = forward.post(item) => posted?,
                () = long_after(stop) => {
                    return Err(stopped(format!("{STOPPED}: no answer to {} came yet", item.event.id())));
                }
            };
            if let Some(failure) = posted {
                bail!(
                    "the delivery of {} failed: {failure}",
                    output::plain(item.event.id().as_str())
                );
            }
            self.tally.delivered += 1;
            follow.passed(&item.cursor);
            self.state.save(follow.cursor())?;
        }
        Ok(())
    }
}

fn list(json: bool) -> List {
    if json {
        return Box::new(|missed| {
            for item in missed {
                output::try_say(&output::lines(std::slice::from_ref(&item.json)))?;
            }
            Ok(())
        });
    }
    let mut table = Table::new(["EVENT", "TYPE", "SOURCE", "SUBJECT", "TIME"]);
    Box::new(move |missed| {
        let rows: Vec<_> = missed.iter().map(|item| row(item)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        output::try_say(&table.page(&rows))
    })
}

fn row(item: &Item) -> [String; 5] {
    let event = &item.event;
    [
        event.id().to_string(),
        event.event_type().to_string(),
        event.source().to_owned(),
        or_dash(event.subject()),
        or_dash(happened(event)),
    ]
}

/// A reader that has read enough knows that something was missed, but the next run lists it again.
fn unprinted(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Finding::new(MISSED, "what was missed was not read to its end").into();
    }
    anyhow::Error::from(error).context("cannot print what was missed")
}

/// From when to when nobody can say what was missed.
async fn gap(api: &Api, from: Timestamp, oldest: &str) -> anyhow::Result<String> {
    let to = match recorded_after(api, oldest).await? {
        Some(time) => time.to_string(),
        None => "now".to_owned(),
    };
    Ok(format!(
        "the log no longer has all that was recorded from {from} to {to}: what was missed of it, nobody can say"
    ))
}

/// When the first event after this cursor was recorded.
async fn recorded_after(api: &Api, cursor: &str) -> anyhow::Result<Option<Timestamp>> {
    #[derive(Deserialize)]
    struct Recorded {
        recorded_at: Timestamp,
    }
    let (progress, place) = (Progress::none(), Place::After(cursor.to_owned()));
    let mut follow = Follow::new(api, &Filter::default(), place, &progress);
    let Next::Page(page) = follow.next(Duration::ZERO).await? else {
        return Ok(None);
    };
    let Some(item) = page.events.first() else {
        return Ok(None);
    };
    let id = events::in_path(item.event.source(), item.event.id());
    let path = ["v1", "events", &id];
    let query = Query::default().with("source", Some(item.event.source()));
    match api.get_with(&path, &query).await {
        Ok(answer) => Ok(Some(understand::<Recorded>(&answer)?.recorded_at)),
        Err(error) if error.is(StatusCode::NOT_FOUND) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Tally {
    /// Tells what was found, by words and by exit code.
    fn conclude(&self, ended: anyhow::Result<()>, json: bool) -> anyhow::Result<()> {
        let text = self.text();
        match ended {
            Err(error) => {
                output::note(&text);
                Err(error)
            }
            Ok(()) if self.unknown => Err(Finding::new(UNKNOWN, text).into()),
            Ok(()) if self.missed > self.delivered => Err(Finding::new(MISSED, text).into()),
            Ok(()) if json => {
                output::note(&text);
                Ok(())
            }
            Ok(()) => {
                output::say(&text);
                Ok(())
            }
        }
    }

    fn text(&self) -> String {
        let events = output::count(self.events, "event");
        let delivered = match self.delivered {
            0 => String::new(),
            number => format!(", {number} delivered"),
        };
        format!("{events} looked at, {} missed{delivered}", self.missed)
    }
}
