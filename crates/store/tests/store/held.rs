//! Deliveries that wait in the log: held, claimed, and ended by records in any order.

use std::time::Duration;

use relay_event::{
    Attempt, DeliveryState, Endpoint, EndpointId, EndpointState, ErrorClass, History, Hold, HoldReason,
    Secret, Timestamp,
};
use relay_store::{
    ChangedEndpoints, ClaimEnds, ClaimFrom, ClaimRequest, Claimed, HeldAgain, HeldFor, HeldNow, NewEvent,
    Only, Record, Retention, Store,
};

use crate::{
    make::{at, attempt, death, delivered, endpoint, event, events, hold, id},
    place::{Place, on_both},
};

on_both!(
    what_is_held_is_claimed_in_the_order_of_the_log,
    a_hold_waits_for_its_event,
    a_hold_brings_its_event_along,
    a_record_ends_the_claim_that_it_tells_of,
    an_old_record_ends_nothing,
    a_hold_of_what_ended_is_ignored,
    replays_have_a_lane_of_their_own,
    what_is_held_is_begun_anew_in_its_place,
    only_those_that_wait_are_begun_or_canceled,
    a_canceled_delivery_is_held_no_more,
    what_is_in_doubt_is_dropped_if_it_was_overtaken,
    a_mark_moves_where_a_delivery_had_not_ended,
    what_is_in_no_doubt_is_held_whatever_generation_is_on_its_way,
    what_was_not_attempted_and_is_not_held_does_not_wait,
    only_one_is_on_duty,
    silent_claims_of_an_earlier_epoch_are_held_again,
    what_was_returned_is_claimed_by_itself,
    what_cannot_be_read_holds_up_nothing_else,
    an_event_that_is_held_outlives_the_log,
    what_is_held_is_told_by_endpoint_and_reason,
);

const HOUR: Duration = Duration::from_secs(3600);
const MUCH: u64 = 1 << 30;

fn held(hold: Hold) -> Record {
    Record::Hold(Box::new(hold))
}

async fn on_duty(store: &Store) -> i64 {
    store.take_duty("test", HOUR).await.unwrap().unwrap()
}

async fn claim(store: &Store, epoch: i64, endpoint: &EndpointId, limit: u32) -> Vec<Claimed> {
    claim_from(store, epoch, endpoint, limit, ClaimFrom::LiveFirst).await
}

async fn claim_from(
    store: &Store,
    epoch: i64,
    endpoint: &EndpointId,
    limit: u32,
    from: ClaimFrom,
) -> Vec<Claimed> {
    let request = ClaimRequest {
        endpoint: endpoint.clone(),
        limit,
        from,
    };
    let claims = store.claim(epoch, &[request], MUCH).await.unwrap().unwrap();
    claims.into_iter().next().unwrap().deliveries
}

fn ids(claimed: &[Claimed]) -> Vec<&str> {
    claimed
        .iter()
        .map(|claimed| claimed.event.id().as_str())
        .collect()
}

/// The failed attempt that a deliverer makes of what was claimed so often.
fn tried(event: &str, endpoint: EndpointId, hop: u32) -> Attempt {
    Attempt {
        hop,
        ..attempt(event, endpoint, 1, at(5))
    }
}

async fn write(store: &Store, records: &[Record]) {
    store.record(records, at(9)).await.unwrap();
}

async fn held_now(store: &Store) -> (u64, u64, ClaimEnds) {
    let now = store.waiting_by_endpoint().await.unwrap();
    let sum = |of: fn(&HeldFor) -> u64| now.endpoints.iter().map(of).sum();
    let changes = store.held_changes(0, 100).await.unwrap();
    let ends = changes.endpoints.first().map(|change| change.ends);
    (
        sum(HeldFor::all),
        sum(|held| held.claimed),
        ends.unwrap_or_default(),
    )
}

