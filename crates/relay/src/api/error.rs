use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use url::Url;

use crate::{
    found::{is_loopback, start_command},
    usage::Usage,
};

/// A request that did not do what it was made for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No connection was made.
    #[error("the relay at {url} seems not to be running ({cause}){}", how_to_start(url))]
    NotRunning {
        /// The address at which it was looked for.
        url: Url,
        /// Why.
        cause: String,
    },
    /// Somebody is there, or nobody is known by that name, and no connection was made.
    #[error("cannot connect to the relay at {url} ({cause}){}", is_it_tls(url))]
    Unreachable {
        /// The address at which it was looked for.
        url: Url,
        /// Why.
        cause: String,
    },
    /// The token is not the relay's.
    #[error(
        "{token_of} is not the token of the relay at {url}; its token is in the file `token` of its data folder"
    )]
    Unauthorized {
        /// The address of the relay.
        url: Url,
        /// The source of the token, in words.
        token_of: &'static str,
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
        /// How long to wait before another try, if it says.
        retry_after: Option<Duration>,
        /// Where a feed goes on that was asked to go on before what is kept.
        oldest: Option<String>,
    },
}

/// A relay elsewhere is not started from here.
fn how_to_start(url: &Url) -> String {
    if is_loopback(url) {
        format!(
            "; start it with `{}`, or wait if it is just starting",
            start_command()
        )
    } else {
        String::new()
    }
}

fn is_it_tls(url: &Url) -> &'static str {
    if url.scheme() == "https" {
        "; does it speak https there, or http?"
    } else {
        ""
    }
}

/// A refusal of what an option gave, by the option's name: each as the API calls it, and as the option is
/// called. Other errors stay as they are.
pub(crate) fn of_option(error: anyhow::Error, names: &[(&str, &'static str)]) -> anyhow::Error {
    let Some(ApiError::Refused { problem, .. }) = error.downcast_ref() else {
        return error;
    };
    let refused = names
        .iter()
        .find_map(|(field, option)| Some((problem.strip_prefix(field)?.strip_prefix(": ")?, *option)));
    match refused {
        Some((problem, option)) => Usage::new(option, problem).into(),
        None => error,
    }
}

impl ApiError {
    /// What was answered instead of a success.
    pub(super) fn refused(status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> Self {
        let mut problem: Problem = serde_json::from_slice(body).unwrap_or_default();
        let oldest = problem.oldest.take();
        Self::Refused {
            status,
            problem: problem.in_words(status),
            retry_after,
            oldest,
        }
    }

    /// Whether the same request may go well later.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::NotRunning { .. } | Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Unauthorized { .. } => false,
            Self::Refused { status, .. } => matches!(
                *status,
                // The relay says 503; the others are said by what may stand before it.
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            ),
        }
    }

    /// Whether the same request may go well later, and this one is over: what broke off may be under
    /// way still.
    pub(crate) fn passes_and_is_over(&self) -> bool {
        let under_way = match self {
            Self::NotRunning { .. } | Self::Unreachable { .. } | Self::Unauthorized { .. } => false,
            Self::Broken { .. } => true,
            Self::Refused { status, .. } => {
                matches!(*status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT)
            }
        };
        self.passes() && !under_way
    }

    /// Whether the relay answered so.
    pub(crate) fn is(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }

    /// How long to wait before another try, if the relay says.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// As an error of a command about one thing: if that is not there, it says how to find it.
    pub(crate) fn or_missing(self, hint: &str) -> anyhow::Error {
        match self {
            Self::Refused {
                status: StatusCode::NOT_FOUND,
                problem,
                ..
            } => anyhow::anyhow!("{problem} ({hint})"),
            other => other.into(),
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
    oldest: Option<String>,
}

impl Problem {
    fn in_words(self, status: StatusCode) -> String {
        let words = self.detail.or(self.title);
        let words = words.unwrap_or_else(|| format!("the relay answered {status}"));
        match self.field {
            Some(field) if !words.starts_with(&format!("{field}:")) => format!("{field}: {words}"),
            _ => words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_says_of_a_relay_that_is_away_passes() {
        let refused = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            ApiError::refused(status, b"<html>", None)
        };
        for (status, passes, is_over) in [
            (400, false, false),
            (429, true, true),
            (500, false, false),
            (502, true, false),
            (503, true, true),
            (504, true, false),
        ] {
            let error = refused(status);
            assert_eq!(
                (error.passes(), error.passes_and_is_over()),
                (passes, is_over),
                "{status}"
            );
        }
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
            ..Problem::default()
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
}
