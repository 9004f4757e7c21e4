//! What was published: every event with what its producer knows of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// Times are counted from the beginning of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }
}

pub(crate) type Digest = [u8; 32];

/// A digest of an event's data as it stands in the event, byte for byte.
pub(crate) fn digest_of_data(event: &[u8]) -> Option<Digest> {
    #[derive(serde::Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        data: &'a RawValue,
    }
    let event: Data<'_> = serde_json::from_slice(event).ok()?;
    Some(digest(event.data.get().as_bytes()))
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) event_type: String,
    /// Of the whole event, where it was published in structured mode: then no byte of it may change.
    pub(crate) body: Option<Digest>,
    /// Of its data.
    pub(crate) data: Digest,
    /// When it was first sent.
    pub(crate) began: Duration,
    /// When it was accepted. An event that never was may have arrived all the same.
    pub(crate) confirmed: Option<Duration>,
    /// How often it was sent.
    pub(crate) sent: u32,
    /// Whether it was accepted as one that had come before, and so not published again.
    pub(crate) repeat: bool,
}

impl Entry {
    /// Whether `event` is what was published.
    pub(crate) fn is_intact(&self, event: &[u8]) -> bool {
        match self.body {
            Some(body) => digest(event) == body,
            None => digest_of_data(event) == Some(self.data),
        }
    }
}

/// All events by their ids.
#[derive(Debug)]
pub(crate) struct Ledger {
    clock: Clock,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Ledger {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            entries: Mutex::default(),
        }
    }

    /// An event is about to be sent, perhaps once more.
    pub(crate) fn sending(&self, id: &str, event_type: &str, data: &str, structured: Option<&str>) {
        let now = self.clock.now();
        let mut entries = self.lock();
        let entry = entries.entry(id.to_owned()).or_insert_with(|| Entry {
            event_type: event_type.to_owned(),
            body: structured.map(|body| digest(body.as_bytes())),
            data: digest(data.as_bytes()),
            began: now,
            confirmed: None,
            sent: 0,
            repeat: false,
        });
        entry.sent += 1;
    }

    /// An event was accepted, perhaps as one that had come before.
    pub(crate) fn confirmed(&self, id: &str, repeat: bool) {
        let now = self.clock.now();
        if let Some(entry) = self.lock().get_mut(id)
            && entry.confirmed.is_none()
        {
            entry.confirmed = Some(now);
            entry.repeat = repeat;
        }
    }

    /// Events, and those of them that were accepted.
    pub(crate) fn count(&self) -> (usize, usize) {
        let entries = self.lock();
        let confirmed = entries.values().filter(|entry| entry.confirmed.is_some());
        (entries.len(), confirmed.count())
    }

    pub(crate) fn entries(&self) -> BTreeMap<String, Entry> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_intact_byte_for_byte() {
        let ledger = Ledger::new(Clock::start());
        let body = r#"{"id":"1","data": {"a": 1}}"#;
        ledger.sending("1", "a.b", r#"{"a": 1}"#, Some(body));
        ledger.sending("2", "a.b", r#"{"a": 1}"#, None);
        let entries = ledger.entries();
        assert!(entries["1"].is_intact(body.as_bytes()));
        let spaced = br#"{"id":"1", "data": {"a": 1}}"#;
        assert!(!entries["1"].is_intact(spaced));
        assert!(entries["2"].is_intact(spaced), "only its data is its producer's");
        assert!(!entries["2"].is_intact(br#"{"id":"1", "data": {"a":1}}"#));
        assert!(!entries["2"].is_intact(b"{}"));
    }

    #[test]
    fn what_is_sent_again_began_the_first_time() {
        let ledger = Ledger::new(Clock::start());
        ledger.sending("1", "a.b", "1", None);
        let began = ledger.entries()["1"].began;
        ledger.sending("1", "a.b", "1", None);
        ledger.confirmed("1", false);
        let entry = &ledger.entries()["1"];
        assert_eq!((entry.began, entry.sent), (began, 2));
        assert!(entry.confirmed.is_some_and(|confirmed| confirmed >= began));
        assert_eq!(ledger.count(), (1, 1));
    }
}
