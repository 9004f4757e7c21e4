use std::{ops::RangeInclusive, time::Duration};

use clap::{Args, ValueEnum};
use relay_event::{CustomHeaders, EndpointUrl, RetrySchedule, Secret, SignatureStyle, TypePattern};
use serde_json::{Map, Value, json};

use crate::{filter::Patterns, usage::Usage, words::from_one_to};

/// What an endpoint may be told; `add` and `update` share it.
#[derive(Debug, Default, Args)]
pub(super) struct Fields {
    /// The waits between attempts, such as 1s,5s,30s, or `none` for a single attempt; a new endpoint
    /// has 30s,5m,30m,2h,24h
    #[arg(long, value_name = "DELAYS")]
    retry: Option<RetrySchedule>,

    /// For the whole exchange of an attempt, 100ms to 2m; a new endpoint has 30s
    #[arg(long, value_name = "DURATION", value_parser = attempt_timeout)]
    timeout: Option<Duration>,

    /// The most attempts under way at once, for each deliverer: 1 to 1000; a new endpoint has 32
    #[arg(long, value_name = "N", value_parser = from_one_to::<1_000>)]
    max_in_flight: Option<u32>,

    /// A header sent with every attempt, such as 'Authorization: Bearer abc'; may be repeated. Those
    /// of an update replace all it had
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,

    /// How deliveries are signed; a new endpoint has standard
    #[arg(long, value_name = "STYLE", value_enum)]
    signature: Option<Style>,

    /// Send nothing until it is resumed; its events wait
    #[arg(long)]
    paused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Style {
    /// Standard Webhooks
    Standard,
    /// X-Webhook-Signature: hexadecimal HMAC-SHA256 of the body; X-Webhook-Timestamp in RFC 3339
    Plain,
    /// The same with X-Webhook-Timestamp in seconds since 1970
    PlainSeconds,
}

impl From<Style> for SignatureStyle {
    fn from(style: Style) -> Self {
        match style {
            Style::Standard => Self::Standard,
            Style::Plain => Self::Plain,
            Style::PlainSeconds => Self::PlainSeconds,
        }
    }
}

impl Fields {
    /// Puts what was given into a request.
    pub(super) fn put(&self, request: &mut Map<String, Value>) -> Result<(), Usage> {
        let mut put = |name: &str, value: Value| drop(request.insert(name.to_owned(), value));
        if let Some(retry) = &self.retry {
            put("retry", json!(retry));
        }
        if let Some(timeout) = self.timeout {
            put("timeout_ms", json!(millis(timeout)));
        }
        if let Some(max) = self.max_in_flight {
            put("max_in_flight", json!(max));
        }
        if !self.headers.is_empty() {
            put("headers", json!(headers(&self.headers)?));
        }
        if let Some(style) = self.signature {
            put("signature", json!(SignatureStyle::from(style)));
        }
        if self.paused {
            put("paused", json!(true));
        }
        Ok(())
    }
}

fn attempt_timeout(text: &str) -> Result<Duration, String> {
    const ALLOWED: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(120);
    let timeout = humantime::parse_duration(text).ok();
    timeout
        .filter(|timeout| ALLOWED.contains(timeout))
        .ok_or_else(|| "must be a time from 100ms to 2m, such as 10s".to_owned())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `Name: value` each. A refusal does not repeat a value: it may be a credential.
fn headers(given: &[String]) -> Result<CustomHeaders, Usage> {
    let split = |(position, text): (usize, &String)| match text.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err(Usage::new(
            "--header",
            format!("must be like 'Name: value'; number {} has no colon", position + 1),
        )),
    };
    let pairs = given
        .iter()
        .enumerate()
        .map(split)
        .collect::<Result<Vec<_>, _>>()?;
    CustomHeaders::new(pairs).map_err(Usage::of("--header"))
}

/// A secret of the user's own. Parsed here and not by clap, which would show a mistyped one.
pub(super) fn secret(given: Option<&str>) -> Result<Option<Secret>, Usage> {
    given
        .map(|text| text.parse().map_err(Usage::of("--secret")))
        .transpose()
}

/// The source and the subject of the events that an endpoint wants; `add` and `update` share them.
#[derive(Debug, Default, Args)]
pub(super) struct Restriction {
    /// Only events of this source, compared as text
    #[arg(long)]
    source: Option<String>,

    /// Only events about this subject, compared as text; events without a subject are not sent then
    #[arg(long)]
    subject: Option<String>,
}

impl Restriction {
    /// Puts what was given into a request.
    pub(super) fn put(&self, request: &mut Map<String, Value>) {
        for (name, value) in [("source", &self.source), ("subject", &self.subject)] {
            if let Some(value) = value {
                request.insert(name.to_owned(), json!(value));
            }
        }
    }
}

/// The URL and the patterns, where they are given.
pub(super) fn put_target(request: &mut Map<String, Value>, url: Option<&EndpointUrl>, types: &[Patterns]) {
    if let Some(url) = url {
        request.insert("url".to_owned(), json!(url));
    }
    if !types.is_empty() {
        let types: Vec<&TypePattern> = Patterns::all(types).collect();
        request.insert("types".to_owned(), json!(types));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_is_sent() {
        let mut request = Map::new();
        Fields::default().put(&mut request).unwrap();
        Restriction::default().put(&mut request);
        put_target(&mut request, None, &[]);
        assert!(request.is_empty(), "{request:?}");
    }

    #[test]
    fn headers_split_at_the_first_colon() {
        let given = ["Authorization:  Basic a:b ".to_owned(), "X-A:1".to_owned()];
        assert_eq!(
            json!(headers(&given).unwrap()),
            json!({"authorization": "Basic a:b", "x-a": "1"})
        );
    }

    #[test]
    fn a_refusal_does_not_show_a_credential() {
        for given in ["hunter2", "Host: hunter2", "A: hunter2\u{7}"] {
            let refused = headers(&[given.to_owned()]).unwrap_err().to_string();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        let refused = secret(Some("whsec_hunter2")).unwrap_err().to_string();
        assert!(
            refused.contains("--secret") && !refused.contains("hunter2"),
            "{refused}"
        );
    }
}