async fn what_is_held_is_claimed_in_the_order_of_the_log(place: Place) {
    let store = place.open().await;
    let (one, other) = (endpoint(1), endpoint(2));
    write(&store, &events(["a", "b", "c"].map(|id| event(id, "a.b")))).await;
    write(
        &store,
        &["c", "a", "b", "a"].map(|id| held(hold(id, one.clone()))),
    )
    .await;
    write(&store, &[held(hold("b", other.clone()))]).await;
    let epoch = on_duty(&store).await;
    let requests = [(&one, 2), (&other, 9), (&endpoint(3), 9)].map(|(endpoint, limit)| ClaimRequest {
        endpoint: endpoint.clone(),
        limit,
        from: ClaimFrom::LiveFirst,
    });
    let claims = store.claim(epoch, &requests, MUCH).await.unwrap().unwrap();
    let found: Vec<_> = claims
        .iter()
        .map(|claims| (ids(&claims.deliveries), claims.more))
        .collect();
    assert_eq!(
        found,
        [(vec!["a", "b"], true), (vec!["b"], false), (vec![], false)]
    );
    let first = &claims[0].deliveries[0];
    assert_eq!((first.hop, first.history.run), (1, Some(at(0))));
    assert_eq!(ids(&claim(&store, epoch, &one, 9).await), ["c"]);
    assert_eq!(ids(&claim(&store, epoch, &one, 9).await), [""; 0]);

    let sequence = store
        .logged_event(&id("a"), None)
        .await
        .unwrap()
        .unwrap()
        .sequence;
    let delivery = store.deliveries_of(sequence).await.unwrap().remove(0);
    assert_eq!(delivery.standing.state, relay_event::DeliveryState::Pending);
    let shown = delivery.held.unwrap();
    assert_eq!((shown.reason, shown.is_claimed), (HoldReason::Paused, true));
}

async fn a_hold_waits_for_its_event(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let epoch = on_duty(&store).await;
    write(&store, &[held(hold("a", whom.clone()))]).await;
    write(&store, &[held(hold("a", whom.clone()))]).await;
    assert_eq!(claim(&store, epoch, &whom, 9).await, []);
    assert_eq!(store.waiting_by_endpoint().await.unwrap().without_event, 1);
    let everything = Retention {
        events_before: at(99),
        attempts_before: at(99),
    };
    store.forget(&everything, 100).await.unwrap();
    write(&store, &events([event("a", "a.b")])).await;
    assert_eq!(ids(&claim(&store, epoch, &whom, 9).await), ["a"]);
    assert_eq!(store.waiting_by_endpoint().await.unwrap().without_event, 0);
}

async fn a_hold_brings_its_event_along(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let epoch = on_duty(&store).await;
    let event = event("a", "a.b");
    let text = String::from_utf8(event.event.body().to_vec()).unwrap();
    let bringing = |to: EndpointId| Hold {
        event: Some(text.clone()),
        ..hold("a", to)
    };
    write(&store, &[held(hold("a", endpoint(2)))]).await;
    write(
        &store,
        &[held(bringing(whom.clone())), held(bringing(endpoint(3)))],
    )
    .await;
    assert_eq!(ids(&claim(&store, epoch, &whom, 9).await), ["a"]);
    assert_eq!(ids(&claim(&store, epoch, &endpoint(2), 9).await), ["a"]);
    assert_eq!(
        store.logged_event(&id("a"), None).await.unwrap(),
        None,
        "no log has it"
    );

    write(&store, &[Record::Attempt(delivered(tried("a", whom.clone(), 1)))]).await;
    write(&store, &[Record::Event(event)]).await;
    let sequence = store
        .logged_event(&id("a"), None)
        .await
        .unwrap()
        .unwrap()
        .sequence;
    assert_eq!(store.deliveries_of(sequence).await.unwrap().len(), 3);
    assert_eq!(held_now(&store).await.0, 2);
    assert_eq!(ids(&claim(&store, epoch, &endpoint(3), 9).await), ["a"]);
    assert_eq!(place.texts("SELECT id FROM kept").await, [""; 0]);
}

