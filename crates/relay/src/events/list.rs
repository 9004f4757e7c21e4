use clap::Args;
use relay_event::{EventId, EventType, Timestamp};
use serde::Deserialize;

use crate::{
    api::Query,
    filter::Filter,
    listing::{Columns, Listing, Period},
    words::{ago, or_dash},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay events list --type 'order.*' --since 1h
  relay events list --source /orders --all --json | jq -r .id")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: Filter,

    #[command(flatten)]
    period: Period,

    #[command(flatten)]
    listing: Listing,
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<()> {
    let path = ["v1", "events"];
    let query = args.period.on(args.filter.on(Query::default()));
    args.listing.print(&path, query, &COLUMNS).await
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
    use serde_json::json;

    use super::*;
    use crate::output;

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
}
