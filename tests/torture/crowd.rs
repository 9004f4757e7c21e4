//! Who gets the events: receivers of every manner, and the endpoints that lead to them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use relay_event::{EventType, TypePattern};
use relay_testkit::{Answer, Proxy, Receiver, Request};
use serde_json::{Value, json};

use crate::plan::RECEIVERS;

/// How a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Healthy,
    Slow,
    /// Refuses an event at first.
    Moody,
    /// Gives no usable answer at first.
    Rough,
    /// Never takes anything.
    Hopeless,
}

/// The receivers. Those who lead nowhere at the beginning are for endpoints that change.
const MANNERS: [Manner; RECEIVERS] = [
    Manner::Healthy,
    Manner::Slow,
    Manner::Moody,
    Manner::Rough,
    Manner::Hopeless,
    Manner::Healthy,
    Manner::Moody,
    Manner::Healthy,
];

/// The endpoints from the beginning on: name, receiver and patterns.
pub(crate) const RESIDENTS: [(&str, usize, &[&str]); 8] = [
    (EVERYTHING, 0, &["#"]),
    ("slow", 1, &["order.*"]),
    ("moody", 2, &["order.line.#", "user.*"]),
    ("rough", 3, &["invoice.#"]),
    ("hopeless", 4, &["ping"]),
    (CHANGING, 5, &["order.created", "invoice.*"]),
    (PAUSED, 6, &["user.#", "order.paid"]),
    (MOVING, 7, &["invoice.*", "order.created"]),
];

/// Gets all events, so that it tells how far deliveries are behind.
pub(crate) const EVERYTHING: &str = "everything";
pub(crate) const CHANGING: &str = "changing";
pub(crate) const PAUSED: &str = "paused";
pub(crate) const MOVING: &str = "moving";

/// Where the moving endpoint moves between.
pub(crate) const HOMES: [usize; 2] = [7, 5];

/// Every delay that messages may wait in.
pub(crate) const DELAYS: [&str; 3] = ["1s", "2s", "3s"];

/// The settings of endpoints at a receiver of this manner.
pub(crate) fn settings(place: usize) -> Value {
    match MANNERS[place] {
        Manner::Hopeless => json!({"retry": ["1s"], "timeout_ms": 2_000}),
        Manner::Rough => {
            json!({"retry": ["1s", "1s", "1s", "2s", "2s", "3s"], "timeout_ms": 1_000, "max_in_flight": 20})
        }
        _ => json!({"retry": ["1s", "1s", "2s", "2s", "3s", "3s"], "timeout_ms": 2_000}),
    }
}

/// A receiver behind a wire.
pub(crate) struct Place {
    pub(crate) receiver: Receiver,
    pub(crate) wire: Proxy,
    /// One at a time closes and opens it.
    pub(crate) door: tokio::sync::Mutex<()>,
    /// Requests that get a 2xx, by their index.
    welcome: Arc<Mutex<HashSet<usize>>>,
}

impl Place {
    async fn open(manner: Manner) -> Self {
        let receiver = Receiver::start().await;
        let wire = Proxy::start(receiver.addr()).await;
        let welcome: Arc<Mutex<HashSet<usize>>> = Arc::default();
        let noted = Arc::clone(&welcome);
        receiver.respond_by(move |request| {
            let (answer, good) = answer(manner, request);
            if good {
                lock(&noted).insert(request.index);
            }
            answer
        });
        Self {
            receiver,
            wire,
            door: tokio::sync::Mutex::default(),
            welcome,
        }
    }

    /// The URL of an endpoint here, told from others by its path.
    pub(crate) fn url(&self, token: &str) -> String {
        format!("http://{}/{token}", self.wire.addr())
    }
}

/// What a request is answered, and whether that is a success.
fn answer(manner: Manner, request: &Request) -> (Answer, bool) {
    let good = (Answer::status(204), true);
    let bad = |answer| (answer, false);
    match (manner, request.attempt) {
        (Manner::Hopeless, _) => bad(Answer::status(500)),
        (Manner::Slow, _) => {
            let after = Duration::from_millis(20 + request.index as u64 * 37 % 200);
            (good.0.after(after), true)
        }
        (Manner::Moody, 1) => bad(match request.index % 4 {
            0 => Answer::status(500),
            1 => Answer::status(503),
            2 => Answer::status(429).header("retry-after", 1),
            _ => return good,
        }),
        (Manner::Rough, 1 | 2) => bad(match request.index % 8 {
            0 => Answer::Reset,
            1 => Answer::ResetMidway,
            2 => Answer::Garbage,
            3 => Answer::ShortBody,
            4 => Answer::EndlessHeaders,
            5 => Answer::Hold,
            6 => Answer::DripBody {
                every: Duration::from_millis(100),
                chunk: 10,
            },
            _ => return good,
        }),
        _ => good,
    }
}