async fn a_record_ends_the_claim_that_it_tells_of(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let epoch = on_duty(&store).await;
    write(
        &store,
        &events(["a", "b", "c", "d", "e"].map(|id| event(id, "a.b"))),
    )
    .await;
    write(
        &store,
        &["a", "b", "c", "d", "e"].map(|id| held(hold(id, whom.clone()))),
    )
    .await;
    claim(&store, epoch, &whom, 9).await;
    let returned = Hold {
        hop: 1,
        ..hold("d", whom.clone())
    };
    let [silent, refused] =
        [("b", ErrorClass::Timeout), ("e", ErrorClass::Body)].map(|(id, error)| Attempt {
            error: Some(error),
            ..tried(id, whom.clone(), 1)
        });
    let records = [
        Record::Attempt(delivered(tried("a", whom.clone(), 1))),
        Record::Attempt(silent),
        Record::Death(death("c", whom.clone(), 0, at(6))),
        held(returned),
        Record::Attempt(refused),
    ];
    for _ in 0..2 {
        write(&store, &records).await;
        let ends = ClaimEnds {
            answered: 2,
            failed: 2,
            returned: 1,
            lost: 0,
            overtaken: 0,
        };
        assert_eq!(held_now(&store).await, (1, 0, ends));
    }
    let again = claim(&store, epoch, &whom, 9).await;
    assert_eq!((ids(&again), again[0].hop), (vec!["d"], 2));
}

async fn an_old_record_ends_nothing(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let epoch = on_duty(&store).await;
    write(&store, &events([event("a", "a.b")])).await;
    let failed = Record::Attempt(tried("a", whom.clone(), 0));
    // A failed attempt whose retry was not safe: the message came again, and was held.
    write(&store, &[failed.clone(), held(hold("a", whom.clone()))]).await;
    write(&store, std::slice::from_ref(&failed)).await;
    assert_eq!(claim(&store, epoch, &whom, 9).await[0].hop, 1);
    write(&store, &[failed, held(hold("a", whom.clone()))]).await;
    assert_eq!(held_now(&store).await.1, 1, "the claim stays");
    let tried_then_held = Hold {
        hop: 1,
        history: History {
            attempts: 1,
            last_attempt: Some(at(5)),
            run: Some(at(0)),
            ..History::default()
        },
        ..hold("a", whom.clone())
    };
    write(&store, &[held(tried_then_held.clone())]).await;
    write(&store, &[Record::Attempt(tried("a", whom.clone(), 1))]).await;
    let again = claim(&store, epoch, &whom, 9).await;
    let history = History {
        version: None,
        ..again[0].history.clone()
    };
    assert_eq!((again[0].hop, history), (2, tried_then_held.history));
}

async fn a_hold_of_what_ended_is_ignored(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    write(&store, &events([event("a", "a.b")])).await;
    write(&store, &[Record::Attempt(delivered(tried("a", whom.clone(), 0)))]).await;
    write(&store, &[held(hold("a", whom.clone()))]).await;
    assert_eq!(held_now(&store).await.0, 0);
    let next_run = Hold {
        history: History {
            run: Some(at(50)),
            ..History::default()
        },
        ..hold("a", whom.clone())
    };
    write(&store, &[held(next_run)]).await;
    assert_eq!(held_now(&store).await.0, 1);
}

async fn only_one_is_on_duty(place: Place) {
    let (store, other) = (place.open().await, place.open().await);
    let first = store.take_duty("one", HOUR).await.unwrap().unwrap();
    assert_eq!(other.take_duty("two", HOUR).await.unwrap(), None);
    assert!(store.renew_duty(first, HOUR).await.unwrap());
    store.leave_duty(first).await.unwrap();
    let second = other.take_duty("two", HOUR).await.unwrap().unwrap();
    assert!(second > first);
    assert!(!store.renew_duty(first, HOUR).await.unwrap());
    assert_eq!(store.claim(first, &[], MUCH).await.unwrap(), None);
    let silent = store
        .hold_silent_claims_again(first, (Duration::ZERO, HOUR), 9)
        .await;
    assert_eq!(silent.unwrap(), None);
    assert_eq!(other.claim(second, &[], MUCH).await.unwrap(), Some(Vec::new()));
}

