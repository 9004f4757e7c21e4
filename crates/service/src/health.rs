use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tokio::sync::watch;

/// Whether a process can do its work, told by the parts it needs for that. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<Vec<Slot>>>);

#[derive(Debug)]
struct Slot {
    name: &'static str,
    /// Why it is not ready; `None` if it is.
    reason: Option<String>,
}

impl Health {
    /// A part of the process that is not ready yet. Several parts may share a name, as when several
    /// libraries in one process each have their own connection: it is ready when all of them are.
    pub fn component(&self, name: &'static str) -> Component {
        let index = self.with(|slots| {
            slots.push(Slot {
                name,
                reason: Some("starting".to_owned()),
            });
            slots.len() - 1
        });
        Component {
            health: self.clone(),
            index,
        }
    }

    /// Notes that a part of this name will begin, which is not ready until [`Self::begun`].
    pub fn expect(&self, part: &'static str) {
        self.component(part);
    }

    /// Notes that an expected part has begun: whatever it needs is a component of its own by now.
    pub fn begun(&self, part: &'static str) {
        self.with(|slots| {
            for slot in slots.iter_mut().filter(|slot| slot.name == part) {
                slot.reason = None;
            }
        });
    }

    /// Whether everything is ready.
    pub fn is_ready(&self) -> bool {
        self.with(|slots| slots.iter().all(|slot| slot.reason.is_none()))
    }

    pub(crate) fn report(&self) -> Report {
        self.with(|slots| {
            let mut components = BTreeMap::new();
            for slot in slots.iter() {
                let state = components.entry(slot.name).or_insert_with(State::ready);
                if let (true, Some(reason)) = (state.ready, &slot.reason) {
                    *state = State::not_ready(reason);
                }
            }
            Report {
                ready: components.values().all(|state| state.ready),
                components,
            }
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<Slot>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One part of a process's health. Clones speak for the same part.
#[derive(Debug, Clone)]
pub struct Component {
    health: Health,
    index: usize,
}

impl Component {
    /// It can do its work. Answers whether that is news, so that the log says it once.
    pub fn ready(&self) -> bool {
        self.set(None)
    }

    /// It cannot, and why. Answers whether that is news: it was ready before, or had another reason.
    pub fn not_ready(&self, reason: impl Into<String>) -> bool {
        self.set(Some(reason.into()))
    }

    /// Is ready whenever `trouble` finds nothing wrong with a state, for as long as there is news of
    /// it. Never returns.
    pub async fn follow<T>(self, mut state: watch::Receiver<T>, trouble: impl Fn(&T) -> Option<&str>) {
        loop {
            self.set(trouble(&state.borrow_and_update()).map(str::to_owned));
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn set(&self, reason: Option<String>) -> bool {
        self.health.with(|slots| {
            let held = &mut slots[self.index].reason;
            let news = *held != reason;
            *held = reason;
            news
        })
    }
}

/// The body of `/ready`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) ready: bool,
    components: BTreeMap<&'static str, State>,
}

#[derive(Debug, Serialize)]
struct State {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl State {
    fn ready() -> Self {
        Self {
            ready: true,
            reason: None,
        }
    }

    fn not_ready(reason: &str) -> Self {
        Self {
            ready: false,
            reason: Some(reason.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_component_is_starting() {
        let health = Health::default();
        assert!(health.is_ready(), "nothing is needed yet");
        let broker = health.component("broker");
        assert!(!health.is_ready());
        broker.ready();
        assert!(health.is_ready());
    }

    #[test]
    fn what_is_expected_is_not_ready_before_it_begins() {
        let health = Health::default();
        health.expect("gateway");
        let broker = health.component("broker");
        broker.ready();
        assert!(!health.is_ready());
        health.begun("gateway");
        health.begun("another");
        assert!(health.is_ready());
    }

    #[test]
    fn only_a_change_is_news() {
        let broker = Health::default().component("broker");
        assert!(broker.not_ready("connection refused"));
        assert!(!broker.not_ready("connection refused"));
        assert!(broker.ready());
        assert!(!broker.ready());
    }

    #[test]
    fn a_shared_name_is_ready_when_all_its_parts_are() {
        let health = Health::default();
        let (gateway, deliverer) = (health.component("broker"), health.component("broker"));
        gateway.ready();
        deliverer.not_ready("connection refused");
        assert_eq!(
            serde_json::to_string(&health.report()).unwrap(),
            r#"{"ready":false,"components":{"broker":{"ready":false,"reason":"connection refused"}}}"#
        );
        deliverer.ready();
        assert_eq!(
            serde_json::to_string(&health.report()).unwrap(),
            r#"{"ready":true,"components":{"broker":{"ready":true}}}"#
        );
    }
}
