use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    CustomHeaders, Delay, EndpointId, EndpointUrl, EventAttributes, Invalid, RetrySchedule, Secret,
    Selection, Timestamp, TypePattern,
};

/// How deliveries are signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureStyle {
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    #[default]
    Standard,
    /// `X-Webhook-Signature` (hexadecimal HMAC of the body), `-Event`, `-Delivery`, `-Timestamp` (RFC 3339).
    Plain,
    /// The same with the timestamp in seconds since 1970.
    PlainSeconds,
}

/// Whether an endpoint is sent to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum EndpointState {
    /// It is.
    #[default]
    Active,
    /// Its owner paused it; its events are held.
    Paused,
    /// The relay stopped sending; its events are held until it is resumed or removed.
    Disabled {
        /// Why.
        reason: String,
        /// Since when.
        at: Timestamp,
    },
}

impl EndpointState {
    /// The state's name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled { .. } => "disabled",
        }
    }
}

/// A secret deliveries are signed with, perhaps only for a while yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveSecret {
    /// The secret.
    pub secret: Secret,
    /// After this moment it signs no more; the newest secret has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<Timestamp>,
}

/// A consumer of events by push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Where deliveries are posted.
    #[serde(deserialize_with = "EndpointUrl::stored")]
    pub url: EndpointUrl,
    /// The events that it wants.
    #[serde(flatten)]
    pub selection: Selection,
    /// Newest first; several while a rotation overlaps.
    pub secrets: Vec<ActiveSecret>,
    /// The waits between attempts.
    pub retry: RetrySchedule,
    /// For the whole exchange of an attempt, in milliseconds.
    pub timeout_ms: u64,
    /// The most attempts under way at once, for each deliverer.
    pub max_in_flight: u16,
    /// The most attempts begun in a second, for each deliverer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate_limit: Option<u32>,
    /// Headers of its owner's own.
    #[serde(default)]
    pub headers: CustomHeaders,
    /// How deliveries are signed.
    #[serde(default)]
    pub signature: SignatureStyle,
    /// Whether it is sent to.
    #[serde(flatten)]
    pub state: EndpointState,
    /// The time since which no attempt succeeded, once that has gone on for a while. Deliverers note it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failing_since: Option<Timestamp>,
    /// The time after which it is removed; `None` if it stays.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<Timestamp>,
    /// The number of the version of all endpoints at which a delivery to it was last begun anew, or canceled, before it
    /// had ended; 0 if none ever was. What was attempted at an earlier version, and is to be attempted again, is in
    /// doubt. The store keeps it beside the document.
    #[serde(skip)]
    pub overtaken: i64,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The time at which it was added, or at which its selection was last changed.
    #[serde(rename = "types_since", alias = "bound_since", default)]
    pub selected_since: Timestamp,
    /// The selections that it had before the last changes, newest first; at most [`Endpoint::MAX_EARLIER`].
    #[serde(rename = "earlier_types", skip_serializing_if = "Vec::is_empty", default)]
    pub earlier: Vec<EarlierSelection>,
}

/// A selection that an endpoint had before a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierSelection {
    /// The selection.
    #[serde(flatten)]
    pub selection: Selection,
    /// The time from which it had it.
    pub since: Timestamp,
}

/// Does what [`Endpoint::wants`] does, for who keeps nothing else of an endpoint.
pub fn wants(
    selected_since: Timestamp,
    earlier: &[EarlierSelection],
    event: EventAttributes<'_>,
    published_at: Timestamp,
) -> bool {
    let is_after = |since| since <= published_at + OLDER;
    let mut since = selected_since;
    for earlier in earlier {
        if is_after(since) || !earlier.selection.matches(event) {
            break;
        }
        since = earlier.since;
    }
    is_after(since)
}

/// The time by which an event may be older than an endpoint that gets it: clocks differ, and an event is on its way
/// for a while.
const OLDER: Duration = Duration::from_secs(60);

impl Endpoint {
    /// Returns false if an event of its selection is surely not for it: one that is known to have been published
    /// more than a minute before the endpoint came to want such events. A change of its selection makes no difference
    /// to events that it wanted before the change, too.
    pub fn wants(&self, event: EventAttributes<'_>, published_at: Option<Timestamp>) -> bool {
        let wants = |at| wants(self.selected_since, &self.earlier, event, at);
        published_at.is_none_or(wants)
    }

    /// Gives the endpoint another selection from `now` on.
    pub fn select(&mut self, selection: Selection, now: Timestamp) {
        if selection == self.selection {
            return;
        }
        let earlier = EarlierSelection {
            selection: std::mem::replace(&mut self.selection, selection),
            since: std::mem::replace(&mut self.selected_since, now),
        };
        self.earlier.insert(0, earlier);
        if self.earlier.len() > Self::MAX_EARLIER
            && let Some(forgotten) = self.earlier.pop()
            && let Some(oldest) = self.earlier.last_mut()
        {
            // Rather an event too many than one too few.
            oldest.since = forgotten.since;
        }
    }

