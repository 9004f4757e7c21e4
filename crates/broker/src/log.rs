//! Messages on their way to the log, except events: records of attempts, copies of dead letters, and records of
//! held deliveries.

use lapin::message::Delivery;
use relay_event::{Attempt, BlindMatch, DeadReason, Death, Event, Hold, HoldReason, Invalid, Timestamp};
use serde::de::DeserializeOwned;

use crate::{
    dispatch,
    publisher::PublishError,
    session::Session,
    settle::Taken,
    topology::Topology,
    transport::OWN_BYTES,
    wire::{self, Received, Refused},
};

/// The largest message of attempts that is read. A deliverer's has 256 KiB; one with very many records could
/// take the store longer than it is waited for, again and again.
const MAX_BYTES: usize = OWN_BYTES;

/// A message of [`Queue::Records`](crate::Queue::Records), read.
#[derive(Debug)]
pub struct Records {
    /// The attempts in it.
    pub attempts: Vec<Attempt>,
    /// The delivery it says to be dead.
    pub death: Option<Death>,
    /// The message, if any part of it is no record.
    pub refused: Option<Refused>,
}

impl Records {
    fn read(delivery: &Delivery, topology: &Topology, max_event_bytes: usize, now: Timestamp) -> Self {
        if delivery.exchange.as_str() == topology.dead() {
            let letter = wire::letter(delivery, topology, max_event_bytes);
            return Self {
                attempts: Vec::new(),
                death: wire::death(letter, now),
                refused: None,
            };
        }
        let (attempts, refused) = match wire::check_own(delivery) {
            Ok(()) => read_attempts(&delivery.data),
            Err(why) => (Vec::new(), Some(why)),
        };
        Self {
            attempts,
            death: None,
            refused: refused.map(|why| Refused::message(delivery, why)),
        }
    }
}

/// A message of [`Queue::Holds`](crate::Queue::Holds), read.
#[derive(Debug, Default)]
pub struct Holds {
    /// The held deliveries in it. One that [`Queue::Again`](crate::Queue::Again) or
    /// [`Queue::Dispatch`](crate::Queue::Dispatch) returned too often is held as [`HoldReason::Returned`].
    pub holds: Vec<Hold>,
    /// A delivery that [`Queue::Dispatch`](crate::Queue::Dispatch) returned too often although it was sent alone
    /// ([`Dispatched::alone`](crate::Dispatched::alone)): it is to be settled as dead.
    pub exhausted: Option<Received>,
    /// Every part of the message that is no record, with its bytes; of records that came in one batch, the message.
    pub refused: Vec<Refused>,
}

impl Holds {
    pub(crate) fn read(delivery: &mut Delivery, max_event_bytes: usize, now: Timestamp) -> Self {
        let is = |kind| wire::has_content_type(delivery, kind);
        if is(dispatch::CONTENT_TYPE) {
            let at = wire::died_at(delivery).unwrap_or(now);
            match Received::read_addressed_batch(delivery) {
                Ok(batch) => Self::of(batch, at),
                Err(refused) => Self {
                    refused: vec![*refused],
                    ..Self::default()
                },
            }
        } else if is(wire::STRUCTURED) {
            let at = wire::died_at(delivery).unwrap_or(now);
            let single = Received::read_addressed(delivery, max_event_bytes);
            Self::of(vec![single], at)
        } else {
            let (holds, refused) = match wire::check_own(delivery) {
                Ok(()) => read_holds(&delivery.data),
                Err(why) => (Vec::new(), Some(why)),
            };
            let refused = refused.map(|why| Refused::record(delivery, why));
            Self {
                holds,
                refused: refused.into_iter().collect(),
                ..Self::default()
            }
        }
    }

    /// Reads deliveries that the broker moved, at this time.
    fn of(moved: Vec<Received>, at: Timestamp) -> Self {
        let (mut holds, mut refused, mut exhausted) = (Vec::new(), Vec::new(), None);
        let is_single = moved.len() == 1;
        for received in moved {
            if is_single && received.alone && received.event.is_ok() {
                exhausted = Some(received);
                continue;
            }
            // Only what is addressed to an endpoint is read as an event.
            if let (Ok(event), Some(endpoint)) = (&received.event, &received.endpoint) {
                let (history, reason) = (&received.history, HoldReason::Returned);
                holds.push(received.hold(event, endpoint, history, reason, at));
            } else {
                refused.extend(received.event.err().map(|why| *why));
            }
        }
        Self {
            holds,
            exhausted,
            refused,
        }
    }
}

