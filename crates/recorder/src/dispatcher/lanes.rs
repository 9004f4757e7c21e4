//! The endpoints for which deliveries are held, and which of them may be sent to at what time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use relay_event::{Endpoint, EndpointId, EndpointState, Timestamp};
use relay_store::{ClaimEnds, ClaimFrom, HeldFor};
use tokio::time::Instant;

/// The most deliveries under way to an endpoint that takes all of them.
const MOST: u32 = 64;

/// The most deliveries under way to a removed endpoint: each becomes a dead letter, and waits for no receiver.
const MOST_REMOVED: u32 = 256;

/// Failed attempts in a row after which an endpoint that has answered is waited with, as a circuit opens.
const FAILURES: u64 = 10;

/// The waits after such a failed attempt, and after a returned delivery.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One turn of an endpoint in so many begins with its replays.
const REPLAYS_EVERY: u8 = 4;

/// The time for which an endpoint's unused rate is kept for it.
const CREDIT: Duration = Duration::from_millis(100);

/// An endpoint, as far as the dispatcher goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    updated_at: Timestamp,
    pub(super) is_active: bool,
    rate_limit: Option<u32>,
    max_in_flight: u16,
    pub(super) expires_at: Option<Timestamp>,
    /// The mark that moves when somebody has a waiting delivery sent anew: that is to be tried at once.
    overtaken: i64,
}

impl Terms {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self {
            updated_at: endpoint.updated_at,
            is_active: endpoint.state == EndpointState::Active,
            rate_limit: endpoint.rate_limit,
            max_in_flight: endpoint.max_in_flight,
            expires_at: endpoint.expires_at,
            overtaken: endpoint.overtaken,
        }
    }
}

/// The deliveries held for one endpoint.
#[derive(Debug)]
struct Lane {
    /// Set if deliveries may wait that are not claimed.
    waits: bool,
    /// Claims of this epoch.
    under_way: u64,
    /// Claims of earlier epochs. Their messages may be lost, so they take nobody's place.
    inherited: u64,
    allowed: u32,
    ends: ClaimEnds,
    /// Failed attempts that may follow before it is waited with: none until the endpoint answers, for something is
    /// held because it did not.
    patience: u64,
    /// The wait after the last failure; zero if there was none.
    wait: Duration,
    not_before: Instant,
    /// The same for a removed endpoint: its dead letters say nothing of it, but what comes back waits.
    not_back_before: Instant,
    /// The time of the last delivery that the rate limit let through, if each had come at its time.
    rated: Instant,
    /// The turns since one began with replays.
    turns: u8,
    /// The time at which it stands in the heap.
    queued: Option<Instant>,
}

impl Lane {
    fn new(now: Instant, ends: ClaimEnds) -> Self {
        Self {
            waits: true,
            under_way: 0,
            inherited: 0,
            allowed: 1,
            ends,
            patience: 0,
            wait: Duration::ZERO,
            not_before: now,
            not_back_before: now,
            rated: now,
            turns: 0,
            queued: None,
        }
    }

    fn heard(&mut self, ends: ClaimEnds, now: Instant) {
        let before = std::mem::replace(&mut self.ends, ends);
        let more = |now: u64, before: u64| now.saturating_sub(before);
        let answered = more(ends.answered, before.answered);
        let failed = more(ends.failed, before.failed);
        let returned = more(ends.returned, before.returned);
        let lost = more(ends.lost, before.lost);
        let overtaken = more(ends.overtaken, before.overtaken);
        self.waits = true;
        end(
            answered + failed + returned + overtaken,
            [&mut self.under_way, &mut self.inherited],
        );
        end(lost, [&mut self.inherited, &mut self.under_way]);
        let is_failing = failed > self.patience;
        if answered > 0 {
            self.patience = FAILURES - 1;
        } else {
            self.patience = self.patience.saturating_sub(failed);
        }
        if returned > 0 || is_failing && answered == 0 {
            self.allowed = 1;
            self.wait = (self.wait * 2).clamp(SHORTEST_WAIT, LONGEST_WAIT);
            self.not_before = now + self.wait;
            if returned > 0 {
                self.not_back_before = self.not_before;
            }
        } else if answered > 0 || failed > 0 {
            self.allowed = match failed {
                0 => self.allowed.saturating_mul(2).min(MOST),
                _ => (self.allowed / 2).max(1),
            };
            self.wait = Duration::ZERO;
            self.not_before = now;
        }
    }

