//! The account: what was published against what was delivered, given up and logged.

use std::{collections::BTreeMap, time::Duration};

use relay_event::{DeadReason, DeliveryState};
use serde::Serialize;

use crate::{
    crowd::{Claim, Subscriber},
    ledger::Entry,
};

/// All that is known after a run.
pub(crate) struct Evidence {
    /// What was published, by event.
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) subscribers: Vec<Subscriber>,
    /// What receivers saw, by event and path.
    pub(crate) received: BTreeMap<(String, String), Received>,
    /// The dead letters, by event and endpoint id.
    pub(crate) letters: BTreeMap<(String, String), Vec<DeadReason>>,
    /// The events in the log, and whether they are as they were published.
    pub(crate) logged: BTreeMap<String, bool>,
    /// How the log has deliveries, by event and endpoint id.
    pub(crate) deliveries: BTreeMap<(String, String), Stands>,
    /// What should not be at all.
    pub(crate) odd: Vec<String>,
}

/// What came to a receiver of one event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) requests: u32,
    /// Those answered with success.
    pub(crate) delivered: u32,
    /// Those whose event was another than the published.
    pub(crate) altered: u32,
}

/// How the log says a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stands {
    pub(crate) state: DeliveryState,
    pub(crate) attempts: u32,
}

/// One thing that does not balance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) event: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) what: String,
    pub(crate) known: String,
}

/// Figures of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    pub(crate) confirmed: usize,
    pub(crate) unknown: usize,
    /// Events sent more than once by their producers.
    pub(crate) sent_again: usize,
    /// Pairs of event and endpoint that had to be delivered or given up.
    pub(crate) owed: usize,
    pub(crate) delivered: usize,
    pub(crate) delivered_twice: usize,
    /// The most deliveries of one event to one endpoint.
    pub(crate) most_of_one: u32,
    /// Requests that were no delivery.
    pub(crate) failed_attempts: u64,
    pub(crate) dead: BTreeMap<String, usize>,
    pub(crate) logged: usize,
    pub(crate) endpoints: usize,
}

/// Strikes the balance.
pub(crate) fn balance(evidence: &Evidence) -> (Vec<Problem>, Tally) {
    let mut account = Account {
        evidence,
        problems: Vec::new(),
        tally: Tally::default(),
    };
    account.strike();
    (account.problems, account.tally)
}

struct Account<'a> {
    evidence: &'a Evidence,
    problems: Vec<Problem>,
    tally: Tally,
}

