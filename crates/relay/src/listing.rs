//! Lists of the log: page by page from the relay, printed as they come, nothing kept.

use clap::Args;
use relay_event::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::{
    api::{Api, Pages, Query, of_option, understand},
    data::DataArgs,
    output::{self, Table},
    usage::stopped,
    words::{self, moment},
};

const DEFAULT_LIMIT: u64 = 100;

/// Which time is meant.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Period {
    /// Only of events recorded since then: a time such as 2026-01-31T09:30:00Z, or how long ago it
    /// was, such as 90s, 1h or 7d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,

    /// Only of events recorded before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
}

impl Period {
    /// A query for this time.
    pub(crate) fn on(&self, query: Query) -> Query {
        query.with("since", self.since).with("until", self.until)
    }
}

/// How much of a list, and how it is printed.
#[derive(Debug, Args)]
pub(crate) struct Listing {
    /// At most so many, the newest first [default: 100]
    #[arg(long, value_name = "N", value_parser = words::from_one)]
    limit: Option<u64>,

    /// As many as there are
    #[arg(long, conflicts_with = "limit")]
    all: bool,

    /// Print one JSON object a line (NDJSON), each as the relay wrote it
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,
}

/// How a list looks as a table.
pub(crate) struct Columns<T, const N: usize> {
    /// What there is no or more of, such as `events`.
    pub(crate) noun: &'static str,
    pub(crate) head: [&'static str; N],
    pub(crate) row: fn(&T, Timestamp) -> [String; N],
}

impl Listing {
    /// Prints the list at `path`.
    pub(crate) async fn print<T: DeserializeOwned, const N: usize>(
        &self,
        path: &[&str],
        query: Query,
        columns: &Columns<T, N>,
    ) -> anyhow::Result<()> {
        let (api, chosen) = (Api::connect(&self.data)?, !query.is_empty());
        let stop = relay_service::shutdown_on_signals();
        let mut pages = Pages::new(&api, path, query, self.limit());
        let (mut table, mut any) = (Table::new(columns.head), false);
        loop {
            let next = tokio::select! {
                next = pages.next() => next.map_err(period_refused)?,
                () = stop.cancelled() => return Err(stopped("stopped before the end of the list")),
            };
            let Some(items) = next else { break };
            if items.is_empty() {
                continue;
            }
            any = true;
            if self.json {
                output::say_more(&output::lines(&items));
            } else {
                output::say_more(&table.page(&rows(&items, columns.row)?));
            }
        }
        let noun = columns.noun;
        match (any, pages.has_more()) {
            (false, _) if chosen => output::note(&format!("no such {noun}")),
            (false, _) => output::note(&format!("no {noun}")),
            (true, true) => output::note(&format!("there are more {noun}; --limit or --all shows them")),
            (true, false) => {}
        }
        Ok(())
    }

    fn limit(&self) -> u64 {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if self.all { u64::MAX } else { limit }
    }
}

/// A failed request for a list. A refusal of its period names the option.
fn period_refused(error: anyhow::Error) -> anyhow::Error {
    of_option(error, &[("since", "--since"), ("until", "--until")])
}

fn rows<T: DeserializeOwned, const N: usize>(
    items: &[Box<RawValue>],
    row: fn(&T, Timestamp) -> [String; N],
) -> anyhow::Result<Vec<[String; N]>> {
    let now = Timestamp::now();
    items
        .iter()
        .map(|item| Ok(row(&understand(item.get().as_bytes())?, now)))
        .collect()
}