async fn silent_claims_of_an_earlier_epoch_are_held_again(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    write(&store, &events(["a", "b", "c"].map(|id| event(id, "a.b")))).await;
    write(&store, &["a", "b", "c"].map(|id| held(hold(id, whom.clone())))).await;
    let first = on_duty(&store).await;
    claim(&store, first, &whom, 2).await;
    store.leave_duty(first).await.unwrap();
    let second = on_duty(&store).await;
    claim(&store, second, &whom, 9).await;
    let look = async |silent_for| {
        let again = store
            .hold_silent_claims_again(second, (silent_for, HOUR), 9)
            .await;
        let HeldAgain { deliveries, left, .. } = again.unwrap().unwrap();
        (deliveries, left)
    };
    assert_eq!(look(HOUR).await, (0, 2));
    assert_eq!(look(Duration::ZERO).await, (2, 0));
    assert_eq!(held_now(&store).await.2.lost, 2);
    let again = claim(&store, second, &whom, 9).await;
    assert_eq!((ids(&again), again[0].hop), (vec!["a", "b"], 2));
    let lost = store.hold_silent_claims_again(second, (HOUR, Duration::ZERO), 9);
    let all = HeldAgain {
        deliveries: 3,
        left: 0,
        claims: 0,
    };
    assert_eq!(lost.await.unwrap(), Some(all), "of the running epoch too");
}

async fn what_was_returned_is_claimed_by_itself(place: Place) {
    let (store, whom, other) = (place.open().await, endpoint(1), endpoint(2));
    let epoch = on_duty(&store).await;
    write(&store, &events(["a", "b", "c"].map(|id| event(id, "a.b")))).await;
    let returned = |id: &str, whom: &EndpointId| {
        held(Hold {
            reason: HoldReason::Returned,
            ..hold(id, whom.clone())
        })
    };
    write(
        &store,
        &[
            returned("a", &whom),
            held(hold("b", whom.clone())),
            returned("c", &whom),
        ],
    )
    .await;
    write(&store, &[returned("b", &other)]).await;
    assert_eq!(ids(&claim(&store, epoch, &whom, 9).await), ["b"]);
    let told = async || {
        let returned = store.returned().await.unwrap();
        let told = returned
            .into_iter()
            .map(|returned| (returned.endpoint, returned.is_claimed));
        told.collect::<Vec<_>>()
    };
    let of = |endpoint: &EndpointId, is_claimed| (endpoint.clone(), is_claimed);
    let mut expected = [of(&whom, false), of(&other, false)];
    expected.sort();
    assert_eq!(told().await, expected);
    let request = ClaimRequest {
        endpoint: whom.clone(),
        limit: 1,
        from: ClaimFrom::Returned,
    };
    let claims = store.claim(epoch, &[request], MUCH).await.unwrap().unwrap();
    assert_eq!(ids(&claims[0].deliveries), ["a"]);
    assert!(told().await.contains(&of(&whom, true)));
    let end = Record::Attempt(delivered(tried("a", whom.clone(), 1)));
    write(&store, &[end]).await;
    assert!(told().await.contains(&of(&whom, false)), "c waits");
    let ends = store
        .returned()
        .await
        .unwrap()
        .into_iter()
        .map(|returned| returned.ends.answered);
    assert_eq!(ends.sum::<u64>(), 1);
}

