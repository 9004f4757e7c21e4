//! Collecting what is known after a run, from the broker, the database and the receivers.

use std::{collections::BTreeMap, time::Duration};

use relay_broker::{DeadLetters, Queue, Session};
use relay_event::EndpointId;
use relay_store::{DeliveryFilter, EventFilter, LoggedDelivery, Store};
use relay_testkit::wait_until_within;

use crate::{
    balance::{Evidence, Received, Stands},
    cast::Actor,
    crowd::{Crowd, DELAYS},
    ledger::{Entry, Ledger},
};

/// Rows and messages read at once.
const PAGE: u32 = 1_000;

const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// Who looks into everything.
pub(crate) struct Inspector {
    pub(crate) broker_url: String,
    pub(crate) namespace: String,
    pub(crate) store: Store,
}

impl Inspector {
    async fn session(&self) -> Session {
        let config = relay_broker::Config {
            url: self.broker_url.parse().unwrap(),
            namespace: self.namespace.parse().unwrap(),
            name: "inspector".to_owned(),
            new_queue_wait: std::time::Duration::ZERO,
            max_event_bytes: relay_event::DEFAULT_MAX_EVENT_BYTES,
        };
        wait_until_within(CONNECT_LIMIT, "a session with the broker", || async {
            Session::open(&config, None).await
        })
        .await
    }

