//! Deliveries of an event that wait are tried now, or canceled.

use clap::Args;
use relay_event::EndpointId;
use serde::Deserialize;
use serde_json::json;

use super::{One, about_one};
use crate::{
    api::{Api, understand},
    data::DataArgs,
    endpoint::endpoint_id,
    output,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Example: relay events retry 0198b7a0-c5d0-7d3f-8a6e-2b4c1d9e8f70

Each begins its schedule anew. What is paused or disabled waits on.")]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example: relay events cancel 0198b7a0-c5d0-7d3f-8a6e-2b4c1d9e8f70

An attempt that is under way goes on. A canceled delivery is sent again by `relay events replay` alone.")]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    of: Of,
}

/// The waiting deliveries of an event.
#[derive(Debug, Args)]
struct Of {
    #[command(flatten)]
    one: One,

    /// Only the delivery to this endpoint
    #[arg(long, value_name = "ID", value_parser = endpoint_id)]
    endpoint: Option<EndpointId>,

    #[command(flatten)]
    data: DataArgs,
}

#[derive(Deserialize)]
struct Changed {
    endpoints: Vec<EndpointId>,
}

pub(super) async fn retry(args: RetryArgs) -> anyhow::Result<()> {
    args.of.ask("retry", "tried now").await
}

pub(super) async fn cancel(args: CancelArgs) -> anyhow::Result<()> {
    args.of.ask("cancel", "canceled").await
}

impl Of {
    async fn ask(&self, what: &str, done: &str) -> anyhow::Result<()> {
        let [version, events, id] = self.one.path();
        let body = match &self.endpoint {
            Some(endpoint) => json!({ "endpoint": endpoint }),
            None => json!({}),
        };
        let answer = Api::connect(&self.data)?
            .post_with(&[version, events, id, what], &self.one.query(), &body)
            .await
            .map_err(about_one)?;
        let Changed { endpoints } = understand(&answer)?;
        output::say(&summary(id, &endpoints, done));
        Ok(())
    }
}

fn summary(id: &str, endpoints: &[EndpointId], done: &str) -> String {
    if endpoints.is_empty() {
        return format!("no delivery of {id} waits");
    }
    let number = output::deliveries(endpoints.len() as u64);
    let ids: Vec<&str> = endpoints.iter().map(EndpointId::as_str).collect();
    format!("{number} of {id} {done}: {}", ids.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_whose_deliveries_waited() {
        assert_eq!(summary("a", &[], "canceled"), "no delivery of a waits");
        let [one, other] = [1, 2].map(|number| EndpointId::from_bytes([number; 16]));
        assert_eq!(
            summary("a", std::slice::from_ref(&one), "canceled"),
            format!("1 delivery of a canceled: {one}")
        );
        assert_eq!(
            summary("a", &[one.clone(), other.clone()], "tried now"),
            format!("2 deliveries of a tried now: {one}, {other}")
        );
    }
}
