use clap::Args;
use relay_event::{EventId, EventType, Timestamp, TypePattern};
use serde::Deserialize;

use crate::{
    api::Query,
    listing::{Columns, Listing, Period},
    words::{ago, or_dash},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay events list --type 'order.*' --since 1h
  relay events list --source /orders --all --json | jq -r .id")]
pub(crate) struct ListArgs {
    /// Only those of these types, such as 'order.*'; several separated by commas, or by repeating the
    /// option
    #[arg(long = "type", alias = "types", value_name = "PATTERN", value_delimiter = ',')]
    types: Vec<TypePattern>,

    /// Only those of this source
    #[arg(long)]
    source: Option<String>,

    /// Only those about this
    #[arg(long)]
    subject: Option<String>,

    #[command(flatten)]
    period: Period,

    #[command(flatten)]
    listing: Listing,
}

impl ListArgs {
    fn query(&self) -> Query {
        let types: Vec<&str> = self.types.iter().map(TypePattern::as_str).collect();
        let query = Query::default()
            .with("types", Some(types.join(",")).filter(|types| !types.is_empty()))
            .with("source", self.source.as_ref())
            .with("subject", self.subject.as_ref());
        self.period.on(query)
    }
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<()> {
    let path = ["v1", "events"];
    args.listing.print(&path, args.query(), &COLUMNS).await
}

#[derive(Deserialize)]
struct Listed {
    id: EventId,
    source: String,
    r#type: EventType,
    subject: Option<String>,
    recorded_at: Timestamp,
    size_bytes: u64,
}

const COLUMNS: Columns<Listed, 6> = Columns {
    noun: "events",
    head: ["EVENT", "TYPE", "SOURCE", "SUBJECT", "BYTES", "RECORDED"],
    row: |event, now| {
        [
            event.id.to_string(),
            event.r#type.to_string(),
            event.source.clone(),
            or_dash(event.subject.as_ref()),
            event.size_bytes.to_string(),
            ago(event.recorded_at, now),
        ]
    },
};

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::output;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ListArgs,
    }

    #[test]
    fn a_row_has_what_a_list_needs() {
        let event = json!({"sequence": 7, "id": "a", "source": "/s\u{1b}", "type": "order.created",
            "recorded_at": "2026-01-31T09:29:00Z", "size_bytes": 812});
        let now = "2026-01-31T09:30:00Z".parse().unwrap();
        let row = (COLUMNS.row)(&serde_json::from_value(event).unwrap(), now);
        let expected = "\
EVENT  TYPE           SOURCE  SUBJECT  BYTES  RECORDED
a      order.created  /s\u{fffd}     -        812    1m ago";
        assert_eq!(output::table(COLUMNS.head, &[row]), expected);
    }

    #[test]
    fn patterns_are_separated_by_commas_and_checked() {
        let parse = |types: &str| Line::try_parse_from(["list", "--type", types, "--type", "a"]);
        let types = parse("order.*,#").unwrap().args.types;
        let expected = ["order.*", "#", "a"].map(|pattern| pattern.parse().unwrap());
        assert_eq!(types, expected);
        assert!(parse("order.*,**").unwrap_err().to_string().contains("a pattern"));
    }
}
