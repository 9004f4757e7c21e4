//! Events that were published, as the relay's log has them.

mod attempts;
mod follow;
mod list;
mod replay;
mod show;
mod waiting;

use clap::{Args, Subcommand};
use relay_event::{EventId, Invalid, WebhookId};

use crate::api::{ApiError, Query};

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// List events, newest first
    List(list::ListArgs),
    /// Show an event and how its deliveries stand
    Show(show::ShowArgs),
    /// Print events as they are recorded, until Ctrl-C
    Follow(follow::FollowArgs),
    /// Send an event again, to all endpoints that want its type now or to one
    Replay(replay::ReplayArgs),
    /// Try deliveries of an event now that wait for another time
    Retry(waiting::RetryArgs),
    /// Cancel deliveries of an event that have not ended
    Cancel(waiting::CancelArgs),
}

pub(crate) async fn run(command: EventsCommand) -> anyhow::Result<()> {
    match command {
        EventsCommand::List(args) => list::run(args).await,
        EventsCommand::Show(args) => show::run(args).await,
        EventsCommand::Follow(args) => follow::run(args).await,
        EventsCommand::Replay(args) => replay::run(args).await,
        EventsCommand::Retry(args) => waiting::retry(args).await,
        EventsCommand::Cancel(args) => waiting::cancel(args).await,
    }
}

/// One event.
#[derive(Debug, Args)]
struct One {
    /// The event's id, or its webhook id
    #[arg(value_name = "EVENT_ID", value_parser = event_id)]
    id: EventId,

    /// Its source, should events of several sources have this id [default: the newest of them]
    #[arg(long)]
    source: Option<String>,
}

impl One {
    fn path(&self) -> [&str; 3] {
        ["v1", "events", self.id.as_str()]
    }

    fn query(&self) -> Query {
        Query::default().with("source", self.source.as_ref())
    }
}

fn event_id(text: &str) -> Result<EventId, String> {
    if is_dots(text) {
        return Err(
            "must be another than `.` and `..`, which a URL cannot hold: give the event's webhook id"
                .to_owned(),
        );
    }
    text.parse().map_err(|refused: Invalid| refused.problem)
}

/// URLs cannot hold these two as words of a path: they stand for the folder and the one above.
fn is_dots(text: &str) -> bool {
    matches!(text, "." | "..")
}

/// An event's id as the word of a path.
pub(crate) fn in_path(source: &str, id: &EventId) -> String {
    match is_dots(id.as_str()) {
        true => WebhookId::of(source, id).to_string(),
        false => id.to_string(),
    }
}

/// A failed request about one event.
fn about_one(error: ApiError) -> anyhow::Error {
    error.or_missing("`relay events list` shows the newest ones")
}
