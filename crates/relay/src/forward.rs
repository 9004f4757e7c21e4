//! Events posted to a receiver by this program instead of a deliverer, exactly as one does it.

use std::time::Duration;

use relay_deliverer::{Courier, Posted};
use relay_event::{EndpointUrl, ErrorClass, Event, Invalid, Secret, Sign, Timestamp, WebhookId};
use serde::Serialize;

use crate::{api::Item, output, words::outcome};

/// The way to one receiver.
pub(crate) struct Forward {
    courier: Courier,
    json: bool,
}

/// A delivery as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    time: Timestamp,
    cursor: &'a str,
    id: &'a str,
    webhook_id: WebhookId,
    source: &'a str,
    r#type: &'a str,
    subject: Option<&'a str>,
    status: Option<u16>,
    error: Option<ErrorClass>,
    detail: Option<&'a str>,
    duration_ms: u64,
}

impl Forward {
    /// Posts to `url`, signed with `secret`; prints a line for each event, for people or as JSON.
    pub(crate) fn new(url: EndpointUrl, secret: Secret, json: bool) -> anyhow::Result<Self> {
        let courier = Courier::new(url, secret)?;
        Ok(Self { courier, json })
    }

    /// Posts an event once and prints the answer; what kept it from being a success is returned.
    pub(crate) async fn post(&self, item: &Item) -> anyhow::Result<Option<String>> {
        let began = Timestamp::now();
        let posted = self.courier.post(&item.event).await?;
        let said = if self.json {
            output::json(&line(item, &posted, began)).unwrap_or_default()
        } else {
            readable(&item.event, &posted, began)
        };
        // The deliveries matter also where nobody reads of them.
        let _ = output::try_say(&said);
        let failed = posted.outcome.sign() != Sign::Healthy;
        Ok(failed.then(|| failure(&posted)))
    }
}

/// A secret as it is given. The refusal does not repeat it.
pub(crate) fn secret(text: &str) -> Result<Secret, String> {
    text.parse().map_err(|refused: Invalid| refused.problem)
}

/// Why a delivery failed, with the details that are known.
fn failure(posted: &Posted) -> String {
    let answer = answer(posted);
    match &posted.detail {
        Some(detail) => format!("{answer}: {}", output::plain(detail)),
        None if posted.outcome.error().is_none() => format!("the receiver's answer was {answer}"),
        None => answer,
    }
}

/// The status, or the error.
fn answer(posted: &Posted) -> String {
    outcome(posted.outcome.status(), posted.outcome.error()).unwrap_or_default()
}

fn readable(event: &Event, posted: &Posted, began: Timestamp) -> String {
    let clock: String = began.to_string().chars().skip(11).take(12).collect();
    let mut parts = vec![
        clock,
        answer(posted),
        format!("{} ms", millis(posted.took)),
        event.event_type().to_string(),
        event.id().to_string(),
    ];
    parts.extend(event.subject().map(str::to_owned));
    parts.extend(posted.detail.clone());
    output::plain(&parts.join("  "))
}

fn line<'a>(item: &'a Item, posted: &'a Posted, began: Timestamp) -> Line<'a> {
    Line {
        time: began,
        cursor: &item.cursor,
        id: item.event.id().as_str(),
        webhook_id: item.event.webhook_id(),
        source: item.event.source(),
        r#type: item.event.event_type().as_str(),
        subject: item.event.subject(),
        status: posted.outcome.status(),
        error: posted.outcome.error(),
        detail: posted.detail.as_deref(),
        duration_ms: millis(posted.took),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use relay_event::Outcome;

    use super::*;

    fn shown(outcome: Outcome, detail: Option<&str>) -> String {
        let json =
            r#"{"specversion":"1.0","id":"id-1","source":"/s","type":"order.created","subject":"o-1"}"#;
        let posted = Posted {
            outcome,
            detail: detail.map(str::to_owned),
            took: Duration::from_millis(12),
        };
        let began = Timestamp::from_millis(1_614_265_330_042).unwrap();
        readable(&Event::parse(json.into()).unwrap(), &posted, began)
    }

    #[test]
    fn a_line_tells_the_event_and_the_answer() {
        let answered = Outcome::Answered {
            status: 200,
            retry_after: None,
        };
        assert_eq!(
            shown(answered, None),
            "15:02:10.042  200  12 ms  order.created  id-1  o-1"
        );
        let failed = Outcome::Failed {
            error: ErrorClass::Connect,
            status: None,
        };
        assert_eq!(
            shown(failed, Some("refused\u{1b}")),
            "15:02:10.042  connect  12 ms  order.created  id-1  o-1  refused\u{fffd}"
        );
    }
}
