use clap::Args;
use relay_broker::{DeadLetters, DeadMessage, Session};
use relay_event::{DeadLetter, Timestamp, WebhookId};
use serde::Serialize;

use super::{
    CONNECTION,
    age::{Age, First},
    filter::Filter,
    list::last,
    record::Record,
};
use crate::{data::DataArgs, found::open_session, output, words};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay dlq show 0198b7a0-c5d0-7d3f-8a6e-2b4c1d9e8f70
  relay dlq show --without-event --reason invalid_event")]
pub(crate) struct ShowArgs {
    /// The event's id, or its webhook id; it may have died for several endpoints
    #[arg(value_name = "EVENT_ID", required_unless_present = "without_event")]
    event_id: Option<String>,

    /// Show the letters that have no event's id
    #[arg(long, conflicts_with = "event_id")]
    without_event: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    filter: Filter,

    /// At most so many, the oldest first; those without a date come last
    #[arg(long, value_name = "N", value_parser = words::from_one)]
    limit: Option<u64>,
}

#[derive(Serialize)]
struct Shown {
    dead_letters: Vec<Record>,
}

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<()> {
    let session = open_session(&args.data.broker(CONNECTION)?).await?;
    let found = look(&session, &args).await;
    session.close().await;
    let dead_letters = found?;
    if dead_letters.is_empty() {
        let of = match &args.event_id {
            Some(id) => format!("of event {id}"),
            None => "without an event's id".to_owned(),
        };
        anyhow::bail!("no such dead letter {of}; `relay dlq list` shows those there are");
    }
    if args.json {
        output::say(&output::json_lines(&Shown { dead_letters })?);
    } else {
        let blocks: Vec<String> = dead_letters.iter().map(readable).collect();
        output::say(&blocks.join("\n\n"));
    }
    Ok(())
}

async fn look(session: &Session, args: &ShowArgs) -> anyhow::Result<Vec<Record>> {
    let limit = usize::try_from(args.limit.unwrap_or(u64::MAX))?;
    let (now, mut oldest) = (Timestamp::now(), First::new(limit));
    let mut letters = DeadLetters::open(session).await?;
    while let Some(message) = letters.next().await? {
        let meant = match &args.event_id {
            Some(id) => is_of(&message, id),
            None => message.letter.event_id.is_none(),
        };
        if meant && args.filter.matches(&message.letter, now) {
            oldest.offer(Age::of(&message.letter), Record::of(&message));
        }
        letters.keep(message).await?;
    }
    Ok(oldest.in_order().map(|(_, record)| record).collect())
}

/// Returns true if the letter is of the event with this id, or with this webhook id.
fn is_of(message: &DeadMessage, id: &str) -> bool {
    let event = message.event.as_ref().ok();
    message.letter.event_id.as_deref() == Some(id)
        || event.is_some_and(|event| event.webhook_id().as_str() == id)
}

fn readable(record: &Record) -> String {
    let content = match (&record.event, &record.body_base64) {
        (Some(event), _) => output::pretty(event.get()),
        (None, body) => format!("body in base64: {}", body.as_deref().unwrap_or_default()),
    };
    format!(
        "{}\n{content}",
        output::block(&facts(&record.letter, record.webhook_id.as_ref()))
    )
}

fn facts(letter: &DeadLetter, webhook_id: Option<&WebhookId>) -> Vec<(&'static str, String)> {
    let now = Timestamp::now();
    let time = |moment: Option<Timestamp>| moment.map(|at| words::time(at, now));
    let facts = [
        ("event", letter.event_id.clone()),
        ("webhook id", webhook_id.map(ToString::to_string)),
        ("type", letter.event_type.clone()),
        ("reason", Some(letter.reason.to_string())),
        ("detail", letter.detail.clone()),
        ("endpoint", letter.endpoint.as_ref().map(ToString::to_string)),
        ("attempts", Some(letter.attempts.to_string())),
        ("first attempt", time(letter.first_attempt)),
        ("last attempt", time(letter.last_attempt)),
        ("last answer", last(letter).filter(|_| letter.attempts > 0)),
        ("dead since", time(letter.dead_at)),
    ];
    output::known(facts)
}

#[cfg(test)]
mod tests {
    use relay_event::DeadReason;

    use super::*;

    #[test]
    fn only_known_facts_are_shown() {
        let letter = DeadLetter {
            reason: DeadReason::InvalidEvent,
            detail: Some("type: is missing".to_owned()),
            endpoint: None,
            event_id: None,
            event_type: None,
            attempts: 0,
            first_attempt: None,
            last_attempt: None,
            last_status: None,
            last_error: None,
            dead_at: None,
        };
        let names: Vec<&str> = facts(&letter, None).iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["reason", "detail", "attempts"]);
    }
}
