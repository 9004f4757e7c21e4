//! A delivery that waits in the log instead of in the broker.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    EndpointId, Event, EventAttributes, EventId, EventType, History, Timestamp,
    attempt::is_zero,
    invalid::{Given, Invalid},
    text::check_source_of_old,
};

/// The reason why a delivery is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// The endpoint is paused.
    Paused,
    /// The endpoint is disabled.
    Disabled,
    /// The endpoint's circuit is open.
    Circuit,
    /// The endpoint is over its rate limit.
    Rate,
    /// The endpoint takes long to answer, or may by its timeout.
    Slow,
    /// The endpoint has had no room for it for 5 s, or has too much waiting already.
    Behind,
    /// More than a hundred endpoints want the event.
    Wide,
    /// Its message was returned to the queue again and again, by deliverers that ended on it.
    Returned,
    /// The time to live that its producer set was over.
    Expired,
    /// The deliverer that took the event did not know the endpoint, and the store did not tell it.
    Blind,
    /// It was begun anew, by a replay or a recovery.
    Replay,
    /// It was begun anew or canceled, maybe, after its last attempt.
    InDoubt,
}

impl HoldReason {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::Paused,
        Self::Disabled,
        Self::Circuit,
        Self::Rate,
        Self::Slow,
        Self::Behind,
        Self::Wide,
        Self::Returned,
        Self::Expired,
        Self::Blind,
        Self::Replay,
        Self::InDoubt,
    ];

    /// The reason's name, as in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Circuit => "circuit",
            Self::Rate => "rate",
            Self::Slow => "slow",
            Self::Behind => "behind",
            Self::Wide => "wide",
            Self::Returned => "returned",
            Self::Expired => "expired",
            Self::Blind => "blind",
            Self::Replay => "replay",
            Self::InDoubt => "in_doubt",
        }
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for HoldReason {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| {
                let allowed = Self::ALL.map(Self::as_str).join(", ");
                Invalid::new("reason", format!("must be one of {allowed}, not {}", Given(text)))
            })
    }
}

/// The record of a held delivery, as it travels to the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The endpoint that the event waits for.
    pub endpoint: EndpointId,
    /// The event's id.
    pub event_id: EventId,
    /// The event's source; with the id it names the event.
    pub event_source: String,
    /// The event's type.
    pub event_type: EventType,
    /// The time at which the event was published, if it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub published_at: Option<Timestamp>,
    /// The number of times that the delivery was claimed before; 0 if it was never held.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub hop: u32,
    /// The attempts so far, and the run of the schedule that they belong to.
    #[serde(default)]
    pub history: History,
    /// The reason.
    pub reason: HoldReason,
    /// The time at which it was held.
    pub at: Timestamp,
    /// The event in structured mode; `None` if the event is on its way to the log by itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub event: Option<String>,
}

impl Hold {
    /// Checks what no single field can: anybody may publish records.
    ///
    /// # Errors
    /// The first field that no deliverer would write so.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.hop > Self::MAX_HOP {
            let problem = format!("must be at most {}, not {}", Self::MAX_HOP, self.hop);
            return Err(Invalid::new("hop", problem));
        }
        check(
            &self.event_source,
            &self.event_id,
            &self.event_type,
            self.event.as_deref(),
        )
        .map(drop)
    }

    /// The most claims of one delivery: one each second for a year.
    pub const MAX_HOP: u32 = 32_000_000;

    /// Reads the event that the record carries; `None` if it carries none.
    ///
    /// # Errors
    /// It carries something else.
    pub fn event(&self) -> Result<Option<Event>, Invalid> {
        read(self.event.as_deref())
    }
}

/// The record of an event that was matched while the store did not tell which endpoints there are: which of those
/// known before want it. The others that want it are found from this once the store is back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindMatch {
    /// The event's id.
    pub event_id: EventId,
    /// The event's source; with the id it names the event.
    pub event_source: String,
    /// The event's type.
    pub event_type: EventType,
    /// The event's subject, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub event_subject: Option<String>,
    /// The time at which the event was published, if it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub published_at: Option<Timestamp>,
    /// The time of the match.
    pub at: Timestamp,
    /// The endpoints for which it was taken.
    pub endpoints: Vec<EndpointId>,
    /// The range of ids that the record is about, if the match is told in several records: those after this one …
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<EndpointId>,
    /// … up to this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub through: Option<EndpointId>,
    /// The event in structured mode; `None` if the event is on its way to the log by itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub event: Option<String>,
}