    /// The number of deliveries that may be sent now, and otherwise the time at which some may be. `None` as long as
    /// nothing else is heard.
    fn may_send(&self, terms: Option<&Terms>, now: Instant) -> Option<Result<u32, Instant>> {
        let room = |most: u32| {
            u64::from(most)
                .checked_sub(self.under_way)
                .filter(|room| *room > 0)
        };
        if !self.waits {
            return None;
        }
        let not_before = self.not_before(terms);
        if not_before > now && terms.is_none_or(|terms| terms.is_active) {
            return Some(Err(not_before));
        }
        let Some(terms) = terms else {
            return room(MOST_REMOVED).map(|room| Ok(u32::try_from(room).unwrap_or(MOST_REMOVED)));
        };
        if !terms.is_active {
            return None;
        }
        let room = room(self.allowed.min(terms.max_in_flight.into()))?;
        let room = u32::try_from(room).unwrap_or(MOST);
        let Some(interval) = interval(terms) else {
            return Some(Ok(room));
        };
        let credit = now.saturating_duration_since(self.rated(interval, now));
        let due = credit.as_nanos() / interval.as_nanos().max(1);
        match u32::try_from(due).unwrap_or(u32::MAX).min(room) {
            0 => Some(Err(self.rated(interval, now) + interval)),
            due => Some(Ok(due)),
        }
    }

    fn not_before(&self, terms: Option<&Terms>) -> Instant {
        match terms {
            Some(_) => self.not_before,
            None => self.not_back_before,
        }
    }

    fn rated(&self, interval: Duration, now: Instant) -> Instant {
        let earliest = now.checked_sub(CREDIT.max(interval)).unwrap_or(now);
        self.rated.max(earliest)
    }

    fn sent(&mut self, count: u32, terms: Option<&Terms>, now: Instant) {
        self.under_way += u64::from(count);
        if let Some(interval) = terms.and_then(interval) {
            self.rated = self.rated(interval, now) + interval * count;
        }
    }

    /// The lane that the next turn begins with.
    fn turn(&mut self) -> ClaimFrom {
        self.turns = (self.turns + 1) % REPLAYS_EVERY;
        match self.turns {
            0 => ClaimFrom::ReplaysFirst,
            _ => ClaimFrom::LiveFirst,
        }
    }

    /// Returns true if nothing is to be remembered of it.
    fn is_over(&self) -> bool {
        !self.waits && self.under_way + self.inherited == 0 && self.wait.is_zero()
    }
}

/// Takes claims that ended from those of the epoch that had them most likely, then from the others.
fn end(mut ended: u64, from: [&mut u64; 2]) {
    for claims in from {
        let these = ended.min(*claims);
        *claims -= these;
        ended -= these;
    }
}

fn interval(terms: &Terms) -> Option<Duration> {
    terms.rate_limit.map(|rate| Duration::from_secs(1) / rate.max(1))
}

/// The endpoints for which deliveries are held. In the heap are only those that have something to send, and may send
/// it now or at a known time.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: HashMap<EndpointId, Lane>,
    heap: BinaryHeap<Reverse<(Instant, EndpointId)>>,
}

impl Lanes {
    /// Takes over what is held at the beginning of an epoch.
    pub(crate) fn begin(held: Vec<HeldFor>, now: Instant) -> Self {
        let lane = |held: HeldFor| {
            let mut lane = Lane::new(now, held.ends);
            lane.inherited = held.claimed;
            (held.endpoint, lane)
        };
        Self {
            lanes: held.into_iter().map(lane).collect(),
            heap: BinaryHeap::new(),
        }
    }