async fn replays_have_a_lane_of_their_own(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let epoch = on_duty(&store).await;
    let all = ["a", "b", "c", "d", "e", "f", "g", "h"];
    write(&store, &events(all.map(|id| event(id, "a.b")))).await;
    let places: Vec<_> = (1..=5).map(|place| (place, whom.clone())).collect();
    store.begin_generation(&places, Only::All, at(7)).await.unwrap();
    write(&store, &["h", "f", "g"].map(|id| held(hold(id, whom.clone())))).await;
    let told = store.waiting_for(&whom).await.unwrap();
    assert_eq!(told.get(&HoldReason::Replay), Some(&5));

    let claimed = claim_from(&store, epoch, &whom, 2, ClaimFrom::ReplaysFirst).await;
    assert_eq!(ids(&claimed), ["a", "b"]);
    assert_eq!((claimed[0].hop, claimed[0].history.run), (1, Some(at(7))));
    let claimed = claim_from(&store, epoch, &whom, 1, ClaimFrom::LiveFirst).await;
    assert_eq!(ids(&claimed), ["f"]);
    let claimed = claim_from(&store, epoch, &whom, 3, ClaimFrom::LiveFirst).await;
    assert_eq!(ids(&claimed), ["g", "h", "c"]);
    assert_eq!(
        (claimed[0].history.run, claimed[2].history.run),
        (Some(at(0)), Some(at(7)))
    );

    // A returned delivery stays in its lane, and one that a record ends is gone from it.
    let again = Hold {
        hop: 1,
        ..Hold {
            history: History {
                run: Some(at(7)),
                ..History::default()
            },
            ..hold("a", whom.clone())
        }
    };
    write(&store, &[held(again)]).await;
    let mut end = delivered(tried("b", whom.clone(), 1));
    end.published_at = Some(at(7));
    write(&store, &[Record::Attempt(end)]).await;
    let claimed = claim_from(&store, epoch, &whom, 9, ClaimFrom::ReplaysFirst).await;
    assert_eq!(ids(&claimed), ["a", "d", "e"]);
    assert_eq!(claimed[0].hop, 2);
    let silent = store.hold_silent_claims_again(epoch, (HOUR, Duration::ZERO), 99);
    assert_eq!(silent.await.unwrap().unwrap().deliveries, 7);

    // The log forgets its events, and they are delivered still, in the same order.
    let everything = Retention {
        events_before: at(99),
        attempts_before: at(99),
    };
    while store.forget(&everything, 2).await.unwrap().more {}
    let claimed = claim_from(&store, epoch, &whom, 9, ClaimFrom::LiveFirst).await;
    assert_eq!(ids(&claimed), ["f", "g", "h", "a", "c", "d", "e"]);
}

async fn what_is_held_is_begun_anew_in_its_place(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let epoch = on_duty(&store).await;
    write(&store, &events(["a", "b"].map(|id| event(id, "a.b")))).await;
    write(&store, &["a", "b"].map(|id| held(hold(id, whom.clone())))).await;
    assert_eq!(ids(&claim(&store, epoch, &whom, 1).await), ["a"]);
    let both = [(1, whom.clone()), (2, whom.clone())];
    store.begin_generation(&both, Only::All, at(7)).await.unwrap();
    let (all, under_way, ends) = held_now(&store).await;
    assert_eq!((all, under_way, ends), (2, 0, overtaken(1)));

    // A record of the generation before ends nothing.
    write(&store, &[Record::Attempt(delivered(tried("a", whom.clone(), 1)))]).await;
    write(&store, &[held(hold("b", whom.clone()))]).await;
    let claimed = claim(&store, epoch, &whom, 9).await;
    assert_eq!(ids(&claimed), ["a", "b"]);
    assert!(claimed.iter().all(|claimed| claimed.history.run == Some(at(7))));
}

/// Six events: the first is retrying, the second dead, the third held, the fourth delivered, the fifth was never begun, and
/// the sixth is held after an attempt.
async fn all_states(store: &Store, whom: &EndpointId) -> Vec<(i64, EndpointId)> {
    let all = ["a", "b", "c", "d", "e", "f"];
    write(store, &events(all.map(|id| event(id, "a.b")))).await;
    let mut records = vec![
        Record::Attempt(attempt("a", whom.clone(), 1, at(1))),
        Record::Death(death("b", whom.clone(), 6, at(1))),
        held(hold("c", whom.clone())),
        Record::Attempt(delivered(attempt("d", whom.clone(), 1, at(1)))),
    ];
    let mut after_one = hold("f", whom.clone());
    after_one.history.attempts = 1;
    records.push(held(after_one));
    write(store, &records).await;
    (1..=6).map(|place| (place, whom.clone())).collect()
}

fn places(deliveries: &[(i64, EndpointId)]) -> Vec<i64> {
    deliveries.iter().map(|(place, _)| *place).collect()
}

