use std::time::Duration;

use relay_event::{EndpointId, Secret};
use serde::Deserialize;
use tokio::time::timeout;
use url::{Host, Url};

use crate::{api::Api, data::DataArgs, found::is_loopback};

/// A relay that is slow to answer must not hold up deliveries.
const PATIENCE: Duration = Duration::from_secs(2);

/// The relay whose endpoints point here, found anew each time: it may be started later.
pub(super) struct Relay {
    data: DataArgs,
    port: u16,
}

/// What the relay said.
pub(super) enum Answer {
    /// The secrets of all endpoints that point here.
    Secrets(Vec<Secret>),
    /// Nothing, and why.
    None(String),
}

#[derive(Deserialize)]
struct Endpoints {
    endpoints: Vec<Pointing>,
}

#[derive(Deserialize)]
struct Pointing {
    id: EndpointId,
    url: Url,
}

#[derive(Deserialize)]
struct Secrets {
    secrets: Vec<Held>,
}

#[derive(Deserialize)]
struct Held {
    secret: Secret,
}

impl Relay {
    pub(super) fn new(data: DataArgs, port: u16) -> Self {
        Self { data, port }
    }

    /// Asks for the secrets.
    pub(super) async fn secrets(&self) -> Answer {
        let asked = timeout(PATIENCE, self.ask()).await;
        match asked {
            Ok(Ok(Some(secrets))) => Answer::Secrets(secrets),
            Ok(Ok(None)) => Answer::None("no relay runs here, and no --secret is given".to_owned()),
            Ok(Err(error)) => Answer::None(format!("{error:#}")),
            Err(_) => Answer::None(format!(
                "the relay did not answer within {} s",
                PATIENCE.as_secs()
            )),
        }
    }

    async fn ask(&self) -> anyhow::Result<Option<Vec<Secret>>> {
        let Some(found) = self.data.http_if_any()? else {
            return Ok(None);
        };
        let api = Api::new(found)?;
        let all: Endpoints = api.read(&["v1", "endpoints"]).await?;
        let mut known = Vec::new();
        for endpoint in all.endpoints {
            if points_here(&endpoint.url, self.port) {
                let path = ["v1", "endpoints", endpoint.id.as_str(), "secrets"];
                let held: Secrets = api.read(&path).await?;
                known.extend(held.secrets.into_iter().map(|held| held.secret));
            }
        }
        Ok(Some(known))
    }
}

/// Whether a POST to this URL may come in at 127.0.0.1 and this port: by a loopback address, or from
/// a container through its host's name.
fn points_here(url: &Url, port: u16) -> bool {
    let from_container = url.host() == Some(Host::Domain("host.docker.internal"));
    url.port_or_known_default() == Some(port) && (is_loopback(url) || from_container)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_point_here() {
        let here = |text: &str| points_here(&text.parse().unwrap(), 9000);
        for url in [
            "http://127.0.0.1:9000/hook",
            "http://localhost:9000",
            "http://[::1]:9000/",
            "http://host.docker.internal:9000/",
        ] {
            assert!(here(url), "{url}");
        }
        for url in [
            "http://127.0.0.1:9001/",
            "http://example.com:9000/",
            "http://10.0.0.1:9000/",
            "http://localhost/",
        ] {
            assert!(!here(url), "{url}");
        }
    }
}
