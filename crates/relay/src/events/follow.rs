use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use relay_event::Event;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    feed::FeedArgs,
    output,
    words::{happened, or_dash},
};

/// How much of an event's data is shown, in characters.
const SHOWN: usize = 80;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay events follow --types 'order.*'
  relay events follow --since 1h --json | jq .event.data

While the relay or the connection is away it waits, and then goes on exactly where it was. Ctrl-C ends it, \
and it says on stderr where it would have gone on.")]
pub(crate) struct FollowArgs {
    #[command(flatten)]
    feed: FeedArgs,

    /// Print one JSON object a line (NDJSON), with the event and its cursor, each as the relay wrote it
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: FollowArgs) -> anyhow::Result<()> {
    let following = args.feed.follow("following", async |item| {
        output::say_more(&match args.json {
            true => output::lines(std::slice::from_ref(&item.json)),
            false => readable(&item.event),
        });
        Ok(())
    });
    following.await
}

/// What an event holds, read forgivingly.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Holds {
    data: Option<Box<RawValue>>,
    data_base64: Option<String>,
}

fn readable(event: &Event) -> String {
    let holds: Holds = serde_json::from_slice(event.body()).unwrap_or_default();
    let mut parts = vec![
        or_dash(happened(event)),
        event.event_type().to_string(),
        event.id().to_string(),
    ];
    parts.extend(event.subject().map(str::to_owned));
    parts.extend(holds.data.map(|data| short(data.get())));
    parts.extend(holds.data_base64.map(|data| binary(&data)));
    output::plain(&parts.join("  "))
}

/// The beginning, on one line.
fn short(data: &str) -> String {
    let line = data.split_whitespace().collect::<Vec<_>>().join(" ");
    output::beginning(&line, SHOWN)
}

fn binary(data: &str) -> String {
    let bytes = STANDARD.decode(data).map_or(0, |bytes| bytes.len());
    format!("({bytes} B, no JSON)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(more: &str) -> String {
        let json =
            format!(r#"{{"specversion":"1.0","id":"id-1","source":"/s","type":"order.created"{more}}}"#);
        readable(&Event::parse(json.into()).unwrap())
    }

    #[test]
    fn a_line_tells_an_event() {
        let all = r#","time":"2026-01-31T10:30:00+01:00","subject":"o-1","data":{
            "n": 1.50}"#;
        assert_eq!(
            shown(all),
            r#"2026-01-31T09:30:00.000Z  order.created  id-1  o-1  { "n": 1.50}"#
        );
        assert_eq!(shown(""), "-  order.created  id-1");
        assert_eq!(
            shown(r#","data_base64":"/w==""#),
            "-  order.created  id-1  (1 B, no JSON)"
        );
    }

    #[test]
    fn of_long_data_the_beginning_is_shown() {
        let line = shown(&format!(r#","data":"{}""#, "ü".repeat(1_000)));
        assert!(line.ends_with("üü…"), "{line}");
        assert_eq!(line.chars().filter(|c| *c == 'ü').count(), SHOWN - 1);
    }
}
