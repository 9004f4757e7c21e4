//! A relay's events at a developer's machine: no endpoint, no address that others reach.

use clap::Args;
use relay_event::{EndpointUrl, Secret};
use relay_service::args::Unshown;

use crate::{
    feed::FeedArgs,
    forward::{self, Forward},
    output,
    words::endpoint_url,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay listen --forward-to http://127.0.0.1:3000/webhooks
  RELAY_URL=https://relay.example.com RELAY_TOKEN=… \\
    relay listen --forward-to http://127.0.0.1:3000/webhooks --types 'order.*' --since 1h

Every event is posted once, in the order of the relay's log, with the same headers and signature as \
a delivery to an endpoint. What fails is printed and not tried again. While the relay or the \
connection is away it waits, and then goes on exactly where it was. Ctrl-C ends it within a second, also \
while an answer is missing, and it says on stderr where it would have gone on; a second one ends it at once.")]
pub(crate) struct ListenArgs {
    /// Where to post every event, such as http://127.0.0.1:3000/webhooks
    #[arg(long, value_name = "URL", value_parser = Unshown::<EndpointUrl>::new(endpoint_url))]
    forward_to: EndpointUrl,

    /// What deliveries are signed with, as whsec_… [default: a new one, which is printed]
    #[arg(long, env = "RELAY_SECRET", value_name = "SECRET", hide_env_values = true, value_parser = Unshown::<Secret>::new(forward::secret))]
    secret: Option<Secret>,

    /// Print a JSON object a line for each event (NDJSON), with the answer to it
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    feed: FeedArgs,
}

pub(crate) async fn run(args: ListenArgs) -> anyhow::Result<()> {
    let secret = args.secret.unwrap_or_else(|| {
        let secret = Secret::generate();
        output::note(&format!("signing with a new secret: {secret}"));
        output::note("the next run makes another, unless --secret gives it this one");
        secret
    });
    let doing = format!("posting to {}", args.forward_to);
    let forward = Forward::new(args.forward_to, secret, args.json)?;
    let listening = args.feed.follow(&doing, async |item| {
        // An answer that is no success was printed; the next one may go well.
        forward.post(item).await.map(drop)
    });
    listening.await
}
