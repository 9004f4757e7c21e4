use clap::Args;
use relay_event::{EndpointId, Timestamp};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{about_one, endpoint_id};
use crate::{
    api::{Api, ApiError, Patience, long_after, of_option, understand},
    data::DataArgs,
    output,
    progress::Progress,
    usage::{Usage, stopped},
    words::moment,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay endpoint recover ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70 --since 2h --dry-run
  relay endpoint recover ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70 --since 2h

The dead letters stay in their queue: once the endpoint has all it missed,
`relay dlq drain --discard --endpoint ID` removes them.")]
pub(crate) struct RecoverArgs {
    /// The endpoint's id
    #[arg(value_name = "ID", value_parser = endpoint_id)]
    id: EndpointId,

    /// Only events recorded since then: a time such as 2026-01-31T09:30:00Z, or how long ago it was,
    /// such as 90s, 1h or 7d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Timestamp,

    /// Only events recorded before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,

    /// Also events that are still on their way to it: these will come twice
    #[arg(long)]
    include_waiting: bool,

    /// Say how many there are, and send nothing
    #[arg(long, conflicts_with = "cursor")]
    dry_run: bool,

    /// Go on where an earlier one stopped, which said this; everything else must be as it said too
    #[arg(long)]
    cursor: Option<String>,

    #[command(flatten)]
    data: DataArgs,
}

impl RecoverArgs {
    fn request(&self, cursor: Option<&String>) -> Map<String, Value> {
        let mut request = Map::new();
        let mut put = |name: &str, value: Value| drop(request.insert(name.to_owned(), value));
        put("since", json!(self.since));
        if let Some(until) = self.until {
            put("until", json!(until));
        }
        if self.include_waiting {
            put("include_waiting", json!(true));
        }
        if let Some(cursor) = cursor {
            put("cursor", json!(cursor));
        }
        request
    }

    /// What brings an interrupted recovery to its end. Its times were meant from when it began.
    fn go_on(&self, cursor: Option<&String>) -> String {
        let options = [
            Some(format!("--since {}", self.since)),
            self.until.map(|until| format!("--until {until}")),
            self.include_waiting.then(|| "--include-waiting".to_owned()),
            cursor.map(|cursor| format!("--cursor {cursor}")),
        ];
        let options: Vec<String> = options.into_iter().flatten().collect();
        format!(
            "go on with {}; some events may be sent twice, with the same ids",
            options.join(" ")
        )
    }
}

pub(super) async fn run(args: RecoverArgs) -> anyhow::Result<()> {
    let api = Api::connect(&args.data)?;
    let total = preview(&api, &args).await?;
    // The relay checks a cursor also where nothing is missing.
    if args.dry_run || (total == 0 && args.cursor.is_none()) {
        output::say(&summary(total, args.dry_run));
        return Ok(());
    }
    let stop = relay_service::shutdown_on_signals();
    let progress = Progress::new(total, "events");
    let mut way = Way {
        recovered: 0,
        cursor: args.cursor.clone(),
    };
    let ended = way.go(&api, &args, &progress, &stop).await;
    drop(progress);
    output::say(&summary(way.recovered, false));
    if way.recovered > 0 {
        output::note(&format!(
            "their dead letters, if there are any, stay in the queue: `relay dlq drain --discard --endpoint {}` removes this endpoint's",
            args.id
        ));
    }
    if ended.as_ref().is_err_and(|error| !error.is::<Usage>()) {
        output::note(&args.go_on(way.cursor.as_ref()));
    }
    ended
}

fn summary(events: u64, dry_run: bool) -> String {
    let events = match events {
        0 => "no events".to_owned(),
        number => output::count(number, "event"),
    };
    format!(
        "{events} {}",
        if dry_run {
            "would be recovered"
        } else {
            "recovered"
        }
    )
}

/// How many events there are; the relay counts only from the beginning.
async fn preview(api: &Api, args: &RecoverArgs) -> anyhow::Result<u64> {
    #[derive(Deserialize)]
    struct Preview {
        events: u64,
    }
    let mut request = args.request(None);
    request.insert("dry_run".to_owned(), json!(true));
    let Preview { events } = ask(api, args, &request.into())
        .await
        .map_err(|error| refused(error, args))??;
    Ok(events)
}

/// How far a recovery came.
struct Way {
    recovered: u64,
    /// Everything before it was sent.
    cursor: Option<String>,
}

/// What one request did.
#[derive(Deserialize)]
struct Page {
    recovered: u64,
    next: Option<String>,
}

impl Way {
    /// Recovers page by page, until there are no more or `stop`.
    async fn go(
        &mut self,
        api: &Api,
        args: &RecoverArgs,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        // A page that broke off may be under way still, and is not sent again unasked.
        let patience = Patience::new(progress, ApiError::passes_and_is_over);
        while !stop.is_cancelled() {
            let request = args.request(self.cursor.as_ref()).into();
            let page = tokio::select! {
                page = patience.until_done(async || ask(api, args, &request).await) => page,
                () = long_after(stop) => break,
            };
            let Page { recovered, next } = page.map_err(|error| refused(error, args))??;
            self.recovered += recovered;
            progress.steps(recovered);
            match next {
                Some(_) => self.cursor = next,
                None => return Ok(()),
            }
        }
        Err(stopped("stopped before the end"))
    }
}

/// A failed request, naming the option where the relay refuses one. A cursor may also be of its own making.
fn refused(error: ApiError, args: &RecoverArgs) -> anyhow::Error {
    let names = [("since", "--since"), ("until", "--until"), ("cursor", "--cursor")];
    let given = if args.cursor.is_some() {
        &names[..]
    } else {
        &names[..2]
    };
    of_option(about_one(error), given)
}

/// Asks, and reads the answer apart: what is not understood was done all the same.
async fn ask<T: DeserializeOwned>(
    api: &Api,
    args: &RecoverArgs,
    request: &Value,
) -> Result<anyhow::Result<T>, ApiError> {
    let path = ["v1", "endpoints", args.id.as_str(), "recover"];
    Ok(understand(&api.post(&path, request).await?))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const ID: &str = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: RecoverArgs,
    }

    fn args(options: &[&str]) -> RecoverArgs {
        let line = ["recover", ID, "--since", "2026-01-31T09:30:00Z"];
        Line::try_parse_from(line.iter().chain(options)).unwrap().args
    }

    #[test]
    fn every_option_arrives() {
        let cursor = "c".to_owned();
        assert_eq!(
            Value::from(args(&[]).request(None)),
            json!({"since": "2026-01-31T09:30:00.000Z"})
        );
        let args = args(&["--until", "2026-01-31T10:30:00+00:00", "--include-waiting"]);
        assert_eq!(
            Value::from(args.request(Some(&cursor))),
            json!({"since": "2026-01-31T09:30:00.000Z", "until": "2026-01-31T10:30:00.000Z",
                "include_waiting": true, "cursor": "c"})
        );
        let said = args.go_on(Some(&cursor));
        let same =
            "--since 2026-01-31T09:30:00.000Z --until 2026-01-31T10:30:00.000Z --include-waiting --cursor c;";
        assert!(said.contains(same), "{said}");
    }

    #[test]
    fn since_when_must_be_said() {
        let refused = Line::try_parse_from(["recover", ID]).unwrap_err().to_string();
        assert!(refused.contains("--since"), "{refused}");
    }

    #[test]
    fn the_summary_counts() {
        assert_eq!(summary(0, false), "no events recovered");
        assert_eq!(summary(1, true), "1 event would be recovered");
    }
}
