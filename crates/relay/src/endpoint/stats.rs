use std::collections::BTreeMap;

use relay_event::EndpointId;
use serde::Deserialize;

use super::{about_one, endpoint_id};
use crate::{
    api::{Api, understand},
    data::DataArgs,
    output,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: relay endpoint stats ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70")]
pub(crate) struct StatsArgs {
    /// The endpoint's id
    #[arg(value_name = "ID", value_parser = endpoint_id)]
    id: EndpointId,
    /// Print the relay's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Deserialize)]
struct Stats {
    endpoint: EndpointId,
    hour: Attempts,
    day: Attempts,
    pending: u64,
    retrying: u64,
    /// Of those, the ones that are held, by reason.
    held: BTreeMap<String, u64>,
}

/// What came of the attempts of some time.
#[derive(Deserialize)]
struct Attempts {
    delivered: u64,
    failed: u64,
    p50_ms: Option<u64>,
    p99_ms: Option<u64>,
}

pub(super) async fn run(args: StatsArgs) -> anyhow::Result<()> {
    let path = ["v1", "endpoints", args.id.as_str(), "stats"];
    let answer = Api::connect(&args.data)?.get(&path).await.map_err(about_one)?;
    if args.json {
        return output::say_json(&answer);
    }
    output::say(&readable(&understand(&answer)?));
    Ok(())
}

fn readable(stats: &Stats) -> String {
    let held: Vec<String> = stats
        .held
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let held = if held.is_empty() {
        "0".to_owned()
    } else {
        held.join(", ")
    };
    let facts = [
        ("endpoint", stats.endpoint.to_string()),
        ("pending", stats.pending.to_string()),
        ("retrying", stats.retrying.to_string()),
        ("held", held),
    ];
    let head = ["ATTEMPTS", "DELIVERED", "FAILED", "P50", "P99"];
    let rows = [row("last hour", &stats.hour), row("last day", &stats.day)];
    format!("{}\n\n{}", output::block(&facts), output::table(head, &rows))
}

fn row(name: &str, of: &Attempts) -> [String; 5] {
    let millis = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), |millis| format!("{millis} ms"));
    [
        name.to_owned(),
        of.delivered.to_string(),
        of.failed.to_string(),
        millis(of.p50_ms),
        millis(of.p99_ms),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_said() {
        let mut stats = json!({"endpoint": "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70",
            "hour": {"delivered": 0, "failed": 0, "p50_ms": null, "p99_ms": null},
            "day": {"delivered": 1200, "failed": 3, "p50_ms": 12, "p99_ms": 450},
            "pending": 4, "retrying": 1, "held": {"circuit": 1, "paused": 3}});
        let expected = "\
endpoint  ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70
pending   4
retrying  1
held      1 circuit, 3 paused

ATTEMPTS   DELIVERED  FAILED  P50    P99
last hour  0          0       -      -
last day   1200       3       12 ms  450 ms";
        let readable = |stats: &serde_json::Value| readable(&serde_json::from_value(stats.clone()).unwrap());
        assert_eq!(readable(&stats), expected);
        stats["held"] = json!({});
        assert!(readable(&stats).contains("held      0\n"));
    }
}