impl BlindMatch {
    /// The same match in as many records as are necessary for each to have at most so many endpoints. Every id is in
    /// the range of one of them, and every endpoint in the record whose range has its id.
    pub fn split(mut self, most: usize) -> Vec<Self> {
        let mut endpoints = std::mem::take(&mut self.endpoints);
        endpoints.sort_unstable();
        let chunks: Vec<&[EndpointId]> = endpoints.chunks(most.max(1)).collect();
        let Some((last, others)) = chunks.split_last() else {
            return vec![self];
        };
        let mut after = self.after.clone();
        let mut records = Vec::with_capacity(chunks.len());
        for chunk in others {
            let through = chunk.last().cloned();
            records.push(Self {
                endpoints: chunk.to_vec(),
                after: std::mem::replace(&mut after, through.clone()),
                through,
                ..self.clone()
            });
        }
        records.push(Self {
            endpoints: last.to_vec(),
            after,
            ..self
        });
        records
    }

    /// Tells whether the record is about this endpoint, for which the event was taken or not.
    pub fn is_about(&self, endpoint: &EndpointId) -> bool {
        self.after.as_ref().is_none_or(|after| endpoint > after)
            && self.through.as_ref().is_none_or(|through| endpoint <= through)
    }

    /// The record of the delivery to an endpoint for which it was not taken.
    pub fn hold(&self, endpoint: EndpointId) -> Hold {
        Hold {
            endpoint,
            event_id: self.event_id.clone(),
            event_source: self.event_source.clone(),
            event_type: self.event_type.clone(),
            published_at: self.published_at,
            hop: 0,
            history: History {
                run: self.published_at,
                ..History::default()
            },
            reason: HoldReason::Blind,
            at: self.at,
            event: self.event.clone(),
        }
    }

    /// The attributes of the event that decide which endpoints want it.
    pub fn attributes(&self) -> EventAttributes<'_> {
        EventAttributes {
            event_type: &self.event_type,
            source: &self.event_source,
            subject: self.event_subject.as_deref(),
        }
    }

    /// The time that tells which endpoints came to want the event too late: that of its publishing, if it is known.
    pub fn wanted_at(&self) -> Timestamp {
        self.published_at.unwrap_or(self.at)
    }

    /// Checks what no single field can: anybody may publish records.
    ///
    /// # Errors
    /// The first field that no deliverer would write so.
    pub fn check(&self) -> Result<(), Invalid> {
        let event = check(
            &self.event_source,
            &self.event_id,
            &self.event_type,
            self.event.as_deref(),
        )?;
        // Older versions wrote no subject.
        if let (Some(event), Some(subject)) = (event, &self.event_subject)
            && event.subject() != Some(subject)
        {
            return Err(Invalid::new(
                "event",
                "must have the subject that stands beside it",
            ));
        }
        Ok(())
    }
}

/// Checks and reads the event of a record.
fn check(
    source: &str,
    id: &EventId,
    event_type: &EventType,
    event: Option<&str>,
) -> Result<Option<Event>, Invalid> {
    check_source_of_old(source)?;
    let Some(event) = read(event)? else {
        return Ok(None);
    };
    if (event.id(), event.source(), event.event_type()) == (id, source, event_type) {
        return Ok(Some(event));
    }
    let problem = "must have the id, the source and the type that stand beside it";
    Err(Invalid::new("event", problem))
}

