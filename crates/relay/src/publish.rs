//! Publishing: one event of the command line, or a file of them.

mod amqp;
mod callback;
mod file;
mod http;
mod lines;
mod one;
mod wait;
mod window;

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use relay_event::EventId;

use self::callback::CallbackArgs;
use crate::{data::DataArgs, usage::Usage, words};

/// The report on a file that was stopped early.
const NOTHING: &str = "stopped; nothing was published";

/// What it means that an event had been published before.
const NOT_SENT_AGAIN: &str = "not sent again (`relay events replay` does that)";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay publish --type order.created --data '{\"order_id\": 42}'
  relay publish --file events.ndjson
  relay publish --file events.ndjson --via http
  zcat events.ndjson.gz | relay publish --file -
  relay publish --type order.created --data '{\"order_id\": 42}' --wait --wait-timeout 1m
  relay publish --type import.started --subject import-42 --callback https://example.com/imports

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by a signal; with --wait also 3 if a delivery is \
dead, 4 if the time was over before all had ended.")]
pub(crate) struct PublishArgs {
    /// The event's type: words separated by dots
    #[arg(long = "type", value_name = "TYPE", required_unless_present = "file")]
    event_type: Option<String>,

    /// The event's data, as JSON
    #[arg(long, value_name = "JSON")]
    data: Option<String>,

    /// Where the event comes from [default: /cli]
    #[arg(long)]
    source: Option<String>,

    /// What the event is about
    #[arg(long)]
    subject: Option<String>,

    /// The event's id [default: a new one]
    #[arg(long)]
    id: Option<EventId>,

    /// Publish a file of CloudEvents, one JSON object a line, or stdin where it is -. A line that is no
    /// event, or too large, keeps the whole file from being published
    #[arg(long, conflicts_with_all = ["event_type", "data", "source", "subject", "id"])]
    file: Option<PathBuf>,

    /// The line of the file to begin with
    #[arg(long, value_name = "N", requires = "file", default_value_t = 1,
        value_parser = words::from_one)]
    from_line: u64,

    /// The way by which events reach the relay [default: amqp, or http with --wait or --callback]
    #[arg(long, value_enum)]
    via: Option<Via>,

    #[command(flatten)]
    callback: CallbackArgs,

    /// Wait until every endpoint that wants the event has it or never will, and print how each delivery
    /// ended
    #[arg(long, conflicts_with = "file")]
    wait: bool,

    /// How long to wait for that
    #[arg(long, value_name = "TIME", requires = "wait", default_value = "5m", value_parser = relay_service::args::time)]
    wait_timeout: Duration,

    /// The relay's data folder, which is `--data` or `--data-dir` elsewhere: here --data is the event's [default:
    /// $XDG_DATA_HOME/event-relay, else ~/.local/share/event-relay]
    #[arg(long, env = "RELAY_DATA", value_name = "FOLDER", hide_env_values = true)]
    data_dir: Option<PathBuf>,
}

impl PublishArgs {
    /// The relay to publish to. Its folder is `--data-dir` here, for `--data` is the event's.
    fn relay(&self) -> DataArgs {
        DataArgs {
            data_dir: self.data_dir.clone(),
        }
    }

    /// The way to the relay. Over AMQP an event of a known id is sent again, and the log would not tell how
    /// it ended from how it had ended before. A callback is taken over HTTP alone.
    fn via(&self) -> Result<Via, Usage> {
        let needs_http = self.wait || self.callback.is_given();
        match (self.via, needs_http) {
            (Some(Via::Amqp), true) => Err(Usage::new(
                "--via",
                "must be http where --wait or --callback is given",
            )),
            (None, true) => Ok(Via::Http),
            (via, _) => Ok(via.unwrap_or_default()),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Via {
    /// Straight to its broker
    #[default]
    Amqp,
    /// Through its HTTP API
    Http,
}

pub(crate) async fn run(args: PublishArgs) -> anyhow::Result<()> {
    match (&args.file, &args.event_type) {
        (Some(path), _) => file::publish(path, &args).await,
        (None, Some(event_type)) => one::publish(event_type, &args).await,
        (None, None) => Err(Usage::new("--type", "is missing").into()),
    }
}
