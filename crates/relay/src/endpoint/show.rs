use anyhow::Context as _;
use clap::Args;
use relay_event::{EndpointId, list};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{about_one, endpoint_id};
use crate::{
    api::{Api, Query},
    data::DataArgs,
    output,
};

#[derive(Debug, Args)]
#[command(after_help = "Example: relay endpoint list --json | jq '.endpoints[].url'")]
pub(crate) struct ListArgs {
    /// Print the relay's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: relay endpoint show ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70")]
pub(crate) struct ShowArgs {
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
struct Listed {
    endpoints: Vec<View>,
}

/// An endpoint as the API shows it, whatever it tells.
type View = Map<String, Value>;

pub(super) async fn list(args: ListArgs) -> anyhow::Result<()> {
    let query = Query::default().with("held", Some("true"));
    let answer = Api::connect(&args.data)?
        .get_with(&["v1", "endpoints"], &query)
        .await?;
    if args.json {
        return output::say_json(&answer);
    }
    let Listed { endpoints } =
        serde_json::from_slice(&answer).context("the relay's list is not understood")?;
    if endpoints.is_empty() {
        output::note("no endpoints yet; `relay endpoint add --help` shows how to add one");
        return Ok(());
    }
    let rows: Vec<[String; 6]> = endpoints.iter().map(row).collect();
    output::say(&output::table(
        ["ID", "STATE", "URL", "TYPES", "RETRY", "HELD"],
        &rows,
    ));
    Ok(())
}

fn row(view: &View) -> [String; 6] {
    let fact = |name| value(name, view.get(name).unwrap_or(&Value::Null));
    let [id, state, url, types, retry] = ["id", "state", "url", "types", "retry"].map(fact);
    let failing = state == "active" && view.contains_key("failing_since");
    let state = if failing { "failing".to_owned() } else { state };
    let held = match fact("held") {
        none if none.is_empty() => "-".to_owned(),
        held => held,
    };
    [id, state, url, types, retry, held]
}

pub(super) async fn show(args: ShowArgs) -> anyhow::Result<()> {
    let path = ["v1", "endpoints", args.id.as_str()];
    let answer = Api::connect(&args.data)?.get(&path).await.map_err(about_one)?;
    if args.json {
        return output::say_json(&answer);
    }
    let view: View = serde_json::from_slice(&answer).context("the relay's answer is not understood")?;
    output::say(&readable(&view));
    Ok(())
}

/// In which order people want to know; anything else follows.
const ORDER: [&str; 20] = [
    "id",
    "url",
    "state",
    "reason",
    "since",
    "failing_since",
    "held",
    "types",
    "source",
    "subject",
    "retry",
    "timeout_ms",
    "max_in_flight",
    "rate_limit",
    "headers",
    "signature",
    "secrets",
    "expires_at",
    "created_at",
    "updated_at",
];

fn readable(view: &View) -> String {
    let rest = view.keys().map(String::as_str).filter(|key| !ORDER.contains(key));
    let facts: Vec<(String, String)> = ORDER
        .into_iter()
        .chain(rest)
        .filter_map(|name| Some((name.replace('_', " "), value(name, view.get(name)?))))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let facts: Vec<(&str, String)> = facts
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    output::block(&facts)
}

fn value(name: &str, value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() && name == "retry" => "none".to_owned(),
        Value::Object(secret) if name == "secrets" => match secret.get("expires_at") {
            Some(Value::String(end)) => format!("one until {end}"),
            _ => "one without end".to_owned(),
        },
        Value::Array(items) if name == "types" => list::join(items.iter().filter_map(Value::as_str)),
        Value::Array(items) => items
            .iter()
            .map(|item| self::value(name, item))
            .collect::<Vec<_>>()
            .join(if name == "secrets" { ", " } else { "," }),
        Value::Object(reasons) if name == "held" => reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Object(members) => members
            .iter()
            .map(|(key, item)| format!("{key}: {}", self::value(key, item)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view() -> View {
        let view = json!({
            "id": "ep_1", "url": "http://x/", "types": ["a.*", "b,c"], "retry": [], "state": "disabled",
            "reason": "answered 410", "rate_limit": null, "timeout_ms": 30000, "waiting": 7,
            "held": {"circuit": 3, "paused": 1},
            "headers": {"authorization": "…"}, "secrets": [{"expires_at": null}, {"expires_at": "soon"}],
        });
        view.as_object().unwrap().clone()
    }

    #[test]
    fn a_row_has_what_a_list_needs() {
        assert_eq!(
            row(&view()),
            [
                "ep_1",
                "disabled",
                "http://x/",
                r"a.*,b\,c",
                "none",
                "3 circuit, 1 paused"
            ]
        );
    }

    #[test]
    fn a_list_says_who_fails() {
        let with = |state| {
            let facts = [
                ("state", json!(state)),
                ("failing_since", json!("2026-11-22T06:10:30Z")),
            ];
            let facts = facts.map(|(name, value)| (name.to_owned(), value));
            row(&facts.into_iter().collect())[1].clone()
        };
        assert_eq!(
            (with("active"), with("paused")),
            ("failing".to_owned(), "paused".to_owned())
        );
    }

    #[test]
    fn a_block_shows_all_that_the_api_tells() {
        let expected = "\
id          ep_1
url         http://x/
state       disabled
reason      answered 410
held        3 circuit, 1 paused
types       a.*,b\\,c
retry       none
timeout ms  30000
headers     authorization: …
secrets     one without end, one until soon
waiting     7";
        assert_eq!(readable(&view()), expected);
    }
}
