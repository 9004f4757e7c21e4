use clap::Args;
use relay_broker::{DeadLetters, Session};
use relay_event::{DeadLetter, Timestamp};
use serde::Serialize;

use super::{
    CONNECTION,
    age::{Age, First},
    filter::Filter,
};
use crate::{
    data::DataArgs,
    found::open_session,
    output,
    progress::Progress,
    words::{self, or_dash},
};

#[derive(Debug, Args)]
#[command(after_help = "Example: relay dlq list --type 'order.*' --older-than 1h")]
pub(crate) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    filter: Filter,

    /// At most so many, the newest first; those without a date come last
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = words::from_one)]
    limit: u64,
}

/// The newest of those that were meant, newest first, and how many were meant.
#[derive(Serialize)]
struct Listed {
    dead_letters: Vec<DeadLetter>,
    total: u64,
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<()> {
    let session = open_session(&args.data.broker(CONNECTION)?).await?;
    let listed = look(&session, &args).await;
    session.close().await;
    let listed = listed?;
    if args.json {
        output::say(&output::json_lines(&listed)?);
    } else {
        print(&listed, args.filter.chooses());
    }
    Ok(())
}

/// Looks at all letters, for the broker hands them out in any order, and keeps only the newest in mind.
async fn look(session: &Session, args: &ListArgs) -> anyhow::Result<Listed> {
    let limit = usize::try_from(args.limit)?;
    let now = Timestamp::now();
    let (mut newest, mut total) = (First::new(limit), 0);
    let mut letters = DeadLetters::open(session).await?;
    let progress = Progress::new(letters.left().into(), "dead letters looked at");
    while let Some(message) = letters.next().await? {
        progress.step();
        if args.filter.matches(&message.letter, now) {
            total += 1;
            let age = Age::of(&message.letter);
            newest.offer(age.newest_first(), message.letter.clone());
        }
        letters.keep(message).await?;
    }
    let dead_letters = newest.in_order().map(|(_, letter)| letter).collect();
    Ok(Listed { dead_letters, total })
}

fn print(listed: &Listed, chosen: bool) {
    if listed.dead_letters.is_empty() {
        output::note(if chosen {
            "no such dead letters"
        } else {
            "no dead letters"
        });
    } else {
        let head = ["DEAD FOR", "REASON", "ENDPOINT", "TYPE", "EVENT", "TRIES", "LAST"];
        let now = Timestamp::now();
        let rows: Vec<_> = listed
            .dead_letters
            .iter()
            .map(|letter| row(letter, now))
            .collect();
        output::say(&output::table(head, &rows));
    }
    let shown = listed.dead_letters.len() as u64;
    if shown < listed.total {
        let total = listed.total;
        output::note(&format!("the newest {shown} of {total}; --limit shows more"));
    }
}

fn row(letter: &DeadLetter, now: Timestamp) -> [String; 7] {
    [
        or_dash(letter.dead_at.map(|died| output::roughly(now.since(died)))),
        letter.reason.to_string(),
        or_dash(letter.endpoint.as_ref()),
        or_dash(letter.event_type.as_ref()),
        or_dash(letter.event_id.as_ref()),
        letter.attempts.to_string(),
        or_dash(last(letter).map(|text| output::beginning(&text, 60))),
    ]
}

/// What came of the last attempt, or what is wrong with the message.
pub(super) fn last(letter: &DeadLetter) -> Option<String> {
    words::outcome(letter.last_status, letter.last_error.as_ref()).or_else(|| letter.detail.clone())
}