    /// The changes of its selection that an endpoint remembers. Before them it counts as one that always had the
    /// oldest selection that is known.
    pub const MAX_EARLIER: usize = 8;

    /// The most secrets that may overlap.
    pub const MAX_SECRETS: usize = 5;
    /// How long a replaced secret signs on unless the rotation says otherwise.
    pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 3600);

    /// An active endpoint with the defaults: 30 s timeout, 32 in flight, the default schedule.
    pub fn new(url: EndpointUrl, types: Vec<TypePattern>, secret: Secret, now: Timestamp) -> Self {
        Self {
            id: EndpointId::generate(),
            url,
            selection: Selection::of_types(types),
            secrets: vec![ActiveSecret {
                secret,
                expires_at: None,
            }],
            retry: RetrySchedule::default(),
            timeout_ms: 30_000,
            max_in_flight: 32,
            rate_limit: None,
            headers: CustomHeaders::default(),
            signature: SignatureStyle::default(),
            state: EndpointState::Active,
            failing_since: None,
            expires_at: None,
            overtaken: 0,
            created_at: now,
            updated_at: now,
            selected_since: now,
            earlier: Vec::new(),
        }
    }

    /// Checks what no single field can.
    ///
    /// # Errors
    /// The first field outside its limits.
    pub fn check(&self) -> Result<(), Invalid> {
        let within = |field: &str, allowed: std::ops::RangeInclusive<u64>, given: u64| {
            if allowed.contains(&given) {
                return Ok(());
            }
            let (least, most) = allowed.into_inner();
            Err(Invalid::new(
                field,
                format!("must be from {least} to {most}, not {given}"),
            ))
        };
        self.selection.check()?;
        within("timeout_ms", 100..=120_000, self.timeout_ms)?;
        within("max_in_flight", 1..=1_000, self.max_in_flight.into())?;
        self.rate_limit
            .map_or(Ok(()), |rate| within("rate_limit", 1..=100_000, rate.into()))
    }

    /// The secrets that sign at this moment, newest first.
    pub fn signing_secrets(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        let active = move |held: &&ActiveSecret| held.expires_at.is_none_or(|end| now < end);
        self.secrets.iter().filter(active).map(|held| &held.secret)
    }

    /// Signs with `secret` from now on, and with the present ones until `overlap` is over.
    ///
    /// # Errors
    /// More than [`Self::MAX_SECRETS`] would be active at once.
    pub fn rotate(&mut self, secret: Secret, now: Timestamp, overlap: Duration) -> Result<(), Invalid> {
        let end = now + overlap;
        let mut held: Vec<ActiveSecret> = std::iter::once(ActiveSecret {
            secret,
            expires_at: None,
        })
        .chain(self.secrets.iter().cloned().map(|old| ActiveSecret {
            expires_at: Some(old.expires_at.map_or(end, |known| known.min(end))),
            ..old
        }))
        .collect();
        held.retain(|secret| secret.expires_at.is_none_or(|end| now < end));
        if held.len() > Self::MAX_SECRETS {
            let problem = format!(
                "at most {} may be active at once; rotate with a shorter overlap",
                Self::MAX_SECRETS
            );
            return Err(Invalid::new("secrets", problem));
        }
        self.secrets = held;
        Ok(())
    }

    /// The timeout of an attempt.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The delays its schedule names.
    pub fn delays(&self) -> &[Delay] {
        self.retry.delays()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::new(
            "https://example.com/hook".parse().unwrap(),
            vec!["order.*".parse().unwrap()],
            Secret::generate(),
            Timestamp::from_millis(0).unwrap(),
        )
    }

    #[test]
    fn reads_back_as_it_was_stored() {
        let mut endpoint = endpoint();
        endpoint.state = EndpointState::Disabled {
            reason: "answered 410".to_owned(),
            at: endpoint.created_at,
        };
        endpoint.rate_limit = Some(5);
        endpoint.failing_since = Some(endpoint.created_at);
        endpoint.expires_at = Some(endpoint.created_at);
        let stored = serde_json::to_string(&endpoint).unwrap();
        assert_eq!(serde_json::from_str::<Endpoint>(&stored).unwrap(), endpoint);
    }

    #[test]
    fn a_rotated_secret_signs_until_its_overlap_is_over() {
        let mut endpoint = endpoint();
        let (old, new) = (endpoint.secrets[0].secret.clone(), Secret::generate());
        let now = endpoint.created_at;
        endpoint
            .rotate(new.clone(), now, Duration::from_secs(60))
            .unwrap();
        let signing = |at| endpoint.signing_secrets(at).cloned().collect::<Vec<_>>();
        assert_eq!(signing(now + Duration::from_secs(59)), [new.clone(), old]);
        assert_eq!(signing(now + Duration::from_secs(60)), [new]);
    }

    #[test]
    fn a_later_rotation_does_not_lengthen_an_earlier_overlap() {
        let mut endpoint = endpoint();
        let now = endpoint.created_at;
        endpoint
            .rotate(Secret::generate(), now, Duration::from_secs(10))
            .unwrap();
        endpoint
            .rotate(Secret::generate(), now, Duration::from_secs(100))
            .unwrap();
        let later = now + Duration::from_secs(50);
        assert_eq!(endpoint.signing_secrets(later).count(), 2);
        endpoint.rotate(Secret::generate(), now, Duration::ZERO).unwrap();
        assert_eq!(endpoint.secrets.len(), 1);
    }

    #[test]
    fn a_document_of_an_older_relay_reads() {
        let mut stored = serde_json::to_value(endpoint()).unwrap();
        let fields = stored.as_object_mut().unwrap();
        for absent in ["failing_since", "source", "subject", "expires_at"] {
            assert!(!fields.contains_key(absent), "{absent}");
        }
        fields.insert(
            "earlier_types".to_owned(),
            serde_json::json!([{"types": ["a", "b.#"], "since": "1970-01-01T00:00:01Z"}]),
        );
        let read: Endpoint = serde_json::from_value(stored).unwrap();
        assert_eq!((read.failing_since, read.expires_at), (None, None));
        assert_eq!(read.selection, endpoint().selection);
        let types = ["a", "b.#"].map(|pattern| pattern.parse().unwrap());
        let earlier = EarlierSelection {
            selection: Selection::of_types(types.to_vec()),
            since: Timestamp::from_millis(1_000).unwrap(),
        };
        assert_eq!(read.earlier, [earlier]);
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000).unwrap()
    }

    fn selection(types: &str) -> Selection {
        Selection::of_types(types.split(',').map(|one| one.parse().unwrap()).collect())
    }

    fn added(types: &str, now: Timestamp) -> Endpoint {
        Endpoint::new(
            "https://example.com/".parse().unwrap(),
            selection(types).types,
            Secret::generate(),
            now,
        )
    }

    #[test]
    fn an_event_is_wanted_if_it_was_when_it_was_published() {
        let mut endpoint = added("a.#", at(1_000));
        endpoint.select(selection("a.b,c"), at(2_000));
        endpoint.select(selection("a.b,c"), at(2_500));
        endpoint.select(selection("a.b,c,d"), at(3_000));
        assert_eq!(endpoint.earlier.len(), 2);
        let wants = |event_type: &str, published_at| {
            let event = EventAttributes {
                event_type: &event_type.parse().unwrap(),
                source: "/s",
                subject: None,
            };
            endpoint.wants(event, published_at)
        };
        for (event_type, since) in [("a.b", 1_000), ("c", 2_000), ("d", 3_000)] {
            assert!(wants(event_type, Some(at(since - 60))), "{event_type}");
            assert!(!wants(event_type, Some(at(since - 61))), "{event_type}");
            assert!(wants(event_type, None));
        }
        let mut endpoint = endpoint.clone();
        for change in 0..20 {
            endpoint.select(selection(&format!("a.b,x{change}")), at(4_000 + change));
        }
        assert_eq!(endpoint.earlier.len(), Endpoint::MAX_EARLIER);
        let event = EventAttributes {
            event_type: &"a.b".parse().unwrap(),
            source: "/s",
            subject: None,
        };
        assert!(endpoint.wants(event, Some(at(1_000))));
    }

    #[test]
    fn a_change_of_source_or_subject_is_a_change_of_what_is_wanted() {
        let narrow = |source: Option<&str>, subject: Option<&str>| Selection {
            source: source.map(str::to_owned),
            subject: subject.map(str::to_owned),
            ..selection("a")
        };
        let mut endpoint = added("a", at(1_000));
        endpoint.select(narrow(Some("/s"), Some("x")), at(2_000));
        endpoint.select(narrow(Some("/s"), None), at(3_000));
        endpoint.select(selection("a"), at(4_000));
        let wants = |source, subject, seconds| {
            let event = EventAttributes {
                event_type: &"a".parse().unwrap(),
                source,
                subject,
            };
            endpoint.wants(event, Some(at(seconds)))
        };
        for (source, subject, since) in [
            ("/s", Some("x"), 1_000),
            ("/s", Some("y"), 3_000),
            ("/s", None, 3_000),
            ("/t", Some("x"), 4_000),
        ] {
            assert!(wants(source, subject, since - 60), "{source} {subject:?}");
            assert!(!wants(source, subject, since - 61), "{source} {subject:?}");
        }
        let stored = serde_json::to_string(&endpoint).unwrap();
        assert_eq!(serde_json::from_str::<Endpoint>(&stored).unwrap(), endpoint);
    }

    #[test]
    fn limits_are_named() {
        let mut wrong = endpoint();
        wrong.timeout_ms = 1;
        assert_eq!(
            wrong.check().unwrap_err().to_string(),
            "timeout_ms: must be from 100 to 120000, not 1"
        );
        let mut wrong = endpoint();
        wrong.selection.types.clear();
        assert_eq!(wrong.check().unwrap_err().field, "types");
        assert_eq!(endpoint().check(), Ok(()));
    }
}
