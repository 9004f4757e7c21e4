//! The relay's HTTP API, as its client.

use std::{error::Error, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use reqwest::{Client, Method, StatusCode, header::CONTENT_TYPE, redirect::Policy};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use crate::{
    data::Token,
    found::{HttpRelay, is_loopback},
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
}

/// A request that did not do what it was made for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No connection was made.
    #[error("the relay at {url} seems not to be running ({cause}); start it with `cargo xtask up`")]
    NotRunning {
        /// Where it was looked for.
        url: Url,
        /// Why.
        cause: String,
    },
    /// The connection broke before the answer was complete.
    #[error("the relay at {url} did not answer ({cause})")]
    Broken {
        /// Where it is.
        url: Url,
        /// Why.
        cause: String,
    },
    /// It answered with a problem.
    #[error("{problem}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The problem in words.
        problem: String,
    },
}

impl ApiError {
    /// Whether the same request may go well later.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::NotRunning { .. } | Self::Broken { .. } => true,
            Self::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A problem document (RFC 9457).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    field: Option<String>,
}

impl Problem {
    fn in_words(self, status: StatusCode) -> String {
        let words = self.detail.or(self.title);
        let words = words.unwrap_or_else(|| format!("the relay answered {status}"));
        let text = match self.field {
            Some(field) if !words.starts_with(&format!("{field}:")) => format!("{field}: {words}"),
            _ => words,
        };
        match status {
            StatusCode::UNAUTHORIZED => {
                format!("{text} (the token of RELAY_TOKEN, or of the data folder, is not this relay's)")
            }
            _ => text,
        }
    }
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
        })
    }

    /// Asks for something.
    pub(crate) async fn get(&self, path: &[&str]) -> Result<Bytes, ApiError> {
        self.send(Method::GET, path, None).await
    }

    /// Asks for something and reads it.
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<T> {
        let answer = self.get(path).await?;
        serde_json::from_slice(&answer)
            .context("the relay's answer is not understood; are they of one version?")
    }

    /// Creates something, or has something done.
    pub(crate) async fn post(&self, path: &[&str], json: &serde_json::Value) -> Result<Bytes, ApiError> {
        self.send(Method::POST, path, Some((JSON, json.to_string().into())))
            .await
    }

    /// Changes something.
    pub(crate) async fn patch(&self, path: &[&str], json: &serde_json::Value) -> Result<Bytes, ApiError> {
        self.send(Method::PATCH, path, Some((JSON, json.to_string().into())))
            .await
    }

    /// Removes something.
    pub(crate) async fn delete(&self, path: &[&str]) -> Result<Bytes, ApiError> {
        self.send(Method::DELETE, path, None).await
    }

    /// Publishes an event.
    pub(crate) async fn publish(&self, event: Bytes) -> Result<Bytes, ApiError> {
        self.send(Method::POST, &["v1", "events"], Some((EVENT, event)))
            .await
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        body: Option<(&str, Bytes)>,
    ) -> Result<Bytes, ApiError> {
        let mut request = self
            .client
            .request(method, self.at(path))
            .bearer_auth(self.token.as_str());
        if let Some((content_type, body)) = body {
            request = request.header(CONTENT_TYPE, content_type).body(body);
        }
        let answer = request.send().await.map_err(|error| self.failed(&error))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| self.failed(&error))?;
        if status.is_success() {
            return Ok(body);
        }
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        let problem = problem.in_words(status);
        Err(ApiError::Refused { status, problem })
    }

    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    fn failed(&self, error: &reqwest::Error) -> ApiError {
        let (url, cause) = (self.url.clone(), root_cause(error));
        if error.is_connect() {
            ApiError::NotRunning { url, cause }
        } else {
            ApiError::Broken { url, cause }
        }
    }
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

    #[test]
    fn a_problem_names_its_field() {
        let problem: Problem = serde_json::from_str(
            r#"{"title":"Bad Request","status":400,"field":"url","detail":"must be an http URL"}"#,
        )
        .unwrap();
        assert_eq!(
            problem.in_words(StatusCode::BAD_REQUEST),
            "url: must be an http URL"
        );
        let whole = Problem {
            detail: Some("url: must be an http URL".to_owned()),
            field: Some("url".to_owned()),
            title: None,
        };
        assert_eq!(
            whole.in_words(StatusCode::BAD_REQUEST),
            "url: must be an http URL"
        );
        assert_eq!(
            Problem::default().in_words(StatusCode::BAD_GATEWAY),
            "the relay answered 502 Bad Gateway"
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