async fn only_those_that_wait_are_begun_or_canceled(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let all = all_states(&store, &whom).await;
    let begun = store
        .begin_generation(&all, Only::Undelivered, at(7))
        .await
        .unwrap();
    assert_eq!(places(&begun), [2, 5]);
    let waiting = store.waiting_for(&whom).await.unwrap();
    assert_eq!(waiting.get(&HoldReason::Replay), Some(&2));

    let begun = store
        .begin_generation(&all[..3], Only::Waiting, at(8))
        .await
        .unwrap();
    assert_eq!(places(&begun), [1, 2, 3]);
    let canceled = store.cancel(&all, at(9)).await.unwrap();
    assert_eq!(places(&canceled), [1, 2, 3, 5, 6]);
    assert_eq!(store.cancel(&all, at(9)).await.unwrap(), []);
    for (place, _) in canceled {
        let standing = &store.deliveries_of(place).await.unwrap()[0].standing;
        assert_eq!((standing.state, standing.at), (DeliveryState::Canceled, at(9)));
    }
    assert_eq!(held_now(&store).await.0, 0);
    let begun = store.begin_generation(&all, Only::All, at(10)).await.unwrap();
    assert_eq!(begun.len(), 6, "a replay sends what was canceled");
}

async fn a_canceled_delivery_is_held_no_more(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let all = all_states(&store, &whom).await;
    let epoch = on_duty(&store).await;
    assert_eq!(ids(&claim(&store, epoch, &whom, 1).await), ["c"]);
    store.cancel(&all, at(9)).await.unwrap();
    assert_eq!(held_now(&store).await, (0, 0, overtaken(1)));

    // The attempts under way tell of the generation before.
    let mut again = hold("c", whom.clone());
    again.hop = 1;
    let failed = attempt("a", whom.clone(), 2, at(20));
    write(&store, &[held(again), Record::Attempt(failed)]).await;
    assert_eq!(held_now(&store).await.0, 0);
    for place in [1, 3] {
        let standing = &store.deliveries_of(place).await.unwrap()[0].standing;
        assert_eq!(standing.state, DeliveryState::Canceled);
    }
}

fn overtaken(overtaken: u64) -> ClaimEnds {
    ClaimEnds {
        overtaken,
        ..ClaimEnds::default()
    }
}

async fn what_is_in_doubt_is_dropped_if_it_was_overtaken(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let all = all_states(&store, &whom).await;
    let epoch = on_duty(&store).await;
    let doubt = |event: &str| {
        let mut hold = hold(event, whom.clone());
        (hold.history.attempts, hold.reason) = (1, HoldReason::InDoubt);
        held(hold)
    };
    // Another delivery's mark puts it in doubt: it is sent on.
    write(&store, &[doubt("a")]).await;
    let claimed = claim(&store, epoch, &whom, 1).await;
    assert_eq!((ids(&claimed), claimed[0].history.attempts), (vec!["a"], 1));
    write(&store, &[Record::Attempt(tried("a", whom.clone(), 1))]).await;

    // Its own does not: the new generation is on its way, attempted or not.
    store
        .begin_generation(&all[..1], Only::Waiting, at(7))
        .await
        .unwrap();
    write(&store, &[doubt("a")]).await;
    let claimed = claim_from(&store, epoch, &whom, 1, ClaimFrom::ReplaysFirst).await;
    assert_eq!((ids(&claimed), claimed[0].history.run), (vec!["a"], Some(at(7))));
    let mut failed = tried("a", whom.clone(), 1);
    failed.published_at = Some(at(7));
    write(&store, &[Record::Attempt(failed)]).await;
    write(&store, &[doubt("a")]).await;
    assert_eq!(
        held_now(&store).await.0,
        2,
        "those that were held from the beginning"
    );
}

