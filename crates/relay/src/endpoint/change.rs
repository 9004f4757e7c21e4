use clap::Args;
use relay_event::{EndpointId, EndpointUrl, Timestamp};
use relay_service::args::Unshown;
use serde_json::{Map, Value, json};

use super::{
    One, about_one, changed, endpoint_id,
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
Example: relay endpoint update ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70 --types 'order.#' --rate-limit none")]
pub(crate) struct UpdateArgs {
    /// The endpoint's id
    #[arg(value_name = "ID", value_parser = endpoint_id)]
    id: EndpointId,

    /// Where deliveries are posted
    #[arg(long, value_parser = Unshown::<EndpointUrl>::new(endpoint_url))]
    url: Option<EndpointUrl>,

    /// Which event types it wants, instead of those so far
    #[arg(long, value_name = "PATTERN")]
    types: Vec<Patterns>,

    #[command(flatten)]
    restriction: Restriction,

    /// Events of any source, not of one alone any more
    #[arg(long, conflicts_with = "source")]
    any_source: bool,

    /// Events about any subject and about none, not about one alone any more
    #[arg(long, conflicts_with = "subject")]
    any_subject: bool,

    /// The most attempts begun in a second, for each deliverer: 1 to 100000, or `none`
    #[arg(long, value_name = "N", value_parser = rate_limit)]
    rate_limit: Option<RateLimit>,

    /// The time after which it is removed: a time such as 2026-01-31T09:30:00Z, or how long from now, such
    /// as 1h, or `never`
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires_at: Option<Expiry>,

    #[command(flatten)]
    fields: Fields,

    /// Send no headers of its own any more
    #[arg(long, conflicts_with = "headers")]
    no_headers: bool,

    /// Print the relay's answer as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,
}

/// A limit, or that there is none.
#[derive(Debug, Clone, Copy)]
struct RateLimit(Option<u32>);

fn rate_limit(text: &str) -> Result<RateLimit, String> {
    match text {
        "none" => Ok(RateLimit(None)),
        number => from_one_to::<100_000>(number)
            .map(|limit| RateLimit(Some(limit)))
            .map_err(|problem| format!("{problem}, or `none`")),
    }
}

/// A time, or that there is none.
#[derive(Debug, Clone, Copy)]
struct Expiry(Option<Timestamp>);

fn expiry(text: &str) -> Result<Expiry, String> {
    match text {
        "never" => Ok(Expiry(None)),
        time => moment_ahead(time)
            .map(|time| Expiry(Some(time)))
            .map_err(|problem| format!("{problem}, or `never`")),
    }
}

impl UpdateArgs {
    fn request(&self) -> Result<Value, Usage> {
        let mut request = Map::new();
        fields::put_target(&mut request, self.url.as_ref(), &self.types);
        self.restriction.put(&mut request);
        for (name, is_any) in [("source", self.any_source), ("subject", self.any_subject)] {
            if is_any {
                request.insert(name.to_owned(), Value::Null);
            }
        }
        self.fields.put(&mut request)?;
        if let Some(RateLimit(limit)) = self.rate_limit {
            request.insert("rate_limit".to_owned(), json!(limit));
        }
        if let Some(Expiry(time)) = self.expires_at {
            request.insert("expires_at".to_owned(), json!(time));
        }
        if self.no_headers {
            request.insert("headers".to_owned(), json!({}));
        }
        if request.is_empty() {
            return Err(Usage::new("update", "names nothing to change; see --help"));
        }
        Ok(request.into())
    }
}

pub(super) async fn update(args: UpdateArgs) -> anyhow::Result<()> {
    let request = args.request()?;
    let path = ["v1", "endpoints", args.id.as_str()];
    let api = Api::connect(&args.data)?;
    let updating = async { api.patch(&path, &request).await.map_err(about_one) };
    let answer = changed(updating, &maybe(&args.id, "updated")).await?;
    if args.json {
        output::say_json(&answer)?;
    } else {
        output::say(&format!("{} updated", args.id));
    }
    Ok(())
}

pub(super) async fn pause(one: One) -> anyhow::Result<()> {
    set_paused(&one, true).await?;
    output::say(&format!("{} paused; its events wait", one.id));
    Ok(())
}

pub(super) async fn resume(one: One) -> anyhow::Result<()> {
    set_paused(&one, false).await?;
    output::say(&format!("{} resumed", one.id));
    Ok(())
}

async fn set_paused(one: &One, paused: bool) -> anyhow::Result<()> {
    let path = ["v1", "endpoints", one.id.as_str()];
    let (api, request) = (Api::connect(&one.data)?, json!({ "paused": paused }));
    let changing = async { api.patch(&path, &request).await.map_err(about_one) };
    let done = if paused { "paused" } else { "resumed" };
    changed(changing, &maybe(&one.id, done)).await.map(drop)
}

pub(super) async fn remove(one: One) -> anyhow::Result<()> {
    let path = ["v1", "endpoints", one.id.as_str()];
    let api = Api::connect(&one.data)?;
    let removing = async { api.delete(&path).await.map_err(about_one) };
    changed(removing, &maybe(&one.id, "removed")).await?;
    output::say(&format!("{} removed", one.id));
    Ok(())
}

fn maybe(id: &EndpointId, done: &str) -> String {
    format!("{id} may have been {done}: `relay endpoint show {id}` shows how it is")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: UpdateArgs,
    }

    fn request(options: &[&str]) -> Result<Value, Usage> {
        let line = ["update", "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70"];
        let line = Line::try_parse_from(line.iter().chain(options)).unwrap();
        line.args.request()
    }

    #[test]
    fn only_what_changes_is_sent() {
        assert_eq!(
            request(&["--types", "a,b"]).unwrap(),
            json!({"types": ["a", "b"]})
        );
        assert_eq!(
            request(&["--timeout", "2s"]).unwrap(),
            json!({"timeout_ms": 2000})
        );
        assert!(request(&[]).is_err());
    }

    #[test]
    fn source_and_subject_are_set_and_cleared() {
        assert_eq!(
            request(&["--source", "/imports", "--any-subject"]).unwrap(),
            json!({"source": "/imports", "subject": null})
        );
        assert_eq!(
            request(&["--subject", "import-42", "--any-source"]).unwrap(),
            json!({"source": null, "subject": "import-42"})
        );
        let both = [
            "update",
            "ep_0198b7a0c5d07d3f8a6e2b4c1d9e8f70",
            "--source",
            "/a",
            "--any-source",
        ];
        assert!(Line::try_parse_from(both).is_err());
    }

    #[test]
    fn limits_and_headers_can_be_cleared() {
        assert_eq!(
            request(&["--rate-limit", "none"]).unwrap(),
            json!({"rate_limit": null})
        );
        assert_eq!(request(&["--rate-limit", "5"]).unwrap(), json!({"rate_limit": 5}));
        assert_eq!(
            request(&["--expires-at", "never"]).unwrap(),
            json!({"expires_at": null})
        );
        assert_eq!(
            request(&["--expires-at", "2099-12-31T00:00:00Z"]).unwrap(),
            json!({"expires_at": "2099-12-31T00:00:00.000Z"})
        );
        assert_eq!(request(&["--no-headers"]).unwrap(), json!({"headers": {}}));
    }

    #[test]
    fn an_abbreviated_id_says_how_to_find_the_whole_one() {
        assert!(
            endpoint_id("ep_0198")
                .unwrap_err()
                .contains("relay endpoint list")
        );
    }
}
