use clap::Args;
use relay_event::{EventId, EventType, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{One, about_one, attempts};
use crate::{
    api::{Api, understand},
    data::DataArgs,
    deliveries::Delivery,
    output, words,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay events show 0198b7a0-c5d0-7d3f-8a6e-2b4c1d9e8f70 --attempts
  relay events show 0198b7a0-c5d0-7d3f-8a6e-2b4c1d9e8f70 --json | jq .event.data")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    one: One,

    /// Show every attempt with its answer too, oldest first
    #[arg(long)]
    attempts: bool,

    /// Print the relay's answer as JSON; with --attempts one JSON object a line (NDJSON), first that
    /// answer, then each attempt
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,
}

/// An event as the relay tells it.
#[derive(Deserialize)]
struct Shown {
    id: EventId,
    webhook_id: Option<String>,
    source: String,
    r#type: EventType,
    subject: Option<String>,
    published_at: Option<Timestamp>,
    recorded_at: Timestamp,
    size_bytes: u64,
    deliveries: Vec<Delivery>,
    event: Box<RawValue>,
}

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<()> {
    let api = Api::connect(&args.data)?;
    let asked = api.get_with(&args.one.path(), &args.one.query()).await;
    let answer = asked.map_err(about_one)?;
    if args.json && !args.attempts {
        return output::say_json(&answer);
    }
    if args.json {
        let whole: Box<RawValue> = understand(&answer)?;
        output::say(&output::lines(&[whole]));
    }
    let shown: Shown = understand(&answer)?;
    if !args.json {
        output::say(&readable(&shown, Timestamp::now()));
    }
    if args.attempts {
        attempts::print(&api, &shown.id, &shown.source, args.json).await?;
    }
    Ok(())
}

fn readable(shown: &Shown, now: Timestamp) -> String {
    let facts = output::known([
        ("event", Some(shown.id.to_string())),
        ("webhook id", shown.webhook_id.clone()),
        ("type", Some(shown.r#type.to_string())),
        ("source", Some(shown.source.clone())),
        ("subject", shown.subject.clone()),
        ("published", shown.published_at.map(|at| words::time(at, now))),
        ("recorded", Some(words::time(shown.recorded_at, now))),
        ("bytes", Some(shown.size_bytes.to_string())),
    ]);
    let event = output::pretty(shown.event.get());
    let rows: Vec<_> = shown.deliveries.iter().map(|one| one.row(now)).collect();
    let deliveries = if rows.is_empty() {
        "no deliveries".to_owned()
    } else {
        output::table(Delivery::HEAD, &rows)
    };
    format!("{}\n{event}\n\n{deliveries}", output::block(&facts))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"sequence":17,"id":"a/b","webhook_id":"a_b_1f0e8f1c2a3b4c5d","source":"/s","type":"order.created",
"published_at":"2026-01-31T09:29:00Z","recorded_at":"2026-01-31T09:29:01Z","size_bytes":77,
"deliveries":[{"endpoint":"ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70","state":"delivered","attempts":1,
"at":"2026-01-31T09:29:02Z","status":204}],"event":{"id":"a/b","data":{"n":1.50}}}"#;

    #[test]
    fn shows_the_event_word_for_word_and_its_deliveries() {
        let mut shown: Shown = serde_json::from_str(ANSWER).unwrap();
        let now = "2026-01-31T09:30:00Z".parse().unwrap();
        let expected = r#"event       a/b
webhook id  a_b_1f0e8f1c2a3b4c5d
type        order.created
source      /s
published   2026-01-31T09:29:00.000Z (1m ago)
recorded    2026-01-31T09:29:01.000Z (59s ago)
bytes       77
{
  "id": "a/b",
  "data": {
    "n": 1.50
  }
}

ENDPOINT                             STATE      TRIES  WHEN     LAST  REASON
ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70  delivered  1      58s ago  204   -"#;
        assert_eq!(readable(&shown, now), expected);
        shown.deliveries.clear();
        assert!(readable(&shown, now).ends_with("}\n\nno deliveries"));
    }
}
