use clap::Args;
use relay_event::EndpointId;
use serde::Deserialize;
use serde_json::json;

use super::{about_one, endpoint_id};
use crate::{
    api::{Api, understand},
    data::DataArgs,
    output,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Example: relay endpoint retry ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70

Each delivery begins its schedule anew. What is held because the endpoint's circuit is open is tried at once, too. A
paused or disabled endpoint gets nothing: `relay endpoint resume` has it served again.")]
pub(crate) struct RetryArgs {
    /// The endpoint's id
    #[arg(value_name = "ID", value_parser = endpoint_id)]
    id: EndpointId,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Deserialize)]
struct Page {
    retried: u64,
    next: Option<String>,
}

pub(super) async fn run(args: RetryArgs) -> anyhow::Result<()> {
    let api = Api::connect(&args.data)?;
    let path = ["v1", "endpoints", args.id.as_str(), "retry"];
    let (mut retried, mut cursor) = (0, None::<String>);
    loop {
        let body = match &cursor {
            Some(cursor) => json!({ "cursor": cursor }),
            None => json!({}),
        };
        let page: Page = understand(&api.post(&path, &body).await.map_err(about_one)?)?;
        retried += page.retried;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    output::say(&summary(&args.id, retried));
    Ok(())
}

fn summary(id: &EndpointId, retried: u64) -> String {
    match retried {
        0 => format!("no delivery to {id} waits for a retry; what is held for it is tried now"),
        number => format!("{} to {id} tried now", output::deliveries(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts() {
        let id = EndpointId::from_bytes([1; 16]);
        assert_eq!(summary(&id, 2), format!("2 deliveries to {id} tried now"));
        assert!(summary(&id, 0).starts_with("no delivery to"));
    }
}
