use clap::Args;
use relay_event::EndpointId;
use serde::Deserialize;
use serde_json::json;

use super::One;
use crate::{
    api::{Api, understand},
    data::DataArgs,
    endpoint::endpoint_id,
    output,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Example: relay events replay 0198b7a0-c5d0-7d3f-8a6e-2b4c1d9e8f70")]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    one: One,

    /// Only to this endpoint; it must want the type now, or have been sent the event before
    #[arg(long, value_name = "ID", value_parser = endpoint_id)]
    endpoint: Option<EndpointId>,

    #[command(flatten)]
    data: DataArgs,
}

#[derive(Deserialize)]
struct Replayed {
    endpoints: Vec<EndpointId>,
}

pub(super) async fn run(args: ReplayArgs) -> anyhow::Result<()> {
    let [version, events, id] = args.one.path();
    let body = match &args.endpoint {
        Some(endpoint) => json!({ "endpoint": endpoint }),
        None => json!({}),
    };
    let answer = Api::connect(&args.data)?
        .post_with(&[version, events, id, "replay"], &args.one.query(), &body)
        .await
        .map_err(|error| error.or_missing(HINT))?;
    let Replayed { endpoints } = understand(&answer)?;
    output::say(&summary(id, &endpoints));
    Ok(())
}

const HINT: &str = "`relay events list` and `relay endpoint list` show what there is";

fn summary(id: &str, endpoints: &[EndpointId]) -> String {
    if endpoints.is_empty() {
        return format!("{id} goes to nobody: no endpoint wants its type now");
    }
    let number = output::count(endpoints.len() as u64, "endpoint");
    let ids: Vec<&str> = endpoints.iter().map(EndpointId::as_str).collect();
    format!("{id} replayed to {number}: {}", ids.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_who_gets_it() {
        assert!(summary("a", &[]).starts_with("a goes to nobody"));
        let endpoint = EndpointId::generate();
        assert_eq!(
            summary("a", std::slice::from_ref(&endpoint)),
            format!("a replayed to 1 endpoint: {endpoint}")
        );
    }
}
