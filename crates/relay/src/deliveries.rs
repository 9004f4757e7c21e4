//! Deliveries, each one event on its way to one endpoint: how they stand by the relay's log.

use clap::{Args, Subcommand};
use relay_event::{DeadReason, DeliveryState, EndpointId, ErrorClass, EventId, EventType, Timestamp};
use serde::Deserialize;

use crate::{
    api::Query,
    endpoint::endpoint_id,
    listing::{Columns, Listing, Period},
    words::{ago, due, or_dash, outcome},
};

#[derive(Debug, Subcommand)]
pub(crate) enum DeliveriesCommand {
    /// List deliveries, those of the newest events first
    List(ListArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay deliveries list --state dead --since 1h
  relay deliveries list --endpoint ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70 --all --json | jq -r .event")]
pub(crate) struct ListArgs {
    /// Only to this endpoint
    #[arg(long, value_name = "ID", value_parser = endpoint_id)]
    endpoint: Option<EndpointId>,

    /// Only those that stand so: pending, retrying, dead or delivered
    #[arg(long)]
    state: Option<DeliveryState>,

    #[command(flatten)]
    period: Period,

    #[command(flatten)]
    listing: Listing,
}

impl ListArgs {
    fn query(&self) -> Query {
        let query = Query::default()
            .with("endpoint", self.endpoint.as_ref())
            .with("state", self.state);
        self.period.on(query)
    }
}

pub(crate) async fn run(command: DeliveriesCommand) -> anyhow::Result<()> {
    let DeliveriesCommand::List(args) = command;
    let path = ["v1", "deliveries"];
    args.listing.print(&path, args.query(), &COLUMNS).await
}

/// A delivery in the list of all.
#[derive(Deserialize)]
struct Listed {
    event: EventId,
    r#type: EventType,
    #[serde(flatten)]
    delivery: Delivery,
}

const COLUMNS: Columns<Listed, 8> = Columns {
    noun: "deliveries",
    head: [
        "EVENT", "TYPE", "ENDPOINT", "STATE", "TRIES", "WHEN", "LAST", "REASON",
    ],
    row: |listed, now| {
        let [endpoint, state, tries, when, last, reason] = listed.delivery.row(now);
        let (id, event_type) = (listed.event.to_string(), listed.r#type.to_string());
        [id, event_type, endpoint, state, tries, when, last, reason]
    },
};

/// How one delivery stands.
#[derive(Deserialize)]
pub(crate) struct Delivery {
    endpoint: EndpointId,
    state: DeliveryState,
    attempts: u32,
    at: Timestamp,
    next_at: Option<Timestamp>,
    reason: Option<DeadReason>,
    status: Option<u16>,
    error: Option<ErrorClass>,
}

impl Delivery {
    pub(crate) const HEAD: [&str; 6] = ["ENDPOINT", "STATE", "TRIES", "WHEN", "LAST", "REASON"];

    /// Whether it stands so.
    pub(crate) fn is(&self, state: DeliveryState) -> bool {
        self.state == state
    }

    /// As a row of a table.
    pub(crate) fn row(&self, now: Timestamp) -> [String; 6] {
        [
            self.endpoint.to_string(),
            self.state.to_string(),
            self.attempts.to_string(),
            self.when(now),
            or_dash(outcome(self.status, self.error)),
            or_dash(self.reason),
        ]
    }

    /// When it goes on, or else since when it stands so: 1970 is said where nobody knows.
    fn when(&self, now: Timestamp) -> String {
        match self.next_at {
            Some(next) => due(next, now),
            None => or_dash((self.at > Timestamp::default()).then(|| ago(self.at, now))),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;
    use crate::output;

    const ID: &str = "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70";

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ListArgs,
    }

    fn listed(mut json: Value) -> Listed {
        for (name, value) in [
            ("event", "a/b"),
            ("source", "/s"),
            ("type", "t"),
            ("endpoint", ID),
        ] {
            json[name] = value.into();
        }
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_table_says_when_and_how_it_ended_or_goes_on() {
        let now: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        let rows = [
            json!({"state": "pending", "attempts": 0, "at": "1970-01-01T00:00:00.000Z"}),
            json!({"state": "retrying", "attempts": 2, "at": "2026-01-31T09:29:00Z",
                "next_at": "2026-01-31T09:35:00Z", "error": "timeout"}),
            json!({"state": "dead", "attempts": 6, "at": "2026-01-31T08:25:00Z",
                "reason": "attempts_exhausted", "status": 500}),
        ]
        .map(|json| (COLUMNS.row)(&listed(json), now));
        let expected = format!(
            "\
EVENT  TYPE  ENDPOINT                             STATE     TRIES  WHEN      LAST     REASON
a/b    t     {ID}  pending   0      -         -        -
a/b    t     {ID}  retrying  2      in 5m     timeout  -
a/b    t     {ID}  dead      6      1h5m ago  500      attempts_exhausted"
        );
        assert_eq!(output::table(COLUMNS.head, &rows), expected);
    }

    #[test]
    fn what_is_given_must_be_what_it_is_meant_to_be() {
        let line = |option: &'static str, value: &'static str| {
            Line::try_parse_from(["list", option, value]).map_err(|error| error.to_string())
        };
        for (option, value) in [
            ("--endpoint", ID),
            ("--state", "dead"),
            ("--since", "1h"),
            ("--limit", "5"),
        ] {
            assert!(line(option, value).is_ok(), "{option}");
        }
        for (option, value, says) in [
            ("--endpoint", "ep_1", "relay endpoint list"),
            ("--state", "lost", "pending, retrying, dead, delivered"),
            ("--since", "yesterday", "how long ago"),
            ("--limit", "0", "from 1 on"),
        ] {
            let refused = line(option, value).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
        let both = Line::try_parse_from(["list", "--limit", "5", "--all"]);
        assert!(both.unwrap_err().to_string().contains("cannot be used with"));
    }
}