/// What an endpoint wanted over some time. Changes take effect at some moment of an interval, so states
/// overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    /// The time until which a deliverer without the database may take it for true.
    pub(crate) believed_until: Duration,
    pub(crate) types: Vec<TypePattern>,
}

/// The longest time from an event's confirm to its match. No trouble lasts half as long.
const MATCHED: Duration = Duration::from_secs(180);

/// The longest time from the beginning of a trouble with the database until every deliverer has read the endpoints
/// again. It matches events meanwhile, with those it knows.
const BLIND: Duration = Duration::from_secs(60);

/// Whether an event belongs to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Must,
    May,
    Never,
}

/// An endpoint as its owner knows it.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    pub(crate) name: String,
    /// Unknown if the answer to its creation never came.
    pub(crate) id: Option<String>,
    /// The paths its deliveries come by.
    pub(crate) tokens: Vec<String>,
    pub(crate) states: Vec<State>,
    /// Until when a change that got no answer may yet take effect.
    pub(crate) unsure_until: Duration,
}

impl Subscriber {
    pub(crate) fn new(name: &str) -> Self {
        let nothing = State {
            from: Duration::ZERO,
            until: Duration::MAX,
            believed_until: Duration::MAX,
            types: Vec::new(),
        };
        Self {
            name: name.to_owned(),
            id: None,
            tokens: vec![name.to_owned()],
            states: vec![nothing],
            unsure_until: Duration::ZERO,
        }
    }

    /// From `now` on it may want these types.
    pub(crate) fn wants(&mut self, types: &[&str], now: Duration) {
        let types = types.iter().map(|pattern| pattern.parse().unwrap()).collect();
        self.states.push(State {
            from: now,
            until: Duration::MAX,
            believed_until: Duration::MAX,
            types,
        });
    }

    /// From `now` on it wants the newest types and no others.
    pub(crate) fn settled(&mut self, now: Duration) {
        if let Some((_, earlier)) = self.states.split_last_mut() {
            for state in earlier {
                state.until = state.until.min(now);
                state.believed_until = state.until;
            }
        }
    }

    /// Notes when troubles with the database began.
    fn without_database(&mut self, troubles: &[Duration]) {
        for state in &mut self.states {
            let of_change = |began: &&Duration| **began <= state.until && state.until <= **began + BLIND;
            if let Some(last) = troubles.iter().filter(of_change).max() {
                state.believed_until = *last + BLIND;
            }
        }
    }

    /// Tells whether it gets an event that was published once or more often from `began` to `last`, and surely once
    /// before `sure`, if that is given. It is matched with what endpoints want by then, within [`MATCHED`].
    pub(crate) fn claim(
        &self,
        event_type: &EventType,
        began: Duration,
        sure: Option<Duration>,
        last: Duration,
    ) -> Claim {
        let matches = |state: &State| state.types.iter().any(|pattern| pattern.matches(event_type));
        let from = |until: Duration| self.states.iter().filter(move |state| state.from <= until);
        let late = last.saturating_add(MATCHED);
        if sure.is_some_and(|sure| {
            from(sure + MATCHED)
                .filter(|state| began <= state.until)
                .all(matches)
        }) {
            Claim::Must
        } else if from(late)
            .filter(|state| began <= state.believed_until)
            .any(matches)
        {
            Claim::May
        } else {
            Claim::Never
        }
    }
}

/// One request that reached a receiver.
pub(crate) struct Receipt {
    pub(crate) token: String,
    pub(crate) event: String,
    /// A whole 2xx answer was sent.
    pub(crate) delivered: bool,
    pub(crate) request: Request,
}

/// All receivers and endpoints.
pub(crate) struct Crowd {
    pub(crate) places: Vec<Place>,
    subscribers: Mutex<BTreeMap<String, Subscriber>>,
    /// The times at which troubles with the database began.
    database: Mutex<Vec<Duration>>,
}

impl Crowd {
    pub(crate) async fn gather() -> Self {
        let mut places = Vec::new();
        for manner in MANNERS {
            places.push(Place::open(manner).await);
        }
        Self {
            places,
            subscribers: Mutex::default(),
            database: Mutex::default(),
        }
    }

