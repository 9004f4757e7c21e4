use clap::Args;
use relay_broker::{DeadLetters, Session};
use relay_event::{DeadLetter, Timestamp};
use serde::Serialize;

use super::{CONNECTION, filter::Filter};
use crate::{
    data::DataArgs,
    found::open_session,
    output,
    words::{self, or_dash},
};

const DEFAULT_LIMIT: u64 = 100;

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
}

/// What was found. `not_looked_at` letters lie behind the limit.
#[derive(Serialize)]
struct Listed {
    dead_letters: Vec<DeadLetter>,
    not_looked_at: u32,
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<()> {
    let session = open_session(&args.data.broker(CONNECTION)?).await?;
    let listed = look(&session, &args.filter).await;
    session.close().await;
    let listed = listed?;
    if args.json {
        output::say(&serde_json::to_string_pretty(&listed)?);
    } else {
        print(&listed, args.filter.chooses());
    }
    Ok(())
}

async fn look(session: &Session, filter: &Filter) -> anyhow::Result<Listed> {
    let limit = usize::try_from(filter.limit.unwrap_or(DEFAULT_LIMIT))?;
    let (now, mut found) = (Timestamp::now(), Vec::new());
    let mut letters = DeadLetters::open(session).await?;
    while found.len() < limit
        && let Some(message) = letters.next().await?
    {
        if filter.matches(&message.letter, now) {
            found.push(message.letter.clone());
        }
        letters.keep(message).await?;
    }
    Ok(Listed {
        dead_letters: found,
        not_looked_at: letters.left(),
    })
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
    match (listed.not_looked_at, chosen) {
        (0, _) => {}
        (more, false) => output::note(&format!("and {more} more; --limit shows them")),
        (more, true) => output::note(&format!("{more} more were not looked at; --limit shows more")),
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
        or_dash(last(letter).map(|text| text.chars().take(60).collect::<String>())),
    ]
}

/// What came of the last attempt, or what is wrong with the message.
pub(super) fn last(letter: &DeadLetter) -> Option<String> {
    words::outcome(letter.last_status, letter.last_error.as_ref()).or_else(|| letter.detail.clone())
}