impl Account<'_> {
    fn strike(&mut self) {
        let evidence = self.evidence;
        let known = evidence.subscribers.iter().filter(|known| known.id.is_some());
        self.tally.endpoints = known.count();
        self.tally.logged = evidence.logged.len();
        for reason in evidence.letters.values().flatten() {
            *self.tally.dead.entry(reason.to_string()).or_default() += 1;
        }
        for (id, entry) in &evidence.entries {
            self.event(id, entry);
            for subscriber in &evidence.subscribers {
                self.delivery(id, entry, subscriber);
            }
        }
        self.strangers();
    }

    fn event(&mut self, id: &str, entry: &Entry) {
        match entry.confirmed {
            Some(_) => self.tally.confirmed += 1,
            None => self.tally.unknown += 1,
        }
        self.tally.sent_again += usize::from(entry.sent > 1);
        match self.evidence.logged.get(id) {
            Some(false) => self.problem(id, entry, None, "is altered in the log"),
            None if entry.confirmed.is_some() => {
                self.problem(id, entry, None, "was accepted, and is not in the log");
            }
            _ => {}
        }
    }

    fn delivery(&mut self, id: &str, entry: &Entry, subscriber: &Subscriber) {
        let claim = claim(entry, subscriber);
        let received = self.received(id, subscriber);
        let (died, stands) = self.endings(id, subscriber);
        let delivered = received.delivered > 0;
        self.tally.owed += usize::from(claim == Claim::Must);
        self.tally.delivered += usize::from(delivered);
        self.tally.delivered_twice += usize::from(received.delivered > 1);
        self.tally.most_of_one = self.tally.most_of_one.max(received.delivered);
        self.tally.failed_attempts += u64::from(received.requests - received.delivered);

        let mut wrong = Vec::new();
        if claim == Claim::Never && (received.requests > 0 || died) {
            wrong.push("went to whom it does not concern");
        }
        if received.altered > 0 {
            wrong.push("was altered on its way");
        }
        if claim == Claim::Must && !delivered && !died {
            wrong.push("was accepted, and neither delivered nor given up");
        }
        // Of an event that was not confirmed some queues may have a copy, and the archive none.
        let unlogged = entry.confirmed.is_none() && !self.evidence.logged.contains_key(id);
        if subscriber.id.is_some() && !unlogged {
            let state = stands.map(|stands| stands.state);
            wrong.extend(disagreement(state, claim, delivered, died));
        }
        for what in wrong {
            self.problem(id, entry, Some(subscriber), what);
        }
    }

    fn received(&self, id: &str, subscriber: &Subscriber) -> Received {
        let mut all = Received::default();
        for token in &subscriber.tokens {
            let key = (id.to_owned(), token.clone());
            if let Some(received) = self.evidence.received.get(&key) {
                all.requests += received.requests;
                all.delivered += received.delivered;
                all.altered += received.altered;
            }
        }
        all
    }

    /// Whether it is among the dead letters, and how the log has it.
    fn endings(&self, id: &str, subscriber: &Subscriber) -> (bool, Option<Stands>) {
        let Some(endpoint) = &subscriber.id else {
            return (false, None);
        };
        let key = (id.to_owned(), endpoint.clone());
        let stands = self.evidence.deliveries.get(&key).copied();
        (self.evidence.letters.contains_key(&key), stands)
    }

    /// What nobody published, or went where nobody is.
    fn strangers(&mut self) {
        let evidence = self.evidence;
        let odd = |event: &str, what: &str, known: &dyn std::fmt::Debug| Problem {
            event: event.to_owned(),
            endpoint: None,
            what: what.to_owned(),
            known: format!("{known:?}"),
        };
        for (event, token) in evidence.received.keys() {
            if !evidence.entries.contains_key(event) {
                self.problems
                    .push(odd(event, "was delivered, and nobody published it", token));
            }
            if !evidence
                .subscribers
                .iter()
                .any(|known| known.tokens.contains(token))
            {
                self.problems
                    .push(odd(event, "was delivered to a path that no endpoint has", token));
            }
        }
        // One whose creation got no answer has an id that nobody knows.
        let all_known = evidence
            .subscribers
            .iter()
            .all(|subscriber| subscriber.id.is_some());
        for ((event, endpoint), reasons) in &evidence.letters {
            let is_known = |subscriber: &Subscriber| subscriber.id.as_ref() == Some(endpoint);
            if all_known && !evidence.subscribers.iter().any(is_known) {
                self.problems.push(odd(
                    event,
                    "is a dead letter of an endpoint that nobody added",
                    endpoint,
                ));
            }
            if !evidence.entries.contains_key(event) {
                self.problems
                    .push(odd(event, "is a dead letter, and nobody published it", reasons));
            }
            use DeadReason::{AttemptsExhausted, EndpointRemoved, Expired};
            let expected = [AttemptsExhausted, EndpointRemoved, Expired];
            if reasons.iter().any(|reason| !expected.contains(reason)) {
                self.problems
                    .push(odd(event, "was given up for an odd reason", &(endpoint, reasons)));
            }
        }
        for event in evidence
            .logged
            .keys()
            .filter(|event| !evidence.entries.contains_key(*event))
        {
            self.problems
                .push(odd(event, "is in the log, and nobody published it", &()));
        }
        for what in &evidence.odd {
            self.problems.push(odd("?", what, &()));
        }
    }

    fn problem(&mut self, id: &str, entry: &Entry, subscriber: Option<&Subscriber>, what: &str) {
        let at = |moment: Duration| format!("{:.3} s", moment.as_secs_f64());
        let mut known = format!(
            "{}, published at {} (sent {} times), confirmed {}{}, in the log: {}",
            entry.event_type,
            at(entry.began),
            entry.sent,
            entry.confirmed.map_or_else(|| "never".to_owned(), at),
            if entry.repeat {
                " as one that had come before"
            } else {
                ""
            },
            self.evidence.logged.contains_key(id)
        );
        if let Some(subscriber) = subscriber {
            let received = self.received(id, subscriber);
            let (died, stands) = self.endings(id, subscriber);
            known += &format!(
                "; endpoint {}, {} requests, {} delivered, dead letter: {died}, the log says {stands:?}",
                subscriber.id.as_deref().unwrap_or("of unknown id"),
                received.requests,
                received.delivered
            );
        }
        self.problems.push(Problem {
            event: id.to_owned(),
            endpoint: subscriber.map(|subscriber| subscriber.name.clone()),
            what: what.to_owned(),
            known,
        });
    }
}

fn claim(entry: &Entry, subscriber: &Subscriber) -> Claim {
    // What was sent several times may still be on its way after the one that was confirmed.
    let last = entry
        .confirmed
        .filter(|_| entry.sent == 1)
        .unwrap_or(Duration::MAX);
    let Ok(event_type) = entry.event_type.parse() else {
        return Claim::May;
    };
    subscriber.claim(&event_type, entry.began, entry.confirmed, last)
}

/// What the log says against what is so, where that is decidable: an answer that was lost on its way
/// counts for the receiver alone, and of an event that was sent twice each copy has an end of its own. A delivery whose
/// record did not arrive comes again; if its endpoint does not want the event any more by then, nothing tells of it.
fn disagreement(
    state: Option<DeliveryState>,
    claim: Claim,
    delivered: bool,
    died: bool,
) -> Option<&'static str> {
    let is_forgotten = claim == Claim::May && delivered && !died;
    let ended = (delivered || died) && !is_forgotten;
    match state {
        Some(DeliveryState::Delivered) if !delivered => {
            Some("is delivered by the log, and its receiver did not get it")
        }
        Some(DeliveryState::Dead) if !died => Some("is dead by the log, and not in the dead-letter queue"),
        Some(DeliveryState::Pending | DeliveryState::Retrying) if ended || claim == Claim::Must => {
            Some("is still on its way by the log")
        }
        None if ended => Some("came to an end that the log does not know"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