    /// Changes what is known of one endpoint, a new one if there is none of this name.
    pub(crate) fn note<T>(&self, name: &str, change: impl FnOnce(&mut Subscriber) -> T) -> T {
        let mut subscribers = lock(&self.subscribers);
        let subscriber = subscribers
            .entry(name.to_owned())
            .or_insert_with(|| Subscriber::new(name));
        change(subscriber)
    }

    /// A trouble with the database begins.
    pub(crate) fn database_fails(&self, now: Duration) {
        lock(&self.database).push(now);
    }

    pub(crate) fn subscribers(&self) -> Vec<Subscriber> {
        let troubles = lock(&self.database).clone();
        let mut subscribers: Vec<Subscriber> = lock(&self.subscribers).values().cloned().collect();
        for subscriber in &mut subscribers {
            subscriber.without_database(&troubles);
        }
        subscribers
    }

    /// How many requests came to where all events go.
    pub(crate) fn arrived(&self) -> usize {
        self.places[0].receiver.count()
    }

    /// Everything that came, wherever.
    pub(crate) fn receipts(&self) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        for place in &self.places {
            let welcome = lock(&place.welcome).clone();
            for request in place.receiver.requests() {
                receipts.push(Receipt {
                    token: request.path.trim_start_matches('/').to_owned(),
                    event: request.event_id().unwrap_or_default(),
                    delivered: request.answered && welcome.contains(&request.index),
                    request,
                });
            }
        }
        receipts
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_event_amid_a_change_may_or_may_not_come() {
        let mut subscriber = Subscriber::new("x");
        subscriber.wants(&["a.*"], at(1_010));
        subscriber.settled(at(1_012));
        subscriber.wants(&["b.*"], at(2_000));
        subscriber.settled(at(2_002));
        let claim = |event_type: &str, began, confirmed| {
            let (event_type, confirmed) = (event_type.parse().unwrap(), at(confirmed));
            subscriber.claim(&event_type, at(began), Some(confirmed), confirmed)
        };
        assert_eq!(claim("a.x", 5, 9), Claim::Never);
        assert_eq!(claim("a.x", 900, 901), Claim::May, "it may be matched late");
        assert_eq!(claim("a.x", 1_011, 1_012), Claim::May);
        assert_eq!(claim("a.x", 1_013, 1_819), Claim::Must);
        assert_eq!(
            claim("a.x", 1_013, 1_820),
            Claim::May,
            "it may be matched too late"
        );
        assert_eq!(claim("b.x", 1_013, 1_819), Claim::Never);
        assert_eq!(
            claim("b.x", 1_013, 1_820),
            Claim::May,
            "it may be matched late enough"
        );
        assert_eq!(claim("b.x", 2_003, 2_004), Claim::Must);
        assert_eq!(claim("a.x", 2_003, 2_004), Claim::Never);
        assert_eq!(claim("c.x", 1_011, 2_004), Claim::Never);
    }

    #[test]
    fn what_was_wanted_before_a_change_may_come_while_the_database_is_away() {
        let mut subscriber = Subscriber::new("x");
        for (n, types) in [["a"], ["b"], ["c"]].iter().enumerate() {
            let n = u64::try_from(n).unwrap();
            subscriber.wants(types, at(n * 1_000));
            subscriber.settled(at(n * 1_000 + 2));
        }
        subscriber.without_database(&[at(990), at(2_003)]);
        let claim = |event_type: &str, began| {
            let event_type = event_type.parse().unwrap();
            subscriber.claim(&event_type, at(began), Some(at(began + 1)), at(began + 1))
        };
        assert_eq!(claim("a", 1_049), Claim::May);
        assert_eq!(claim("a", 1_051), Claim::Never);
        assert_eq!(
            claim("b", 1_049),
            Claim::Must,
            "it is found once the database is back"
        );
        assert_eq!(
            claim("b", 2_003),
            Claim::Never,
            "every deliverer has read the change"
        );
    }

    #[test]
    fn an_event_that_was_sent_again_may_come_late() {
        let mut subscriber = Subscriber::new("x");
        subscriber.wants(&["#"], at(1_010));
        subscriber.settled(at(1_012));
        let event_type = "a".parse().unwrap();
        let claim = |sure, last| subscriber.claim(&event_type, at(1), sure, last);
        assert_eq!(claim(Some(at(2)), at(2)), Claim::Never);
        assert_eq!(claim(Some(at(2)), Duration::MAX), Claim::May);
        assert_eq!(claim(None, Duration::MAX), Claim::May);
    }
}
