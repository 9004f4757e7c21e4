//! The callback of an event: an endpoint for one job, which the relay adds before it publishes the event.

use bytes::Bytes;
use clap::Args;
use relay_event::{EndpointId, EndpointUrl, Event, Secret, Timestamp};
use relay_service::args::Unshown;
use serde::{Deserialize, Serialize};

use crate::{
    api::{Api, understand},
    forward, output,
    words::{endpoint_url, moment_ahead},
};

#[derive(Debug, Args)]
pub(super) struct CallbackArgs {
    /// Add an endpoint at this URL for one job, before the event is published: it gets the event and all later ones
    /// of the same source and subject, whoever publishes them, and is removed after 24 hours
    #[arg(long, value_name = "URL", requires = "subject", conflicts_with = "file",
        value_parser = Unshown::<EndpointUrl>::new(endpoint_url))]
    callback: Option<EndpointUrl>,

    /// The secret that the callback's deliveries are signed with, as whsec_… [default: a new one]
    #[arg(long, value_name = "SECRET", requires = "callback",
        value_parser = Unshown::<Secret>::new(forward::secret))]
    callback_secret: Option<Secret>,

    /// The time after which the callback is removed: a time such as 2026-01-31T09:30:00Z, or how long from now, such
    /// as 1h [default: 24h]
    #[arg(long, value_name = "TIME", requires = "callback", value_parser = moment_ahead)]
    callback_expires_at: Option<Timestamp>,
}

impl CallbackArgs {
    pub(super) fn is_given(&self) -> bool {
        self.callback.is_some()
    }

    fn request(&self) -> Option<Request<'_>> {
        self.callback.as_ref().map(|url| Request {
            url,
            secret: self.callback_secret.as_ref(),
            expires_at: self.callback_expires_at,
        })
    }
}

/// The callback of the request.
#[derive(Serialize)]
struct Request<'a> {
    url: &'a EndpointUrl,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Accepted {
    callback: Added,
}

/// The endpoint of a callback, as the relay answers it.
#[derive(Deserialize)]
pub(super) struct Added {
    id: EndpointId,
    expires_at: Option<Timestamp>,
    #[serde(default)]
    removed: bool,
    secret: Option<Secret>,
}

/// Publishes an event with the callback that was asked for, if one was: whether the event had been published before,
/// and the callback's endpoint.
pub(super) async fn publish(
    api: &Api,
    event: &Event,
    args: &CallbackArgs,
) -> anyhow::Result<(bool, Option<Added>)> {
    let Some(request) = args.request() else {
        return Ok((api.publish(event.body().clone()).await?, None));
    };
    let (replayed, answer) = api.publish_in_short(beside(event, &request)?).await?;
    let Accepted { callback } = understand(&answer)?;
    Ok((replayed, Some(callback)))
}

/// The event with the callback beside its attributes, which stay byte for byte.
fn beside(event: &Event, request: &Request<'_>) -> anyhow::Result<Bytes> {
    let callback = serde_json::to_vec(request)?;
    let attributes = event.body().strip_prefix(b"{").unwrap_or_default();
    Ok([br#"{"callback":"#, &callback[..], b",", attributes]
        .concat()
        .into())
}

impl Added {
    /// Prints what the callback is, and its secret if that is new.
    pub(super) fn say(&self) {
        let mut facts = vec![("callback", self.id.to_string())];
        if let Some(time) = self.expires_at {
            facts.push(("expires_at", time.to_string()));
        }
        if let Some(secret) = &self.secret {
            facts.push(("secret", secret.to_string()));
        }
        let done = format!(
            "the callback {0} was added: `relay endpoint rotate-secret {0}` makes another secret",
            self.id
        );
        output::say_done(&output::block(&facts), &done);
        if self.removed {
            output::note("the callback was added before, and is removed by now: the event does not go there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_stays_as_it_is_beside_its_callback() {
        let body =
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"a","subject":"t","data":{"n": 1.50}}"#;
        let event = Event::parse(body.into()).unwrap();
        let url = "https://example.com/jobs".parse().unwrap();
        let secret = Secret::generate();
        let request = Request {
            url: &url,
            secret: Some(&secret),
            expires_at: None,
        };
        let expected = format!(
            r#"{{"callback":{{"url":"https://example.com/jobs","secret":"{secret}"}},{}"#,
            &body[1..]
        );
        assert_eq!(beside(&event, &request).unwrap(), expected);
    }
}
