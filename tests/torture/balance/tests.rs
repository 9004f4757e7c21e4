use super::*;

const ENDPOINT: &str = "ep_1";

/// One event that was published, delivered and logged as it should be.
fn sound() -> Evidence {
    let mut subscriber = Subscriber::new("all");
    subscriber.id = Some(ENDPOINT.to_owned());
    subscriber.wants(&["a.*"], Duration::ZERO);
    subscriber.settled(Duration::ZERO);
    let entry = Entry {
        event_type: "a.b".to_owned(),
        body: None,
        data: [0; 32],
        began: Duration::from_secs(1),
        confirmed: Some(Duration::from_secs(2)),
        sent: 1,
        repeat: false,
    };
    let received = Received {
        requests: 2,
        delivered: 1,
        altered: 0,
    };
    let stands = Stands {
        state: DeliveryState::Delivered,
        attempts: 2,
    };
    Evidence {
        entries: [("1".to_owned(), entry)].into(),
        subscribers: vec![subscriber],
        received: [(("1".to_owned(), "all".to_owned()), received)].into(),
        letters: BTreeMap::new(),
        logged: [("1".to_owned(), true)].into(),
        deliveries: [(key(), stands)].into(),
        odd: Vec::new(),
    }
}

fn key() -> (String, String) {
    ("1".to_owned(), ENDPOINT.to_owned())
}

fn problems(change: impl FnOnce(&mut Evidence)) -> Vec<String> {
    let mut evidence = sound();
    change(&mut evidence);
    balance(&evidence)
        .0
        .into_iter()
        .map(|problem| problem.what)
        .collect()
}

#[test]
fn what_was_delivered_balances() {
    let (problems, tally) = balance(&sound());
    assert_eq!(problems, []);
    assert_eq!(
        (
            tally.confirmed,
            tally.owed,
            tally.delivered,
            tally.failed_attempts
        ),
        (1, 1, 1, 1)
    );
}

#[test]
fn what_is_missing_is_found() {
    let lost = problems(|evidence| evidence.received.clear());
    assert!(lost[0].contains("neither delivered nor given up"), "{lost:?}");
    assert!(lost[1].contains("its receiver did not get it"), "{lost:?}");
    let unlogged = problems(|evidence| evidence.logged.clear());
    assert!(unlogged[0].contains("not in the log"), "{unlogged:?}");
    let unknown = problems(|evidence| evidence.deliveries.clear());
    assert!(unknown[0].contains("the log does not know"), "{unknown:?}");
}

#[test]
fn what_was_given_up_balances() {
    let dead = problems(|evidence| {
        evidence.received.clear();
        evidence
            .letters
            .insert(key(), vec![DeadReason::AttemptsExhausted]);
        let stands = Stands {
            state: DeliveryState::Dead,
            attempts: 2,
        };
        evidence.deliveries.insert(key(), stands);
    });
    assert_eq!(dead, [""; 0]);
    let odd = problems(|evidence| {
        evidence.letters.insert(key(), vec![DeadReason::DeliveryLimit]);
    });
    assert!(odd[0].contains("odd reason"), "{odd:?}");
}

#[test]
fn what_never_was_accepted_may_be_missing() {
    let nothing = problems(|evidence| {
        evidence.entries.get_mut("1").unwrap().confirmed = None;
        evidence.received.clear();
        evidence.logged.clear();
        evidence.deliveries.clear();
    });
    assert_eq!(nothing, [""; 0]);
}

#[test]
fn what_is_altered_or_astray_is_found() {
    let altered = problems(|evidence| {
        evidence.logged.insert("1".to_owned(), false);
        evidence
            .received
            .values_mut()
            .for_each(|received| received.altered = 1);
    });
    assert!(altered[0].contains("altered in the log") && altered[1].contains("on its way"));
    let astray = problems(|evidence| evidence.entries.get_mut("1").unwrap().event_type = "c.d".to_owned());
    assert!(astray[0].contains("does not concern"), "{astray:?}");
    let stranger = problems(|evidence| {
        evidence
            .received
            .insert(("2".to_owned(), "nowhere".to_owned()), Received::default());
    });
    assert_eq!(stranger.len(), 2, "{stranger:?}");
}

#[test]
fn what_the_log_has_still_on_its_way_is_found() {
    for state in [DeliveryState::Pending, DeliveryState::Retrying] {
        let waiting = problems(|evidence| {
            evidence.deliveries.insert(key(), Stands { state, attempts: 1 });
        });
        assert!(waiting[0].contains("still on its way"), "{waiting:?}");
    }
}

/// Of an event that was not confirmed some queues may have a copy, and the archive none.
#[test]
fn what_never_was_accepted_may_be_delivered_and_not_logged() {
    let partly = problems(|evidence| {
        evidence.entries.get_mut("1").unwrap().confirmed = None;
        evidence.logged.clear();
        evidence.deliveries.clear();
    });
    assert_eq!(partly, [""; 0]);
}
