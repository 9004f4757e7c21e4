//! An endpoint's limits, and what was learnt of it, kept across its consumers: neither a change of the
//! endpoint nor a reconnect doubles what is under way, or forgets it.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use relay_event::{Endpoint, EndpointUrl, Outcome, Sign, Timestamp};
use tokio::{sync::watch, time::timeout};

use crate::{
    breaker::{Breaker, Change, Failing},
    slots::{Asking, Slot, Slots, Used},
    window::Window,
};

/// How soon an attempt that found no room in the process asks again. Were all told who wait, a
/// thousand would be woken for each attempt that ends.
const CROWDED: Duration = Duration::from_millis(100);

/// Clones share it.
#[derive(Clone)]
pub(crate) struct Pace {
    url: EndpointUrl,
    max_in_flight: u16,
    rate_limit: Option<u32>,
    rate: Option<Arc<DefaultDirectRateLimiter>>,
    state: Arc<watch::Sender<State>>,
    slots: Arc<Slots>,
}

struct State {
    max_in_flight: u16,
    window: Window,
    breaker: Breaker,
    /// Permits that are out.
    under_way: u16,
    /// Those of them that wait for the rate.
    wait_for_rate: u16,
    /// Those of them that have room in the process too.
    in_slots: Used,
}

impl State {
    fn has_room(&self) -> bool {
        !self.breaker.is_closed_off() && self.under_way < self.window.size()
    }

    fn has_room_beyond(&self) -> bool {
        self.under_way < self.max_in_flight
    }

    fn heard(&mut self, outcome: &Outcome, now: Timestamp) -> Option<Change> {
        match outcome.sign() {
            Sign::Healthy | Sign::Refusing => self.window.borne(self.under_way),
            Sign::Unavailable => self.window.in_doubt(self.under_way),
            Sign::Troubled => self.window.troubled(self.under_way),
        }
        let change = self.breaker.heard(outcome, now);
        if change == Some(Change::Opened) {
            self.window = Window::new(self.max_in_flight);
        }
        change
    }
}

impl Pace {
    /// That of an endpoint that, by the store, has been failing since `noted`.
    pub(crate) fn of(endpoint: &Endpoint, noted: Option<Timestamp>, slots: Arc<Slots>) -> Self {
        let state = State {
            max_in_flight: endpoint.max_in_flight,
            window: Window::new(endpoint.max_in_flight),
            breaker: Breaker::new(noted),
            under_way: 0,
            wait_for_rate: 0,
            in_slots: Used::default(),
        };
        Self {
            url: endpoint.url.clone(),
            max_in_flight: endpoint.max_in_flight,
            rate_limit: endpoint.rate_limit,
            rate: limiter(endpoint.rate_limit),
            state: Arc::new(watch::Sender::new(state)),
            slots,
        }
    }

    /// That of the endpoint as it is now. At another URL nothing is known of it.
    pub(crate) fn adapted_to(mut self, endpoint: &Endpoint, noted: Option<Timestamp>) -> Self {
        if self.url != endpoint.url {
            return Self::of(endpoint, noted, self.slots);
        }
        if self.rate_limit != endpoint.rate_limit {
            (self.rate_limit, self.rate) = (endpoint.rate_limit, limiter(endpoint.rate_limit));
        }
        if self.max_in_flight != endpoint.max_in_flight {
            self.max_in_flight = endpoint.max_in_flight;
            self.state.send_modify(|state| {
                state.max_in_flight = endpoint.max_in_flight;
                state.window = state.window.up_to(endpoint.max_in_flight);
            });
        }
        self
    }

    /// Resolves when the endpoint's limits allow another attempt.
    pub(crate) async fn permit(&self) -> Permit {
        let mut permit = loop {
            self.until(State::has_room).await;
            if let Some(permit) = self.begin(State::has_room) {
                break permit;
            }
        };
        if let Some(rate) = &self.rate {
            permit.waits_for_rate(true);
            rate.until_ready().await;
            permit.waits_for_rate(false);
        }
        permit
    }

    /// A permit, if the endpoint's limits allow another attempt now.
    pub(crate) fn permit_now(&self) -> Option<Permit> {
        let permit = self.begin(State::has_room)?;
        let is_ready = self.rate.as_ref().is_none_or(|rate| rate.check().is_ok());
        is_ready.then_some(permit)
    }

