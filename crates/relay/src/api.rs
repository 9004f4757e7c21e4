//! The relay's HTTP API, as its client.

mod error;
mod follow;
mod pages;
mod patience;
mod query;

pub(crate) use error::{ApiError, of_option};
pub(crate) use follow::{Follow, Item, Next, Page, Place};
pub(crate) use pages::Pages;
pub(crate) use patience::{Patience, long_after};
pub(crate) use query::Query;

use std::{error::Error, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use reqwest::{
    Client, Method, RequestBuilder, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER},
    redirect::Policy,
};
use serde::de::DeserializeOwned;
use url::Url;

use crate::{
    data::{DataArgs, Token},
    found::{HttpRelay, NOBODY_THERE, is_loopback, without_password},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);

/// What an event is posted as.
pub(crate) const EVENT: &str = "application/cloudevents+json";
const JSON: &str = "application/json";

/// A relay's HTTP API; connections are kept alive. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
    url: Url,
    token: Token,
    token_of: &'static str,
}

/// An answer that the relay may have held back.
pub(crate) struct Held {
    pub(crate) body: Bytes,
    /// How long to wait before it is worth asking again, if the relay says.
    pub(crate) retry_after: Option<Duration>,
}

/// Reads a part of an answer, or the whole of it.
pub(crate) fn understand<T: DeserializeOwned>(json: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(json).context("the relay's answer is not understood; are they of one version?")
}

impl Api {
    /// The API of this relay. Nothing is sent yet.
    pub(crate) fn new(relay: HttpRelay) -> anyhow::Result<Self> {
        let mut client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(Policy::none());
        if is_loopback(&relay.url) {
            client = client.no_proxy();
        }
        Ok(Self {
            client: client.build().context("cannot make an HTTP client")?,
            url: relay.url,
            token: relay.token,
            token_of: relay.token_of,
        })
    }

    /// The API of the relay that is meant here. Nothing is sent yet.
    pub(crate) fn connect(data: &DataArgs) -> anyhow::Result<Self> {
        Self::new(data.http()?)
    }

    /// Asks for something.
    pub(crate) async fn get(&self, path: &[&str]) -> Result<Bytes, ApiError> {
        self.send(Method::GET, self.at(path), None).await
    }

    /// Asks for something, more exactly.
    pub(crate) async fn get_with(&self, path: &[&str], query: &Query) -> Result<Bytes, ApiError> {
        self.send(Method::GET, query.on(self.at(path)), None).await
    }

    /// Asks for something and reads it.
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<T> {
        understand(&self.get(path).await?)
    }

    /// Creates something, or has something done.
    pub(crate) async fn post(&self, path: &[&str], json: &serde_json::Value) -> Result<Bytes, ApiError> {
        self.post_with(path, &Query::default(), json).await
    }

    /// Has something done, more exactly.
    pub(crate) async fn post_with(
        &self,
        path: &[&str],
        query: &Query,
        json: &serde_json::Value,
    ) -> Result<Bytes, ApiError> {
        let body = (JSON, json.to_string().into());
        self.send(Method::POST, query.on(self.at(path)), Some(body)).await
    }

    /// Changes something.
    pub(crate) async fn patch(&self, path: &[&str], json: &serde_json::Value) -> Result<Bytes, ApiError> {
        let body = (JSON, json.to_string().into());
        self.send(Method::PATCH, self.at(path), Some(body)).await
    }

    /// Removes something.
    pub(crate) async fn delete(&self, path: &[&str]) -> Result<Bytes, ApiError> {
        self.send(Method::DELETE, self.at(path), None).await
    }

    /// Publishes an event; whether it had been published before, so that it was not sent again.
    pub(crate) async fn publish(&self, event: Bytes) -> Result<bool, ApiError> {
        let url = self.at(&["v1", "events"]);
        let (headers, _) = self.answer(Method::POST, url, Some((EVENT, event))).await?;
        Ok(headers.contains_key("idempotent-replayed"))
    }

    /// Publishes an event in short form, as [`Api::publish`] does; with the answer.
    pub(crate) async fn publish_in_short(&self, event: Bytes) -> Result<(bool, Bytes), ApiError> {
        let url = self.at(&["v1", "events"]);
        let (headers, answer) = self.answer(Method::POST, url, Some((JSON, event))).await?;
        Ok((headers.contains_key("idempotent-replayed"), answer))
    }

    /// Asks for something that the relay may hold back for so many whole seconds, which it knows as `wait`.
    pub(crate) async fn held(&self, path: &[&str], query: &Query, wait: Duration) -> Result<Held, ApiError> {
        let wait_param = Some(format!("{}s", wait.as_secs()));
        let url = query.clone().with("wait", wait_param).on(self.at(path));
        let request = self.client.get(url).timeout(wait + TIMEOUT);
        let (headers, body) = self.exchange(request).await?;
        Ok(Held {
            body,
            retry_after: retry_after(&headers),
        })
    }

    async fn send(&self, method: Method, url: Url, body: Option<(&str, Bytes)>) -> Result<Bytes, ApiError> {
        Ok(self.answer(method, url, body).await?.1)
    }

    async fn answer(
        &self,
        method: Method,
        url: Url,
        body: Option<(&str, Bytes)>,
    ) -> Result<(HeaderMap, Bytes), ApiError> {
        let mut request = self.client.request(method, url);
        if let Some((content_type, body)) = body {
            request = request.header(CONTENT_TYPE, content_type).body(body);
        }
        self.exchange(request).await
    }

    async fn exchange(&self, request: RequestBuilder) -> Result<(HeaderMap, Bytes), ApiError> {
        let request = request.bearer_auth(self.token.as_str());
        let answer = request.send().await.map_err(|error| self.failed(&error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.map_err(|error| self.failed(&error))?;
        if status.is_success() {
            return Ok((headers, body));
        }
        if status == StatusCode::UNAUTHORIZED {
            let url = without_password(&self.url);
            return Err(ApiError::Unauthorized {
                url,
                token_of: self.token_of,
            });
        }
        Err(ApiError::refused(status, &body, retry_after(&headers)))
    }

    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    fn failed(&self, error: &reqwest::Error) -> ApiError {
        let (url, cause) = (without_password(&self.url), root_cause(error));
        if error.is_connect() && cause.contains(NOBODY_THERE) {
            ApiError::NotRunning { url, cause }
        } else if error.is_connect() {
            ApiError::Unreachable { url, cause }
        } else {
            ApiError::Broken { url, cause }
        }
    }
}

/// Whatever a server may ask, nobody waits longer.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_ASKED))
}

/// The innermost error: the ones around it only say that there was one.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(url: &str) -> Api {
        relay_service::install_crypto();
        Api::new(HttpRelay {
            url: url.parse().unwrap(),
            token: Token::generate(),
            token_of: "",
        })
        .unwrap()
    }

    #[test]
    fn paths_go_below_the_relay_s_url() {
        let path = ["v1", "endpoints", "a/b"];
        assert_eq!(
            api("http://127.0.0.1:7400").at(&path).as_str(),
            "http://127.0.0.1:7400/v1/endpoints/a%2Fb"
        );
        assert_eq!(
            api("https://example.com/relay/").at(&path[..1]).as_str(),
            "https://example.com/relay/v1"
        );
    }

    #[tokio::test]
    async fn nobody_there_is_said_in_plain_words() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", free.local_addr().unwrap());
        drop(free);
        let error = api(&url).get(&["v1"]).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("not to be running (Connection refused"), "{text}");
        assert!(error.passes());
    }
}
