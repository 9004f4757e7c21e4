//! What owners do with their endpoints meanwhile, by either gateway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use relay_tests::Api;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::sleep};

use crate::{
    crowd::{CHANGING, Crowd, HOMES, MOVING, PAUSED, RESIDENTS, settings},
    ledger::Clock,
    plan::Change,
};

/// A request without an answer after this time is sent again, by the other gateway.
const PATIENCE: Duration = Duration::from_secs(25);

/// A request without an answer may take effect for this long: no fault lasts longer.
const ECHO: Duration = Duration::from_secs(40);

/// A gateway that never does as it is told hangs.
const LIMIT: Duration = Duration::from_secs(180);

const PAUSE: Duration = Duration::from_millis(200);

/// Each try may leave an endpoint behind.
const ADD_PAUSE: Duration = Duration::from_secs(2);

/// What an endpoint's patterns change between, and what new ones want.
const WISHES: [&[&str]; 4] = [
    &["order.created", "invoice.*"],
    &["user.#", "order.paid"],
    &["order.#"],
    &["invoice.sent", "ping", "user.*"],
];

/// The owners of all endpoints. Each endpoint is changed by one of them at a time.
pub(crate) struct Office {
    crowd: Arc<Crowd>,
    clock: Clock,
    gateways: Vec<Api>,
    turn: AtomicUsize,
    /// Names of added endpoints, oldest first.
    added: Mutex<Vec<String>>,
    changing: Mutex<()>,
    paused: Mutex<()>,
    moving: Mutex<()>,
}

/// What a gateway made of a request.
enum Answer {
    Done(Value),
    /// It has not been done, or there is nothing left to do it to.
    Refused(u16, String),
    /// It may have been done, or be done yet.
    Unknown,
}

impl Office {
    pub(crate) fn new(crowd: Arc<Crowd>, clock: Clock, gateways: Vec<Api>) -> Self {
        Self {
            crowd,
            clock,
            gateways,
            turn: AtomicUsize::new(0),
            added: Mutex::default(),
            changing: Mutex::default(),
            paused: Mutex::default(),
            moving: Mutex::default(),
        }
    }

    /// Adds the endpoints there are from the beginning.
    pub(crate) async fn open(&self) {
        for (name, place, types) in RESIDENTS {
            let known_as = self.add(name, place, types).await;
            assert_eq!(known_as, name, "nothing is in the way yet");
        }
    }

    /// Does one change; `false` if it cannot be done now.
    pub(crate) async fn change(&self, change: Change, lasts: Duration) -> bool {
        match change {
            Change::Add => self.add_another().await,
            Change::Remove => self.remove_oldest().await,
            Change::Patterns => {
                let _alone = self.changing.lock().await;
                let types = WISHES[self.turn() % WISHES.len()];
                self.patch(CHANGING, json!({ "types": types }), Some(types)).await
            }
            Change::Pause => {
                let _alone = self.paused.lock().await;
                let paused = self.patch(PAUSED, json!({"paused": true}), None).await;
                sleep(lasts).await;
                if paused {
                    self.resume().await;
                }
                paused
            }
            Change::Move => {
                let _alone = self.moving.lock().await;
                let (turn, home) = (self.turn(), HOMES[self.turn() % 2]);
                let token = format!("{MOVING}-{turn}");
                let url = self.crowd.places[home].url(&token);
                self.crowd.note(MOVING, |endpoint| endpoint.tokens.push(token));
                let change = json!({"url": url, "headers": {"x-turn": turn.to_string()}});
                self.patch(MOVING, change, None).await
            }
        }
    }

    /// Whatever is paused, by whatever late answer, goes on.
    pub(crate) async fn resume(&self) {
        let id = self.id(PAUSED);
        self.until_done(
            Method::PATCH,
            &format!("/v1/endpoints/{id}"),
            json!({"paused": false}),
        )
        .await;
    }