    /// Resolves when no more attempts are under way than the endpoint's owner allows, whatever was learnt of it.
    pub(crate) async fn permit_beyond(&self) -> Permit {
        loop {
            self.until(State::has_room_beyond).await;
            if let Some(mut permit) = self.begin(State::has_room_beyond) {
                permit.is_dispatched = true;
                return permit;
            }
        }
    }

    /// Returns true if it is the rate that allows no attempt now, and not the attempts under way: of these some may
    /// only wait for the rate.
    pub(crate) fn is_over_rate(&self) -> bool {
        let state = self.state.borrow();
        self.rate.is_some() && (state.has_room() || state.wait_for_rate > 0)
    }

    fn begin(&self, allowed: impl Fn(&State) -> bool) -> Option<Permit> {
        let begun = self.state.send_if_modified(|state| {
            let allowed = allowed(state);
            state.under_way += u16::from(allowed);
            allowed
        });
        begun.then(|| self.permit_of())
    }

    fn permit_of(&self) -> Permit {
        Permit {
            state: Arc::clone(&self.state),
            slots: Arc::clone(&self.slots),
            slot: None,
            is_dispatched: false,
            waits_for_rate: false,
        }
    }

    pub(crate) fn is_closed_off(&self) -> bool {
        self.state.borrow().breaker.is_closed_off()
    }

    pub(crate) async fn until_closed_off(&self) {
        self.until(|state| state.breaker.is_closed_off()).await;
    }

    /// That no attempt succeeds, and since when.
    pub(crate) fn failing(&self) -> Option<Failing> {
        self.state.borrow().breaker.failing().copied()
    }

    /// Takes note of what the store says of the endpoint (see [`Breaker::learn`]).
    pub(crate) fn learn(&self, before: Option<Timestamp>, noted: Option<Timestamp>) {
        self.state.send_if_modified(|state| {
            let closed_off = state.breaker.is_closed_off();
            let learnt = state.breaker.learn(before, noted);
            if closed_off && !state.breaker.is_closed_off() {
                state.window = Window::new(state.max_in_flight);
            }
            learnt
        });
    }

    async fn until(&self, wanted: impl Fn(&State) -> bool) {
        // The sender is held here, so it is never gone.
        let _ = self.state.subscribe().wait_for(|state| wanted(state)).await;
    }
}

/// Counts an attempt as under way until it is dropped.
pub(crate) struct Permit {
    state: Arc<watch::Sender<State>>,
    slots: Arc<Slots>,
    slot: Option<Slot>,
    /// Set if it is for what the dispatcher sent on.
    is_dispatched: bool,
    waits_for_rate: bool,
}

impl Permit {
    fn waits_for_rate(&mut self, waits: bool) {
        if std::mem::replace(&mut self.waits_for_rate, waits) == waits {
            return;
        }
        self.state.send_if_modified(|state| {
            if waits {
                state.wait_for_rate += 1;
            } else {
                state.wait_for_rate -= 1;
            }
            false // Nobody waits for this.
        });
    }

    /// Resolves when the process has room for the attempt too.
    pub(crate) async fn with_slot(mut self) -> Self {
        let mut changes = self.state.subscribe();
        loop {
            self.state.send_if_modified(|state| {
                self.slot = self.slots.take(Asking {
                    held: state.in_slots,
                    answers: state.breaker.answers(),
                    is_dispatched: self.is_dispatched,
                });
                if self.slot.is_some() {
                    state.in_slots.count(self.is_dispatched);
                }
                self.slot.is_some()
            });
            if self.slot.is_some() {
                return self;
            }
            let _ = timeout(CROWDED, changes.changed()).await;
        }
    }

    /// Takes note of how the attempt ended.
    pub(crate) fn heard(&self, outcome: &Outcome, now: Timestamp) -> Option<Change> {
        let mut change = None;
        self.state.send_modify(|state| change = state.heard(outcome, now));
        change
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.waits_for_rate(false);
        self.state.send_modify(|state| {
            state.under_way = state.under_way.saturating_sub(1);
            if self.slot.is_some() {
                state.in_slots.discount(self.is_dispatched);
            }
        });
    }
}

fn limiter(limit: Option<u32>) -> Option<Arc<DefaultDirectRateLimiter>> {
    let one_by_one = |rate| Quota::per_second(rate).allow_burst(NonZeroU32::MIN);
    let rate = limit.and_then(NonZeroU32::new)?;
    Some(Arc::new(RateLimiter::direct(one_by_one(rate))))
}
