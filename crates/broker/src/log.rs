//! What travels to the log: events by the archive, records of attempts, and copies of dead letters.

use lapin::message::Delivery;
use relay_event::{Attempt, DeadReason, Death, EndpointId, Event, Invalid, Standing, Timestamp};

use crate::{
    publisher::PublishError,
    session::Session,
    settle::Taken,
    topology::Topology,
    transport::OWN_BYTES,
    wire::{self, Headers, Refused},
};

/// The largest message of records that is read. A deliverer's has 1.7 MiB at the very most; one with
/// very many records could take the store longer than it is waited for, again and again.
const MAX_BYTES: usize = OWN_BYTES;

/// A message of the queue of attempts, read.
#[derive(Debug)]
pub struct Records {
    /// The attempts in it.
    pub attempts: Vec<Attempt>,
    /// The delivery it says to be dead.
    pub death: Option<Death>,
    /// An event whose producer set a time to live that ended in an endpoint's queue.
    pub resend: Option<Resend>,
    /// The message, if any part of it is no record.
    pub refused: Option<Refused>,
}

/// An event to be published once more: its time to live was over in an endpoint's queue, or it claims to have been
/// moved by a broker and so went to the archive alone.
#[derive(Debug)]
pub struct Resend {
    /// The endpoint that it is for; `None` for all that want it.
    pub endpoint: Option<EndpointId>,
    /// The event.
    pub event: Event,
    /// The time of its publishing, if that is known.
    pub published_at: Option<Timestamp>,
}

impl Resend {
    fn of(letter: wire::Letter) -> Option<Self> {
        Some(Self {
            endpoint: Some(letter.facts.endpoint?),
            event: letter.event.ok()?,
            published_at: letter.run,
        })
    }
}

impl Records {
    fn read(delivery: &Delivery, topology: &Topology, max_event_bytes: usize, now: Timestamp) -> Self {
        let exchange = delivery.exchange.as_str();
        if exchange == topology.dead() || exchange == topology.return_() {
            let letter = wire::letter(delivery, topology, max_event_bytes);
            // An event that is too large would be refused again, and might end the channel first.
            let (death, resend) = if letter.outlived && letter.too_large.is_none() {
                (None, Resend::of(letter))
            } else {
                (wire::death(letter, now), None)
            };
            return Self {
                attempts: Vec::new(),
                death,
                resend,
                refused: None,
            };
        }
        let cut = Headers::of(&delivery.properties).cut();
        let (attempts, refused) = match cut.refusal() {
            None => read_lines(&delivery.data),
            Some(why) => (Vec::new(), Some(why)),
        };
        Self {
            attempts,
            death: None,
            resend: None,
            refused: refused.map(|why| Refused::message(delivery, why)),
        }
    }
}

/// The records among the lines, and the first line that is none.
pub(crate) fn read_lines(body: &[u8]) -> (Vec<Attempt>, Option<Invalid>) {
    let (mut attempts, mut refused) = (Vec::new(), None);
    if body.len() > MAX_BYTES {
        let problem = format!("is {} bytes; at most {MAX_BYTES} are allowed", body.len());
        return (attempts, Some(Invalid::new("body", problem)));
    }
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        match read_line(line) {
            Ok(attempt) => attempts.push(attempt),
            Err(why) => {
                refused.get_or_insert_with(|| Invalid::new(format!("line {}", number + 1), why));
            }
        }
    }
    if attempts.is_empty() && refused.is_none() {
        refused = Some(Invalid::new("body", "holds no record"));
    }
    (attempts, refused)
}

fn read_line(line: &[u8]) -> Result<Attempt, String> {
    let attempt: Attempt = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    attempt.check().map_err(|refused| refused.to_string())?;
    Ok(attempt)
}

impl Taken {
    /// Reads a message of the queue of attempts.
    pub fn records(&self, session: &Session) -> Records {
        let max_event_bytes = session.max_event_bytes();
        Records::read(
            self.delivery(),
            session.topology(),
            max_event_bytes,
            Timestamp::now(),
        )
    }

    /// The message of the queue of attempts as one that cannot be recorded.
    pub fn refuse(&self, why: Invalid) -> Refused {
        Refused::message(self.delivery(), why)
    }
}

impl Session {
    /// Sends an event to its endpoint with a schedule begun anew, or to all that want it as if it came now, and waits
    /// for the confirm.
    ///
    /// # Errors
    /// The session is over: the message will be redelivered.
    pub async fn resend(&self, resend: &Resend) -> Result<(), PublishError> {
        let Resend {
            endpoint,
            event,
            published_at,
        } = resend;
        let (topology, now) = (self.topology(), Timestamp::now());
        let run = Standing::run_after(*published_at, now);
        self.publish_safely(|| match endpoint {
            Some(endpoint) => wire::redeliver(topology, endpoint, event, run, None),
            None => wire::publish(topology, event, published_at.unwrap_or(now)),
        })
        .await
    }

    /// Puts a copy of what cannot be recorded into the dead-letter queue, and waits for the confirm.
    ///
    /// # Errors
    /// The session is over: the message will be redelivered.
    pub async fn set_aside(&self, refused: &Refused, reason: DeadReason) -> Result<(), PublishError> {
        let (topology, now) = (self.topology(), Timestamp::now());
        self.publish_safely(|| wire::set_aside(topology, refused, reason, now))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"id":"at_0123456789abcdef0123456789abcdef","event_id":"1","event_source":"/s","event_type":"a.b","endpoint":"ep_0123456789abcdef0123456789abcdef","attempt":1,"at":"2026-01-01T00:00:00Z","duration_ms":5,"status":204,"state":"delivered","deliverer":"d"}"#;

    #[test]
    fn good_lines_count_beside_bad_ones() {
        let body = format!("{RECORD}\nnonsense\n{RECORD}\n\n");
        let (attempts, refused) = read_lines(body.as_bytes());
        assert_eq!(attempts.len(), 2);
        assert_eq!(refused.unwrap().field, "line 2");
    }

    #[test]
    fn more_than_any_deliverer_writes_at_once_is_refused_whole() {
        let many = format!("{RECORD}\n").repeat(MAX_BYTES / RECORD.len());
        assert!(many.len() > MAX_BYTES);
        let (attempts, refused) = read_lines(many.as_bytes());
        assert_eq!((attempts.len(), refused.unwrap().field.as_str()), (0, "body"));
    }

    #[test]
    fn what_no_deliverer_writes_is_refused() {
        for (from, to) in [
            (r#""attempt":1"#, r#""attempt":0"#),
            (r#""attempt":1"#, r#""attempt":-1"#),
            (r#""state":"delivered""#, r#""state":"pending""#),
            (r#""state":"delivered""#, r#""state":"retrying""#),
            (r#""state":"delivered""#, r#""state":"dead""#),
            (r#""event_source":"/s""#, r#""event_source":"""#),
            (
                r#""deliverer":"d""#,
                &format!(r#""deliverer":"{}""#, "d".repeat(300)),
            ),
            (r#""at":"2026-01-01T00:00:00Z""#, r#""at":"1969-01-01T00:00:00Z""#),
        ] {
            let line = RECORD.replace(from, to);
            assert_ne!(line, RECORD);
            let (attempts, refused) = read_lines(line.as_bytes());
            assert!(attempts.is_empty() && refused.is_some(), "{line}");
        }
        assert!(read_lines(b"").1.is_some());
        assert!(read_lines(RECORD.as_bytes()).1.is_none());
    }
}