    async fn add_another(&self) -> bool {
        let turn = self.turn();
        let name = format!("added-{turn}");
        let added = self.add(&name, 5 + turn % 2, WISHES[turn % WISHES.len()]).await;
        self.added.lock().await.push(added);
        true
    }

    async fn remove_oldest(&self) -> bool {
        let name = {
            let mut added = self.added.lock().await;
            if added.is_empty() {
                return false;
            }
            added.remove(0)
        };
        let now = self.clock.now();
        // Deliveries taken before go on: nobody says when that has ended.
        self.crowd.note(&name, |endpoint| endpoint.wants(&[], now));
        let path = format!("/v1/endpoints/{}", self.id(&name));
        self.until_done(Method::DELETE, &path, Value::Null).await;
        true
    }

    /// Adds an endpoint, and answers with the name it is known by. One whose creation got no answer may
    /// be there all the same: another takes its place, and what comes to it is welcome.
    async fn add(&self, name: &str, place: usize, types: &[&str]) -> String {
        let began = self.clock.now();
        let mut known_as = name.to_owned();
        let mut attempt = 0;
        loop {
            let mut body = settings(place);
            body["url"] = self.crowd.places[place].url(&known_as).into();
            body["types"] = json!(types);
            let now = self.clock.now();
            assert!(now < began + LIMIT, "no gateway adds an endpoint");
            self.crowd.note(&known_as, |endpoint| endpoint.wants(types, now));
            if let Answer::Done(added) = self.ask(Method::POST, "/v1/endpoints", &body).await {
                let now = self.clock.now();
                self.crowd.note(&known_as, |endpoint| {
                    endpoint.id = added["id"].as_str().map(str::to_owned);
                    endpoint.settled(now);
                });
                return known_as;
            }
            attempt += 1;
            known_as = format!("{name}-again-{attempt}");
            sleep(ADD_PAUSE).await;
        }
    }

    /// Changes an endpoint, and notes what it wants by that.
    async fn patch(&self, name: &str, change: Value, types: Option<&[&str]>) -> bool {
        let now = self.clock.now();
        if self.crowd.note(name, |endpoint| endpoint.unsure_until) > now {
            return false; // The last change may yet come over this one.
        }
        if let Some(types) = types {
            self.crowd.note(name, |endpoint| endpoint.wants(types, now));
        }
        let path = format!("/v1/endpoints/{}", self.id(name));
        let unsure = self.until_done(Method::PATCH, &path, change).await;
        let now = self.clock.now();
        self.crowd.note(name, |endpoint| {
            endpoint.settled(now);
            if unsure {
                endpoint.unsure_until = now + ECHO;
            }
        });
        true
    }

    /// Asks until it is done; whether one of the requests got no answer.
    async fn until_done(&self, method: Method, path: &str, body: Value) -> bool {
        let began = self.clock.now();
        let mut unsure = false;
        loop {
            match self.ask(method.clone(), path, &body).await {
                Answer::Done(_) => return unsure,
                Answer::Refused(404, _) if method == Method::DELETE => return unsure,
                // Of a store that did not answer in time, a gateway knows no more than we do of it.
                Answer::Refused(503, _) | Answer::Unknown => unsure = true,
                Answer::Refused(status, text) => panic!("{method} {path} {body}: {status} {text}"),
            }
            assert!(
                self.clock.now() < began + LIMIT,
                "no gateway does {method} {path}"
            );
            sleep(PAUSE).await;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Answer {
        let gateway = &self.gateways[self.turn() % self.gateways.len()];
        let mut request = gateway.request(method, path).timeout(PATIENCE);
        if !body.is_null() {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let Ok(response) = request.send().await else {
            return Answer::Unknown;
        };
        let status = response.status();
        match response.text().await {
            Ok(text) if status.is_success() => Answer::Done(serde_json::from_str(&text).unwrap_or_default()),
            Ok(text) => Answer::Refused(status.as_u16(), text),
            Err(_) => Answer::Unknown,
        }
    }

    fn id(&self, name: &str) -> String {
        self.crowd.note(name, |endpoint| endpoint.id.clone()).unwrap()
    }

    fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}