/// A message that comes again may have lost its generation, and be all that is left.
async fn what_is_in_no_doubt_is_held_whatever_generation_is_on_its_way(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    write(&store, &events([event("a", "a.b")])).await;
    let mut failed = attempt("a", whom.clone(), 1, at(1));
    failed.published_at = Some(at(1));
    write(&store, &[Record::Attempt(failed)]).await;
    let mut blind = hold("a", whom.clone());
    (blind.history.run, blind.reason) = (None, HoldReason::Blind);
    write(&store, &[held(blind.clone())]).await;
    assert_eq!(held_now(&store).await.0, 1);

    // A delivery that was returned too often stays apart when it is begun anew.
    let mut returned = blind;
    (returned.history.run, returned.reason) = (Some(at(1)), HoldReason::Returned);
    write(&store, &[held(returned)]).await;
    let all = [(1, whom.clone())];
    store.begin_generation(&all, Only::Waiting, at(7)).await.unwrap();
    let told = store.waiting_for(&whom).await.unwrap();
    assert_eq!(told.into_iter().collect::<Vec<_>>(), [(HoldReason::Returned, 1)]);
}

/// On its way to its first attempt, it does not wait.
async fn what_was_not_attempted_and_is_not_held_does_not_wait(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let mut new = event("a", "a.b");
    new.routed_to = vec![whom.clone()];
    write(&store, &events([new])).await;
    let all = [(1, whom.clone())];
    assert_eq!(store.cancel(&all, at(7)).await.unwrap(), []);
    let begun = store.begin_generation(&all, Only::Waiting, at(7)).await.unwrap();
    assert_eq!(begun, []);
    assert_eq!(
        store.deliveries_of(1).await.unwrap()[0].standing.state,
        DeliveryState::Pending
    );
}

async fn a_mark_moves_where_a_delivery_had_not_ended(place: Place) {
    let store = place.open().await;
    let (url, types) = (
        "https://example.com/".parse().unwrap(),
        vec!["#".parse().unwrap()],
    );
    let added = Endpoint::new(url, types, Secret::generate(), at(0));
    store.insert(&added).await.unwrap();
    let whom = added.id;
    let all = all_states(&store, &whom).await;
    let overtaken = async || store.endpoint(&whom).await.unwrap().unwrap().overtaken;
    store
        .begin_generation(&all[3..5], Only::All, at(7))
        .await
        .unwrap();
    assert_eq!(overtaken().await, 0, "they had ended, or never begun");

    let before = store.fleet_version().await.unwrap();
    store.begin_generation(&all[..1], Only::All, at(7)).await.unwrap();
    let now = store.fleet_version().await.unwrap();
    assert_eq!((now.number, overtaken().await), (before.number + 1, now.number));
    let changes = store.changes_since(Some(&before)).await.unwrap();
    let ChangedEndpoints::Since { changed, .. } = changes.endpoints else {
        panic!("all were read");
    };
    assert_eq!(changed[0].overtaken, now.number);
    let epoch = on_duty(&store).await;
    let claimed = claim(&store, epoch, &whom, 1).await;
    let version = claimed[0].history.version.clone().unwrap();
    assert_eq!((version.lineage, version.number), (now.lineage, now.number));

    store.cancel(&all[5..], at(9)).await.unwrap();
    assert_eq!(overtaken().await, now.number + 1);
    store.mark(&whom).await.unwrap();
    assert_eq!(overtaken().await, now.number + 2);
    let pause = |endpoint: &mut Endpoint| {
        endpoint.state = EndpointState::Paused;
        Ok(())
    };
    store.update(&whom, pause).await.unwrap().unwrap();
    assert_eq!(overtaken().await, now.number + 2, "another change leaves it");
}

