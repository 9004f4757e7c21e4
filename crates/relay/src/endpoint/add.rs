use anyhow::Context as _;
use clap::Args;
use relay_event::{EndpointId, EndpointUrl, Secret, Timestamp};
use relay_service::args::Unshown;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    changed,
    fields::{self, Fields, Restriction},
};
use crate::{
    api::Api,
    data::DataArgs,
    filter::Patterns,
    output,
    usage::Usage,
    words::{endpoint_url, from_one_to, moment_ahead},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Example: relay endpoint add --url http://127.0.0.1:9000/hook --types 'order.*' --retry 1s,5s,30s")]
pub(crate) struct AddArgs {
    /// Where deliveries are posted
    #[arg(long, value_parser = Unshown::<EndpointUrl>::new(endpoint_url))]
    url: EndpointUrl,

    /// Which event types it wants: words separated by dots, `*` for one word, `#` for any number of
    /// them; several separated by commas, or by repeating the option. A comma within a type is written '\,'
    #[arg(long, value_name = "PATTERN", required = true)]
    types: Vec<Patterns>,

    #[command(flatten)]
    restriction: Restriction,

    /// The most attempts begun in a second, for each deliverer: 1 to 100000 [default: no limit]
    #[arg(long, value_name = "N", value_parser = from_one_to::<100_000>)]
    rate_limit: Option<u32>,

    /// The secret deliveries are signed with, as whsec_… [default: a new one]
    #[arg(long)]
    secret: Option<String>,

    /// The time after which it is removed: a time such as 2026-01-31T09:30:00Z, or how long from now, such
    /// as 1h [default: never]
    #[arg(long, value_name = "TIME", value_parser = moment_ahead)]
    expires_at: Option<Timestamp>,

    #[command(flatten)]
    fields: Fields,

    /// Print the relay's answer as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,
}

impl AddArgs {
    fn request(&self) -> Result<Value, Usage> {
        let mut request = Map::new();
        fields::put_target(&mut request, Some(&self.url), &self.types);
        self.restriction.put(&mut request);
        if let Some(secret) = fields::secret(self.secret.as_deref())? {
            request.insert("secret".to_owned(), json!(secret));
        }
        if let Some(rate) = self.rate_limit {
            request.insert("rate_limit".to_owned(), json!(rate));
        }
        if let Some(time) = self.expires_at {
            request.insert("expires_at".to_owned(), json!(time));
        }
        self.fields.put(&mut request)?;
        Ok(request.into())
    }
}

const MAYBE_ADDED: &str = "the endpoint may have been added: `relay endpoint list` shows it, \
    `relay endpoint remove ID` takes it away";

#[derive(Deserialize)]
struct Added {
    id: EndpointId,
    secret: Secret,
}

pub(super) async fn run(args: AddArgs) -> anyhow::Result<()> {
    let request = args.request()?;
    let api = Api::connect(&args.data)?;
    let adding = async { Ok(api.post(&["v1", "endpoints"], &request).await?) };
    let answer = changed(adding, MAYBE_ADDED).await?;
    if args.json {
        return output::say_json(&answer);
    }
    let added: Added = serde_json::from_slice(&answer)
        .context("the endpoint was added, but the relay's answer is not understood")?;
    let facts = [("id", added.id.to_string()), ("secret", added.secret.to_string())];
    output::say_done(
        &output::block(&facts),
        &format!(
            "{0} was added: `relay endpoint rotate-secret {0}` makes another secret",
            added.id
        ),
    );
    output::note(
        "Give the secret to whoever checks the signatures. Later only the API shows it: GET /v1/endpoints/ID/secrets.",
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AddArgs,
    }

    fn request(options: &[&str]) -> Value {
        let line = ["add", "--url", "http://127.0.0.1:9000/hook"];
        let line = Line::try_parse_from(line.iter().chain(options)).unwrap();
        line.args.request().unwrap()
    }

    #[test]
    fn the_least_is_a_url_and_types() {
        assert_eq!(
            request(&["--types", r"order.*,a.b,c\,d", "--types", "#"]),
            json!({"url": "http://127.0.0.1:9000/hook", "types": ["order.*", "a.b", "c,d", "#"]})
        );
    }

    #[test]
    fn every_option_arrives() {
        let secret = Secret::generate().to_string();
        let sent = request(&[
            "--types",
            "a",
            "--source",
            "/imports",
            "--subject",
            "import-42",
            "--retry",
            "1s,5s",
            "--timeout",
            "1500ms",
            "--max-in-flight",
            "4",
            "--rate-limit",
            "9",
            "--header",
            "X-A: b",
            "--signature",
            "plain",
            "--secret",
            &secret,
            "--expires-at",
            "2099-12-31T01:00:00+01:00",
            "--paused",
        ]);
        assert_eq!(
            sent,
            json!({
                "url": "http://127.0.0.1:9000/hook", "types": ["a"], "source": "/imports",
                "subject": "import-42", "retry": ["1s", "5s"],
                "timeout_ms": 1500, "max_in_flight": 4, "rate_limit": 9, "headers": {"x-a": "b"},
                "signature": "plain", "secret": secret, "paused": true,
                "expires_at": "2099-12-31T00:00:00.000Z"
            })
        );
        assert_eq!(request(&["--types", "a", "--retry", "none"])["retry"], json!([]));
    }
}
