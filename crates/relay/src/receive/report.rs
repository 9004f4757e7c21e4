use base64::{Engine, engine::general_purpose::STANDARD};
use relay_event::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{check::Belief, delivery::Counts};
use crate::output;

/// Prints deliveries: a line each, for people or as JSON.
pub(super) struct Report {
    json: bool,
}

/// A delivery that was answered.
pub(super) struct Entry<'a> {
    pub(super) status: u16,
    pub(super) attempt: u32,
    pub(super) repeated: bool,
    pub(super) belief: &'a Belief,
    pub(super) id: Option<&'a str>,
    pub(super) path: &'a str,
    pub(super) header_type: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// What people want to know of an event, read forgivingly.
#[derive(Default, Deserialize)]
#[serde(default)]
struct About {
    r#type: Option<String>,
    subject: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: Timestamp,
    status: u16,
    attempt: u32,
    repeated: bool,
    signature: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    id: Option<&'a str>,
    subject: Option<String>,
    path: &'a str,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl Entry<'_> {
    fn about(&self) -> About {
        let read: About = serde_json::from_slice(self.body).unwrap_or_default();
        About {
            r#type: read.r#type.or_else(|| self.header_type.map(str::to_owned)),
            ..read
        }
    }

    fn json(&self, time: Timestamp) -> Line<'_> {
        let About { r#type, subject } = self.about();
        let body = output::one_line(self.body);
        let (signature, problem) = match self.belief {
            Belief::Verified => ("verified", None),
            Belief::Unverified => ("unverified", None),
            Belief::Bad(why) => ("bad", Some(why.to_string())),
        };
        Line {
            time,
            status: self.status,
            attempt: self.attempt,
            repeated: self.repeated,
            signature,
            problem,
            event_type: r#type,
            id: self.id,
            subject,
            path: self.path,
            bytes: self.body.len(),
            body_base64: body.is_none().then(|| STANDARD.encode(self.body)),
            body,
        }
    }

    fn text(&self, time: Timestamp) -> String {
        let About { r#type, subject } = self.about();
        let clock: String = time.to_string().chars().skip(11).take(12).collect();
        let belief = match self.belief {
            Belief::Verified => "verified".to_owned(),
            Belief::Unverified => "unverified".to_owned(),
            Belief::Bad(why) => format!("BAD SIGNATURE: {why}"),
        };
        let attempt = match self.attempt {
            0 => "-".to_owned(),
            number => format!("#{number}"),
        };
        let mut parts = vec![
            clock,
            self.status.to_string(),
            attempt,
            r#type.unwrap_or_else(|| "-".to_owned()),
            self.id.unwrap_or("-").to_owned(),
        ];
        parts.extend(subject);
        parts.extend([format!("{} B", self.body.len()), belief]);
        if self.repeated {
            parts.push("repeated".to_owned());
        }
        output::plain(&parts.join("  "))
    }
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) fn delivery(&self, entry: &Entry<'_>) {
        let now = Timestamp::now();
        if !self.json {
            output::say_more(&entry.text(now));
        } else if let Ok(line) = output::json(&entry.json(now)) {
            output::say_more(&line);
        }
    }

    pub(super) fn summary(&self, counts: &Counts) {
        let text = format!(
            "{} received, {} distinct, {} repeated, {} failed on purpose, {} bad signatures",
            counts.received,
            counts.distinct,
            counts.repeated,
            counts.failed_on_purpose,
            counts.bad_signatures
        );
        if self.json {
            output::note(&text);
        } else {
            output::say_more(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::receive::signed::Unbelievable;

    const BODY: &[u8] = br#"{"type":"order.created","subject":"o-1","data":{"n":1.50}}"#;

    fn entry<'a>(belief: &'a Belief, body: &'a [u8]) -> Entry<'a> {
        Entry {
            status: 200,
            attempt: 2,
            repeated: false,
            belief,
            id: Some("id-1"),
            path: "/hook",
            header_type: None,
            body,
        }
    }

    #[test]
    fn a_line_tells_a_delivery() {
        let moment = Timestamp::from_millis(1_614_265_330_042).unwrap();
        assert_eq!(
            entry(&Belief::Verified, BODY).text(moment),
            "15:02:10.042  200  #2  order.created  id-1  o-1  58 B  verified"
        );
        let bad = Belief::Bad(Unbelievable::Unsigned);
        let refused = entry(&bad, b"{}").text(moment);
        assert!(
            refused.ends_with("BAD SIGNATURE: it has no signature"),
            "{refused}"
        );
    }

    #[test]
    fn json_holds_the_body_as_it_came() {
        let moment = Timestamp::from_millis(0).unwrap();
        let line = serde_json::to_string(&entry(&Belief::Verified, BODY).json(moment)).unwrap();
        assert!(line.contains(r#""data":{"n":1.50}"#), "{line}");
        let binary = serde_json::to_value(entry(&Belief::Unverified, b"\xff").json(moment)).unwrap();
        assert_eq!(
            (&binary["body_base64"], &binary["signature"]),
            (&json!("/w=="), &json!("unverified"))
        );
    }
}