/// The records of attempts among the lines, and the first line that is none.
pub(crate) fn read_attempts(body: &[u8]) -> (Vec<Attempt>, Option<Invalid>) {
    if body.len() > MAX_BYTES {
        let problem = format!("is {} bytes; at most {MAX_BYTES} are allowed", body.len());
        return (Vec::new(), Some(Invalid::new("body", problem)));
    }
    read_lines(body, Attempt::check)
}

/// The records of held deliveries among the lines, and the first line that is none.
pub(crate) fn read_holds(body: &[u8]) -> (Vec<Hold>, Option<Invalid>) {
    read_lines(body, Hold::check)
}

pub(crate) fn blind_match(delivery: &Delivery) -> Result<BlindMatch, Box<Refused>> {
    let read = wire::check_own(delivery).and_then(|()| read_blind_match(&delivery.data));
    read.map_err(|why| Box::new(Refused::record(delivery, why)))
}

fn read_blind_match(body: &[u8]) -> Result<BlindMatch, Invalid> {
    let read: Result<BlindMatch, _> = serde_json::from_slice(body);
    let matched = read.map_err(|error| Invalid::new("body", error.to_string()))?;
    matched.check()?;
    Ok(matched)
}

fn read_lines<T: DeserializeOwned>(
    body: &[u8],
    check: impl Fn(&T) -> Result<(), Invalid>,
) -> (Vec<T>, Option<Invalid>) {
    let read = |line: &[u8]| {
        let record: T = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        check(&record).map_err(|refused| refused.to_string())?;
        Ok::<T, String>(record)
    };
    let (mut records, mut refused) = (Vec::new(), None);
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        match read(line) {
            Ok(record) => records.push(record),
            Err(why) => {
                refused.get_or_insert_with(|| Invalid::new(format!("line {}", number + 1), why));
            }
        }
    }
    if records.is_empty() && refused.is_none() {
        refused = Some(Invalid::new("body", "holds no record"));
    }
    (records, refused)
}

impl Taken {
    /// Reads a message of [`Queue::Records`](crate::Queue::Records).
    pub fn records(&self, session: &Session) -> Records {
        let max_event_bytes = session.max_event_bytes();
        Records::read(
            self.delivery(),
            session.topology(),
            max_event_bytes,
            Timestamp::now(),
        )
    }

    /// Reads a message of [`Queue::Holds`](crate::Queue::Holds).
    pub fn holds(&mut self, session: &Session) -> Holds {
        let max_event_bytes = session.max_event_bytes();
        Holds::read(self.delivery_mut(), max_event_bytes, Timestamp::now())
    }

    /// Reads a message of [`Queue::BlindMatches`](crate::Queue::BlindMatches).
    ///
    /// # Errors
    /// The message is no such record.
    pub fn blind_match(&self) -> Result<BlindMatch, Box<Refused>> {
        blind_match(self.delivery())
    }

    /// The message as one that cannot be recorded.
    pub fn refuse(&self, why: Invalid) -> Refused {
        Refused::message(self.delivery(), why)
    }
}

impl Session {
    /// Publishes an event once more, with properties of the relay's own, and waits for the confirm: one that was
    /// taken from [`Queue::Suspects`](crate::Queue::Suspects), and so went to nobody.
    ///
    /// # Errors
    /// The session is over: the message will be redelivered.
    pub async fn publish_again(
        &self,
        event: &Event,
        published_at: Option<Timestamp>,
    ) -> Result<(), PublishError> {
        let published_at = published_at.unwrap_or_else(Timestamp::now);
        self.publish_safely(|| wire::publish(self.topology(), event, published_at))
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
        let (attempts, refused) = read_attempts(body.as_bytes());
        assert_eq!(attempts.len(), 2);
        assert_eq!(refused.unwrap().field, "line 2");
    }

    #[test]
    fn more_than_any_deliverer_writes_at_once_is_refused_whole() {
        let many = format!("{RECORD}\n").repeat(MAX_BYTES / RECORD.len());
        assert!(many.len() > MAX_BYTES);
        let (attempts, refused) = read_attempts(many.as_bytes());
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
            let (attempts, refused) = read_attempts(line.as_bytes());
            assert!(attempts.is_empty() && refused.is_some(), "{line}");
        }
        assert!(read_attempts(b"").1.is_some());
        assert!(read_attempts(RECORD.as_bytes()).1.is_none());
    }
}