/// As by a fault of the disk, or of another program.
async fn what_cannot_be_read_holds_up_nothing_else(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let epoch = on_duty(&store).await;
    write(&store, &events(["a", "b", "c", "d"].map(|id| event(id, "a.b")))).await;
    write(
        &store,
        &["a", "b", "c", "d"].map(|id| held(hold(id, whom.clone()))),
    )
    .await;
    place
        .execute(
            "DELETE FROM events WHERE id = 'a'; \
             UPDATE events SET body = substr(body, 1, 5) WHERE id = 'b'; \
             UPDATE held SET history = 'none' WHERE event = (SELECT sequence FROM events WHERE id = 'c')",
        )
        .await;
    let request = ClaimRequest {
        endpoint: whom.clone(),
        limit: 9,
        from: ClaimFrom::LiveFirst,
    };
    let claims = store.claim(epoch, &[request], MUCH).await.unwrap().unwrap();
    assert_eq!(ids(&claims[0].deliveries), ["d"]);
    assert_eq!((claims[0].unreadable, claims[0].more), (3, false));
    assert_eq!(claim(&store, epoch, &whom, 9).await, []);
    let lost = store
        .hold_silent_claims_again(epoch, (HOUR, Duration::ZERO), 9)
        .await;
    assert_eq!(lost.unwrap().unwrap().deliveries, 1, "that which can be read");
}

async fn an_event_that_is_held_outlives_the_log(place: Place) {
    let (store, whom) = (place.open().await, endpoint(1));
    let epoch = on_duty(&store).await;
    write(&store, &events(["a", "b", "c"].map(|id| event(id, "a.b")))).await;
    write(&store, &["b", "c"].map(|id| held(hold(id, whom.clone())))).await;
    let everything = Retention {
        events_before: at(99),
        attempts_before: at(99),
    };
    while store.forget(&everything, 1).await.unwrap().more {}
    assert_eq!(store.oldest_event().await.unwrap(), None);
    let NewEvent { event: newer, .. } = event("d", "a.b");
    let brought = Hold {
        event: Some(String::from_utf8(newer.body().to_vec()).unwrap()),
        ..hold("d", whom.clone())
    };
    write(&store, &[held(brought)]).await;
    let claimed = claim(&store, epoch, &whom, 9).await;
    assert_eq!(ids(&claimed)[1..], ["b", "c"], "the log's in its order");
    let ends = ["b", "c", "d"].map(|id| Record::Attempt(delivered(tried(id, whom.clone(), 1))));
    write(&store, &ends).await;
    assert_eq!(held_now(&store).await.0, 0);
    assert_eq!(place.texts("SELECT id FROM kept").await, [""; 0]);
}

async fn what_is_held_is_told_by_endpoint_and_reason(place: Place) {
    let store = place.open().await;
    assert_eq!(store.waiting_by_endpoint().await.unwrap(), HeldNow::default());
    write(&store, &events(["a", "b"].map(|id| event(id, "a.b")))).await;
    let with = |id: &str, to: u8, reason| {
        held(Hold {
            reason,
            ..hold(id, endpoint(to))
        })
    };
    let records = [
        with("a", 1, HoldReason::Rate),
        with("b", 1, HoldReason::Slow),
        with("b", 2, HoldReason::Rate),
    ];
    let written = store.record(&records, Timestamp::default()).await.unwrap();
    assert!(written.held_changed);
    assert!(
        !store
            .record(&records, Timestamp::default())
            .await
            .unwrap()
            .held_changed
    );
    let epoch = on_duty(&store).await;
    claim(&store, epoch, &endpoint(1), 1).await;
    let mut now = store.waiting_by_endpoint().await.unwrap();
    now.endpoints.sort_by_key(|held| held.endpoint.clone());
    let told: Vec<_> = now
        .endpoints
        .iter()
        .map(|held| (held.by_reason.clone(), held.claimed))
        .collect();
    let both = vec![(HoldReason::Rate, 1), (HoldReason::Slow, 1)];
    for (number, (by_reason, _)) in (1..).zip(&told) {
        let waiting = store.waiting_for(&endpoint(number)).await.unwrap();
        assert_eq!(waiting.into_iter().collect::<Vec<_>>(), *by_reason);
    }
    assert!(store.waiting_for(&endpoint(3)).await.unwrap().is_empty());
    assert_eq!(told, [(both, 1), (vec![(HoldReason::Rate, 1)], 0)]);
    let changes = store.held_changes(0, 1).await.unwrap();
    assert_eq!((changes.through, changes.endpoints.len()), (now.through, 2));
    assert_eq!(store.held_changes(now.through, 9).await.unwrap().endpoints, []);
}