fn read(event: Option<&str>) -> Result<Option<Event>, Invalid> {
    let read = |text: &str| Event::reread(Bytes::copy_from_slice(text.as_bytes()));
    event.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"specversion":"1.0", "id":"1","source":"/s","type":"a.b","data":"ü\n"}"#;

    fn hold() -> Hold {
        Hold {
            endpoint: "ep_0123456789abcdef0123456789abcdef".parse().unwrap(),
            event_id: "1".parse().unwrap(),
            event_source: "/s".to_owned(),
            event_type: "a.b".parse().unwrap(),
            published_at: Timestamp::from_millis(900),
            hop: 2,
            history: History {
                attempts: 3,
                first_attempt: Timestamp::from_millis(1_000),
                last_attempt: Timestamp::from_millis(2_000),
                last_status: Some(500),
                last_error: Some("body: broke off".to_owned()),
                run: Timestamp::from_millis(950),
                version: "0123456789abcdef:17".parse().ok(),
            },
            reason: HoldReason::Circuit,
            at: Timestamp::from_millis(3_000).unwrap(),
            event: Some(EVENT.to_owned()),
        }
    }

    #[test]
    fn a_hold_reads_back_with_the_bytes_of_its_event() {
        for hold in [
            hold(),
            Hold {
                published_at: None,
                hop: 0,
                history: History::default(),
                event: None,
                ..hold()
            },
        ] {
            let line = serde_json::to_string(&hold).unwrap();
            assert!(!line.contains('\n'), "{line}");
            let read: Hold = serde_json::from_str(&line).unwrap();
            assert_eq!(read, hold);
            assert_eq!(read.check(), Ok(()));
        }
        assert_eq!(hold().event().unwrap().unwrap().body(), EVENT);
    }

    #[test]
    fn what_no_deliverer_writes_is_refused() {
        let other = |event: &str| Hold {
            event: Some(event.to_owned()),
            ..hold()
        };
        for (hold, field) in [
            (other(&EVENT.replace(r#""id":"1""#, r#""id":"2""#)), "event"),
            (other(&EVENT.replace("a.b", "a.c")), "event"),
            (other("[]"), "event"),
            (
                Hold {
                    event_source: String::new(),
                    ..hold()
                },
                "source",
            ),
        ] {
            assert_eq!(hold.check().unwrap_err().field, field, "{hold:?}");
        }
    }

    #[test]
    fn a_match_has_the_subject_of_its_event() {
        let event = EVENT.replace(r#""id":"1""#, r#""id":"1","subject":"x""#);
        let matched = |subject: Option<&str>, event: &str| BlindMatch {
            event_id: "1".parse().unwrap(),
            event_source: "/s".to_owned(),
            event_type: "a.b".parse().unwrap(),
            event_subject: subject.map(str::to_owned),
            published_at: None,
            at: Timestamp::default(),
            endpoints: Vec::new(),
            after: None,
            through: None,
            event: Some(event.to_owned()),
        };
        for (subject, event, is_good) in [
            (Some("x"), &*event, true),
            (None, &*event, true),
            (Some("y"), &*event, false),
            (Some("x"), EVENT, false),
        ] {
            let checked = matched(subject, event).check();
            assert_eq!(checked.is_ok(), is_good, "{subject:?}, {event}");
        }
        assert_eq!(matched(Some("x"), &event).attributes().subject, Some("x"));
    }

    #[test]
    fn every_endpoint_is_in_one_record_of_a_match_that_is_split() {
        let id = |number: u8| EndpointId::from_bytes([number; 16]);
        for count in [0, 1, 2, 3, 4, 9] {
            // Every second id, in no order.
            let endpoints: Vec<EndpointId> = (0..count).map(|place| id(place * 7 % count * 2 + 1)).collect();
            let matched = BlindMatch {
                event_id: "1".parse().unwrap(),
                event_source: "/s".to_owned(),
                event_type: "a.b".parse().unwrap(),
                event_subject: None,
                published_at: None,
                at: Timestamp::default(),
                endpoints: endpoints.clone(),
                after: None,
                through: None,
                event: Some(EVENT.to_owned()),
            };
            let records = matched.split(2);
            assert_eq!(records.len(), usize::from(count).div_ceil(2).max(1));
            for record in &records {
                assert!(record.endpoints.len() <= 2);
                let line = serde_json::to_string(record).unwrap();
                assert_eq!(&serde_json::from_str::<BlindMatch>(&line).unwrap(), record);
                assert_eq!(record.event.as_deref(), Some(EVENT));
            }
            for number in 0..=20 {
                let about = records.iter().filter(|record| record.is_about(&id(number)));
                let [record] = about.collect::<Vec<_>>().try_into().unwrap();
                assert_eq!(
                    record.endpoints.contains(&id(number)),
                    endpoints.contains(&id(number))
                );
            }
        }
    }

    #[test]
    fn a_reason_reads_back() {
        for reason in HoldReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            let json = serde_json::to_string(&reason).unwrap();
            assert_eq!(json, format!("\"{reason}\""));
        }
        assert!("tired".parse::<HoldReason>().is_err());
    }
}
