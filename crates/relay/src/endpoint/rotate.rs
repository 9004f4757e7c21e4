use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use relay_event::{EndpointId, Secret, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{about_one, changed, endpoint_id, fields};
use crate::{api::Api, data::DataArgs, output, usage::Usage};

#[derive(Debug, Args)]
#[command(after_help = "\
Example: relay endpoint rotate-secret ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70 --overlap 1h")]
pub(crate) struct RotateArgs {
    /// The endpoint's id
    #[arg(value_name = "ID", value_parser = endpoint_id)]
    id: EndpointId,

    /// How long the secrets so far sign as well [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = relay_service::args::time_or_none)]
    overlap: Option<Duration>,

    /// The new secret, as whsec_… [default: a new one]
    #[arg(long)]
    secret: Option<String>,

    /// Print the relay's answer as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,
}

impl RotateArgs {
    fn request(&self) -> Result<Value, Usage> {
        let mut request = Map::new();
        if let Some(secret) = fields::secret(self.secret.as_deref())? {
            request.insert("secret".to_owned(), json!(secret));
        }
        if let Some(overlap) = self.overlap {
            let overlap = humantime::format_duration(overlap).to_string();
            request.insert("overlap".to_owned(), json!(overlap));
        }
        Ok(request.into())
    }
}

#[derive(Deserialize)]
struct Rotated {
    secret: Secret,
    #[serde(default)]
    previous_expires_at: Option<Timestamp>,
}

pub(super) async fn run(args: RotateArgs) -> anyhow::Result<()> {
    let request = args.request()?;
    let path = ["v1", "endpoints", args.id.as_str(), "rotate-secret"];
    let api = Api::connect(&args.data)?;
    let rotating = async { api.post(&path, &request).await.map_err(about_one) };
    let maybe = "the secret may be another one, which was not shown: the same command makes a new one again";
    let answer = changed(rotating, maybe).await?;
    if args.json {
        return output::say_json(&answer);
    }
    let rotated: Rotated = serde_json::from_slice(&answer)
        .context("the secret was rotated, but the relay's answer is not understood")?;
    let mut facts = vec![("secret", rotated.secret.to_string())];
    if let Some(end) = rotated.previous_expires_at {
        facts.push(("previous signs until", end.to_string()));
    }
    output::say_done(
        &output::block(&facts),
        "the secret was rotated: the same command makes a new one again",
    );
    output::note(
        "Give the secret to whoever checks the signatures. Later only the API shows it: GET /v1/endpoints/ID/secrets.",
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_holds_what_was_given() {
        let mut args = RotateArgs {
            id: EndpointId::generate(),
            overlap: None,
            secret: None,
            json: false,
            data: DataArgs::default(),
        };
        assert_eq!(args.request().unwrap(), json!({}));
        args.overlap = Some(Duration::from_secs(5_400));
        args.secret = Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        assert_eq!(
            args.request().unwrap(),
            json!({"overlap": "1h 30m", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
        );
    }
}