    /// How many messages wait, and all that still waits or is under way; nothing when all is done.
    pub(crate) async fn waiting(&self, cast: &[std::sync::Arc<Actor>]) -> (u32, Vec<String>) {
        let (messages, mut waiting) = self.queues().await;
        let client = reqwest::Client::new();
        for actor in cast {
            if !actor.is_ready() {
                waiting.push(format!("{} is not ready", actor.name()));
            }
            let Some(metrics) = actor.metrics() else { continue };
            let text = match client.get(format!("http://{metrics}/metrics")).send().await {
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            let gauges = ["relay_attempts_in_flight", "relay_recorder_lag_seconds"];
            let busy = |line: &&str| {
                let mut words = line.split(' ');
                words.next().is_some_and(|name| gauges.contains(&name)) && words.next() != Some("0")
            };
            waiting.extend(
                text.lines()
                    .filter(busy)
                    .map(|line| format!("{}: {line}", actor.name())),
            );
        }
        (messages, waiting)
    }

    async fn queues(&self) -> (u32, Vec<String>) {
        let session = self.session().await;
        let (mut messages, mut waiting) = (0, Vec::new());
        let mut note = |place: String, count: Result<u32, String>| match count {
            Ok(0) => {}
            Ok(count) => {
                messages = count.saturating_add(messages);
                waiting.push(format!("{count} in {place}"));
            }
            Err(error) => {
                messages = u32::MAX; // There may be any number in it.
                waiting.push(format!("{place} cannot be looked at: {error}"));
            }
        };
        for queue in Queue::ALL.into_iter().filter(|queue| *queue != Queue::Dead) {
            let depth = session.depth(queue).await;
            let ready = depth.map(|depth| depth.map_or(0, |depth| depth.ready));
            note(queue.to_string(), ready.map_err(|error| error.to_string()));
        }
        for delay in DELAYS {
            let waits = session.waiting(delay.parse().unwrap()).await;
            let waits = waits.map(Option::unwrap_or_default);
            note(
                format!("the delay of {delay}"),
                waits.map_err(|error| error.to_string()),
            );
        }
        session.close().await;
        match self.store.waiting_by_endpoint().await {
            Ok(held) => {
                for endpoint in held.endpoints {
                    let place = format!("the log for {}: {:?}", endpoint.endpoint, endpoint.by_reason);
                    note(place, Ok(u32::try_from(endpoint.all()).unwrap_or(u32::MAX)));
                }
                let without_event = u32::try_from(held.without_event).unwrap_or(u32::MAX);
                note("the log without their event".to_owned(), Ok(without_event));
            }
            Err(error) => note("the log".to_owned(), Err(error.to_string())),
        }
        (messages, waiting)
    }

    /// Everything, as it is now.
    pub(crate) async fn evidence(&self, ledger: &Ledger, crowd: &Crowd) -> Evidence {
        let entries = ledger.entries();
        let mut evidence = Evidence {
            received: received(crowd, &entries),
            subscribers: crowd.subscribers(),
            letters: BTreeMap::new(),
            logged: self.logged(&entries).await,
            deliveries: self.deliveries().await,
            odd: Vec::new(),
            entries,
        };
        self.letters(&mut evidence).await;
        evidence
    }

    /// Reads the dead letters; they stay in their queue.
    async fn letters(&self, evidence: &mut Evidence) {
        let session = self.session().await;
        let mut letters = DeadLetters::open(&session).await.unwrap();
        while let Some(message) = letters.next().await.unwrap() {
            let letter = message.letter.clone();
            match (&letter.event_id, &letter.endpoint) {
                (Some(event), Some(endpoint)) => {
                    let intact = |entry: &Entry| {
                        message
                            .event
                            .as_ref()
                            .is_ok_and(|event| entry.is_intact(event.body()))
                    };
                    if !evidence.entries.get(event).is_some_and(intact) {
                        evidence.odd.push(format!("an altered dead letter: {letter:?}"));
                    }
                    let key = (event.clone(), endpoint.to_string());
                    evidence.letters.entry(key).or_default().push(letter.reason);
                }
                _ => evidence
                    .odd
                    .push(format!("a dead letter without event or endpoint: {letter:?}")),
            }
            letters.keep(message).await.unwrap();
        }
        session.close().await;
    }

    async fn logged(&self, entries: &BTreeMap<String, Entry>) -> BTreeMap<String, bool> {
        let (mut logged, mut before) = (BTreeMap::new(), None);
        loop {
            let page = self
                .store
                .logged_events(&EventFilter::default(), before, PAGE)
                .await
                .unwrap();
            for event in page.events {
                let body = self.store.event_body(event.sequence).await.unwrap();
                let intact = |entry: &Entry| body.is_some_and(|body| entry.is_intact(&body));
                let intact = entries.get(event.id.as_str()).is_some_and(intact);
                logged.insert(event.id.to_string(), intact);
            }
            if page.before.is_none() {
                return logged;
            }
            before = page.before;
        }
    }

    async fn deliveries(&self) -> BTreeMap<(String, String), Stands> {
        let mut deliveries = BTreeMap::new();
        let mut after: Option<(i64, EndpointId)> = None;
        loop {
            let from = after.as_ref().map(|(sequence, endpoint)| (*sequence, endpoint));
            let page = self
                .store
                .logged_deliveries(&DeliveryFilter::default(), from, PAGE)
                .await
                .unwrap();
            let Some(last) = page.last() else {
                return deliveries;
            };
            after = Some((last.sequence, last.endpoint.clone()));
            deliveries.extend(page.iter().map(stands));
        }
    }
}

fn stands(delivery: &LoggedDelivery) -> ((String, String), Stands) {
    let key = (delivery.event_id.to_string(), delivery.endpoint.to_string());
    let stands = Stands {
        state: delivery.standing.state,
        attempts: delivery.standing.attempts,
    };
    (key, stands)
}

fn received(crowd: &Crowd, entries: &BTreeMap<String, Entry>) -> BTreeMap<(String, String), Received> {
    let mut all: BTreeMap<(String, String), Received> = BTreeMap::new();
    for receipt in crowd.receipts() {
        let intact = entries
            .get(&receipt.event)
            .is_some_and(|entry| entry.is_intact(&receipt.request.body));
        let received = all.entry((receipt.event, receipt.token)).or_default();
        received.requests += 1;
        received.delivered += u32::from(receipt.delivered);
        received.altered += u32::from(!intact);
    }
    all
}