    pub(crate) fn ids(&self) -> Vec<EndpointId> {
        self.lanes.keys().cloned().collect()
    }

    /// Something was held for an endpoint, or claims of it ended. Returns the number of deliveries that are held again.
    pub(crate) fn heard(&mut self, endpoint: &EndpointId, ends: ClaimEnds, now: Instant) -> u64 {
        let lane = self.lanes.entry(endpoint.clone());
        let lane = lane.or_insert_with(|| Lane::new(now, ends));
        let again = |ends: &ClaimEnds| ends.returned + ends.lost;
        let held_again = again(&ends).saturating_sub(again(&lane.ends));
        lane.heard(ends, now);
        held_again
    }

    /// The owner of an endpoint changed it, so what failed before tells nothing any more.
    pub(crate) fn changed(&mut self, endpoint: &EndpointId, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(endpoint) {
            (lane.wait, lane.not_before) = (Duration::ZERO, now);
        }
    }

    /// Some deliveries were claimed that are sent alone.
    pub(crate) fn sent_alone(
        &mut self,
        endpoint: &EndpointId,
        count: u32,
        terms: Option<&Terms>,
        now: Instant,
    ) {
        if let Some(lane) = self.lanes.get_mut(endpoint) {
            lane.sent(count, terms, now);
        }
        self.consider(endpoint, terms, now);
    }

    /// An endpoint has deliveries that are sent alone, and maybe no others. Returns the time before which nothing is
    /// sent to it, because something failed there or came back.
    pub(crate) fn know(
        &mut self,
        endpoint: &EndpointId,
        ends: ClaimEnds,
        terms: Option<&Terms>,
        now: Instant,
    ) -> Instant {
        let lane = self.lanes.entry(endpoint.clone());
        lane.or_insert_with(|| Lane::new(now, ends)).not_before(terms)
    }

    /// Puts an endpoint into the heap if it may send, now or later.
    pub(crate) fn consider(&mut self, endpoint: &EndpointId, terms: Option<&Terms>, now: Instant) {
        let Some(lane) = self.lanes.get_mut(endpoint) else {
            return;
        };
        let before = lane.queued;
        lane.queued = match lane.may_send(terms, now) {
            Some(Ok(_)) => before.filter(|at| *at <= now).or(Some(now)),
            Some(Err(later)) => Some(later),
            None => None,
        };
        match lane.queued {
            Some(_) if lane.queued == before => {} // It is there already.
            Some(at) => self.heap.push(Reverse((at, endpoint.clone()))),
            None if lane.is_over() => drop(self.lanes.remove(endpoint)),
            None => {}
        }
    }

    /// The time at which the next endpoint may send.
    pub(crate) fn next_at(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, endpoint))) = self.heap.peek() {
            if self
                .lanes
                .get(endpoint)
                .is_some_and(|lane| lane.queued == Some(*at))
            {
                return Some(*at);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes an endpoint out of the heap that may send now, with the number of deliveries and the lane that comes first.
    pub(crate) fn take<'t>(
        &mut self,
        terms: impl Fn(&EndpointId) -> Option<&'t Terms>,
        now: Instant,
    ) -> Option<(EndpointId, u32, ClaimFrom)> {
        while self.next_at()? <= now {
            let Reverse((_, endpoint)) = self.heap.pop()?;
            let terms = terms(&endpoint);
            let lane = self.lanes.get_mut(&endpoint)?;
            lane.queued = None;
            match lane.may_send(terms, now) {
                Some(Ok(count)) => {
                    let from = lane.turn();
                    return Some((endpoint, count, from));
                }
                _ => self.consider(&endpoint, terms, now),
            }
        }
        None
    }

    /// Some deliveries of an endpoint were claimed; `more` may wait.
    pub(crate) fn sent(
        &mut self,
        endpoint: &EndpointId,
        (count, more): (u32, bool),
        terms: Option<&Terms>,
        now: Instant,
    ) {
        if let Some(lane) = self.lanes.get_mut(endpoint) {
            lane.sent(count, terms, now);
            lane.waits = more;
        }
        self.consider(endpoint, terms, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active() -> Terms {
        Terms {
            updated_at: Timestamp::default(),
            is_active: true,
            rate_limit: None,
            max_in_flight: 10,
            expires_at: None,
            overtaken: 0,
        }
    }

    fn ends(answered: u64, failed: u64) -> ClaimEnds {
        ClaimEnds {
            answered,
            failed,
            returned: 0,
            lost: 0,
            overtaken: 0,
        }
    }

    #[test]
    fn answers_double_what_is_allowed_failures_halve_it_and_ten_in_a_row_wait() {
        let now = Instant::now();
        let mut lane = Lane::new(now, ends(0, 0));
        assert_eq!(lane.may_send(Some(&active()), now), Some(Ok(1)));
        lane.sent(1, Some(&active()), now);
        assert_eq!(lane.may_send(Some(&active()), now), None);
        for (answered, allowed) in [(1, 2), (2, 4), (3, 8), (4, 10), (5, 10)] {
            lane.heard(ends(answered, 0), now);
            assert_eq!(lane.may_send(Some(&active()), now), Some(Ok(allowed)));
        }
        for (failed, allowed) in [
            (1, 10),
            (2, 8),
            (3, 4),
            (4, 2),
            (5, 1),
            (6, 1),
            (7, 1),
            (8, 1),
            (9, 1),
        ] {
            lane.heard(ends(5, failed), now);
            assert_eq!(lane.may_send(Some(&active()), now), Some(Ok(allowed)), "{failed}");
        }
        for (failed, seconds) in [
            (10, 1),
            (11, 2),
            (12, 4),
            (13, 8),
            (14, 16),
            (15, 32),
            (16, 60),
            (17, 60),
        ] {
            lane.heard(ends(5, failed), now);
            let later = now + Duration::from_secs(seconds);
            assert_eq!(lane.may_send(Some(&active()), now), Some(Err(later)));
            assert_eq!(lane.may_send(Some(&active()), later), Some(Ok(1)));
        }
        lane.heard(ends(6, 17), now);
        assert_eq!(lane.may_send(Some(&active()), now), Some(Ok(2)));
        lane.heard(ends(7, 18), now);
        assert_eq!(lane.may_send(Some(&active()), now), Some(Ok(1)), "one of two");
    }

    #[test]
    fn an_endpoint_that_has_not_answered_is_tried_one_at_a_time() {
        let now = Instant::now();
        let mut lane = Lane::new(now, ends(7, 7));
        for (failed, seconds) in [(8, 1), (9, 2)] {
            lane.heard(ends(7, failed), now);
            let later = now + Duration::from_secs(seconds);
            assert_eq!(lane.may_send(Some(&active()), now), Some(Err(later)));
        }
    }

    #[test]
    fn what_was_overtaken_makes_room_and_nothing_wait() {
        let now = Instant::now();
        let mut lane = Lane::new(now, ends(0, 0));
        lane.heard(ends(3, 0), now);
        let (allowed, overtaken) = (
            lane.allowed,
            ClaimEnds {
                overtaken: 1,
                ..ends(3, 0)
            },
        );
        lane.sent(allowed, Some(&active()), now);
        assert_eq!(lane.may_send(Some(&active()), now), None);
        lane.heard(overtaken, now);
        assert_eq!(lane.may_send(Some(&active()), now), Some(Ok(1)));
    }

    #[test]
    fn what_comes_back_waits() {
        let now = Instant::now();
        let mut lane = Lane::new(now, ends(0, 0));
        lane.heard(ends(5, 0), now);
        let returned = ClaimEnds {
            returned: 1,
            ..ends(6, 0)
        };
        lane.heard(returned, now);
        let later = now + SHORTEST_WAIT;
        assert_eq!(lane.may_send(Some(&active()), now), Some(Err(later)));
    }

    #[test]
    fn a_changed_endpoint_waits_no_longer_for_what_failed_before() {
        let (now, id) = (Instant::now(), EndpointId::generate());
        let mut lanes = Lanes::default();
        lanes.heard(&id, ends(0, 0), now);
        for failed in 1..=7 {
            lanes.heard(&id, ends(0, failed), now);
        }
        lanes.consider(&id, Some(&active()), now);
        assert_eq!(lanes.next_at(), Some(now + LONGEST_WAIT));
        lanes.changed(&id, now);
        lanes.consider(&id, Some(&active()), now);
        assert_eq!(lanes.next_at(), Some(now));
    }

    #[test]
    fn claims_of_an_earlier_epoch_hold_up_nothing() {
        let (now, id) = (Instant::now(), EndpointId::generate());
        let held = HeldFor {
            endpoint: id.clone(),
            by_reason: Vec::new(),
            claimed: 8,
            ends: ends(0, 0),
        };
        let mut lanes = Lanes::begin(vec![held], now);
        let terms = active();
        lanes.consider(&id, Some(&terms), now);
        assert_eq!(
            lanes.take(|_| Some(&terms), now),
            Some((id.clone(), 1, ClaimFrom::LiveFirst))
        );
        lanes.sent(&id, (1, true), Some(&terms), now);
        lanes.heard(&id, ends(2, 0), now); // Its own, and one of an earlier epoch.
        lanes.consider(&id, Some(&terms), now);
        assert_eq!(
            lanes.take(|_| Some(&terms), now),
            Some((id.clone(), 2, ClaimFrom::LiveFirst))
        );
        lanes.sent(&id, (2, true), Some(&terms), now);
        let lost = ClaimEnds {
            lost: 7,
            ..ends(2, 0)
        };
        assert_eq!(lanes.heard(&id, lost, now), 7);
        let lane = &lanes.lanes[&id];
        assert_eq!((lane.under_way, lane.inherited), (2, 0));
    }

    #[test]
    fn one_turn_in_four_begins_with_replays() {
        let mut lane = Lane::new(Instant::now(), ends(0, 0));
        let turns: Vec<ClaimFrom> = (0..8).map(|_| lane.turn()).collect();
        use ClaimFrom::{LiveFirst, ReplaysFirst};
        let four = [LiveFirst, LiveFirst, LiveFirst, ReplaysFirst];
        assert_eq!(turns, [four, four].concat());
    }

    #[test]
    fn a_rate_is_kept_to_over_any_time() {
        let now = Instant::now();
        let terms = Terms {
            rate_limit: Some(20),
            max_in_flight: 1_000,
            ..active()
        };
        let mut lane = Lane::new(now, ends(0, 0));
        lane.allowed = MOST;
        let mut sent = 0;
        for millis in 0..10_000 {
            let now = now + Duration::from_millis(millis);
            if let Some(Ok(count)) = lane.may_send(Some(&terms), now) {
                lane.sent(count, Some(&terms), now);
                lane.under_way = 0;
                sent += count;
            }
        }
        assert!((198..=202).contains(&sent), "{sent}");
    }

    #[test]
    fn a_paused_endpoint_gets_nothing_and_a_removed_one_all() {
        let now = Instant::now();
        let mut lane = Lane::new(now, ends(0, 0));
        let paused = Terms {
            is_active: false,
            ..active()
        };
        assert_eq!(lane.may_send(Some(&paused), now), None);
        assert_eq!(lane.may_send(None, now), Some(Ok(MOST_REMOVED)));
        lane.heard(ends(0, 7), now);
        assert_eq!(lane.may_send(None, now), Some(Ok(MOST_REMOVED)), "dead letters");
        let returned = ClaimEnds {
            returned: 1,
            ..ends(0, 7)
        };
        lane.heard(returned, now);
        assert!(matches!(lane.may_send(None, now), Some(Err(_))));
    }
}
