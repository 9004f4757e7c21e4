use lapin::types::AMQPValue;

use super::{headers::ATTRIBUTE_PREFIXES, *};

fn topology() -> Topology {
    Topology::new("relay".parse().unwrap())
}

fn delivery(exchange: &str, key: &str, properties: BasicProperties, body: &str) -> Delivery {
    let mut delivery = Delivery::mock(1, exchange.into(), key.into(), false, body.into());
    delivery.properties = properties;
    delivery
}

fn event() -> Event {
    Event::parse(r#"{"specversion":"1.0","id":"1","source":"/x","type":"order.created","data":1}"#.into())
        .unwrap()
}

fn history() -> History {
    History {
        attempts: 3,
        first_attempt: Timestamp::from_millis(1_000),
        last_attempt: Timestamp::from_millis(2_000),
        last_status: Some(500),
        last_error: None,
        run: Timestamp::from_millis(900),
        version: "0123456789abcdef:17".parse().ok(),
    }
}

/// The delivery of this publish, if it came by this exchange.
fn by(exchange: &str, outgoing: &Outgoing) -> Delivery {
    let body = std::str::from_utf8(&outgoing.body).unwrap();
    let key = &outgoing.routing_key;
    delivery(exchange, key, outgoing.properties.clone(), body)
}

/// The delivery of this publish after its wait.
fn returned(outgoing: &Outgoing) -> Delivery {
    by("relay.return", outgoing)
}

fn again(outgoing: &Outgoing) -> Received {
    Received::read(&mut returned(outgoing), Queue::Again, &topology(), 1_000)
}

/// An event whose retry waits five minutes.
fn waiting(endpoint: &EndpointId) -> Outgoing {
    let message = Received {
        hop: 7,
        published_at: Timestamp::from_millis(800),
        ..received(None)
    };
    let delay = "5m".parse().unwrap();
    retry(&topology(), delay, endpoint, &message, &event(), &history())
}

fn with_header(mut delivery: Delivery, name: &str, value: AMQPValue) -> Delivery {
    let mut headers = delivery.properties.headers().clone().unwrap_or_default();
    headers.insert(name.into(), value);
    delivery.properties = delivery.properties.with_headers(headers);
    delivery
}

#[test]
fn a_retry_reads_back_with_its_endpoint_its_history_and_its_bytes() {
    let endpoint = EndpointId::generate();
    let outgoing = waiting(&endpoint);
    assert_eq!(outgoing.exchange, "relay.retry.5m");
    let received = again(&outgoing);
    assert_eq!(received.event.as_ref().unwrap().body(), event().body());
    assert_eq!(received.arrival, Arrival::Again);
    assert_eq!(received.endpoint, Some(endpoint));
    assert_eq!(
        (received.published_at, received.hop, &received.history),
        (Timestamp::from_millis(800), 7, &history())
    );
}

#[test]
fn a_producer_cannot_forge_an_address_nor_a_history() {
    for (queue, exchange, arrival) in [
        (Queue::Work, "relay.events", Arrival::Published),
        (Queue::Suspects, "relay.events", Arrival::Suspect),
        (Queue::WorkLate, "relay.work.late", Arrival::Returned),
        (Queue::ArchiveLate, "relay.archive.late", Arrival::Returned),
        (Queue::ArchiveLate, "relay.work.late", Arrival::Other),
        (Queue::Work, "relay.return", Arrival::Other),
        (Queue::Work, "relay.dispatch", Arrival::Other),
        (Queue::Again, "relay.events", Arrival::Other),
        (Queue::Again, "", Arrival::Other),
    ] {
        let mut forged = by(exchange, &waiting(&EndpointId::generate()));
        forged.routing_key = "order.created".into();
        let received = Received::read(&mut forged, queue, &topology(), 1_000);
        assert_eq!(received.arrival, arrival, "{queue} {exchange}");
        assert!(received.event.is_ok());
        assert_eq!((received.endpoint, received.hop), (None, 0), "{queue} {exchange}");
        assert_eq!(received.history, History::default(), "{queue} {exchange}");
    }
}

#[test]
fn what_is_addressed_to_nobody_or_has_another_form_is_no_event() {
    let endpoint = EndpointId::generate();
    for (header, value, said) in [
        (
            "relay-wire",
            AMQPValue::LongLongInt(2),
            "header relay-wire: is 2; this relay reads 1: is another version running?",
        ),
        (
            "relay-wire",
            AMQPValue::Void,
            "header relay-wire: is missing; this relay reads 1",
        ),
        (
            "relay-endpoint",
            AMQPValue::Void,
            "header relay-endpoint: is missing",
        ),
        (
            "relay-endpoint",
            AMQPValue::LongString("ep_1".into()),
            "header relay-endpoint: must be `ep_` and 32 hexadecimal digits, not \"ep_1\"",
        ),
    ] {
        let mut message = with_header(returned(&waiting(&endpoint)), header, value);
        let received = Received::read(&mut message, Queue::Again, &topology(), 1_000);
        assert_eq!(received.event.unwrap_err().why.to_string(), said);
    }
}

#[test]
fn an_event_of_a_refused_address_is_whole_in_its_letter() {
    let endpoint = EndpointId::generate();
    let version = AMQPValue::LongLongInt(2);
    let mut message = with_header(returned(&waiting(&endpoint)), "relay-wire", version);
    let received = Received::read(&mut message, Queue::Again, &topology(), 1_000);
    let refused = received.event.unwrap_err();
    let now = Timestamp::from_millis(5_000).unwrap();
    let outgoing = set_aside(&topology(), &refused, DeadReason::InvalidEvent, now);
    let letter = letter(&by("relay.dead", &outgoing), &topology(), 1_000);
    assert_eq!(letter.event.unwrap().body(), event().body());
}

fn dispatched(count: usize) -> Vec<crate::Dispatched> {
    let delivery = crate::Dispatched {
        event: event(),
        published_at: Timestamp::from_millis(800),
        hop: 3,
        history: history(),
        alone: false,
    };
    vec![delivery; count]
}

/// A batch of so many events that is taken from this queue, to which it came by an exchange of the same name.
fn batch(queue: Queue, endpoint: &EndpointId, count: usize) -> Delivery {
    let body = dispatch::written(&dispatched(count));
    let outgoing = super::dispatch(&topology(), endpoint, &body);
    assert_eq!(outgoing.exchange, "relay.dispatch");
    by(&topology().queue(queue), &outgoing)
}

#[test]
fn a_batch_reads_back_event_by_event() {
    let endpoint = EndpointId::generate();
    let mut message = batch(Queue::Dispatch, &endpoint, 2);
    let read = Received::read_batch(&mut message, Queue::Dispatch, &topology()).unwrap();
    assert_eq!(read.len(), 2);
    for received in read {
        assert_eq!(received.arrival, Arrival::Dispatch);
        assert_eq!(received.endpoint.as_ref(), Some(&endpoint));
        assert_eq!((received.hop, &received.history), (3, &history()));
        assert_eq!(received.published_at, Timestamp::from_millis(800));
        assert_eq!(received.event.unwrap().body(), event().body());
    }
    let mut elsewhere = batch(Queue::Holds, &endpoint, 1);
    assert!(Received::read_batch(&mut elsewhere, Queue::Dispatch, &topology()).is_err());
    let version = AMQPValue::LongLongInt(2);
    let mut other = with_header(batch(Queue::Dispatch, &endpoint, 1), "relay-wire", version);
    let refused = Received::read_batch(&mut other, Queue::Dispatch, &topology()).unwrap_err();
    assert_eq!(refused.why.field, "header relay-wire");
    assert!(refused.size() > 76);
}

#[test]
fn what_was_returned_too_often_is_held_with_its_event() {
    let endpoint = EndpointId::generate();
    let now = Timestamp::from_millis(9_000).unwrap();
    let single = by("relay.holds", &waiting(&endpoint));
    for (mut message, count, hop) in [(single, 1, 7), (batch(Queue::Holds, &endpoint, 2), 2, 3)] {
        let read = crate::Holds::read(&mut message, 1_000, now);
        assert!(read.refused.is_empty() && read.holds.len() == count);
        for hold in read.holds {
            assert_eq!(hold.check(), Ok(()));
            assert_eq!((hold.reason, hold.at, hold.hop), (HoldReason::Returned, now, hop));
            assert_eq!((&hold.endpoint, &hold.history), (&endpoint, &history()));
            assert_eq!(hold.event().unwrap().unwrap().body(), event().body());
        }
    }
}

#[test]
fn each_part_of_a_batch_that_is_no_event_is_set_aside_with_its_bytes() {
    let endpoint = EndpointId::generate();
    let now = Timestamp::from_millis(9_000).unwrap();
    let mut message = batch(Queue::Holds, &endpoint, 3);
    let body = std::str::from_utf8(&message.data).unwrap();
    message.data = body.replacen(r#""id""#, r#""i1""#, 1).into_bytes();
    let body = std::str::from_utf8(&message.data).unwrap();
    message.data = body.replacen(r#""id""#, r#""i2""#, 1).into_bytes();
    let read = crate::Holds::read(&mut message, 1_000, now);
    assert_eq!((read.holds.len(), read.refused.len()), (1, 2));
    for (refused, name) in read.refused.iter().zip([r#""i1""#, r#""i2""#]) {
        let outgoing = set_aside(&topology(), refused, DeadReason::InvalidRecord, now);
        let body = std::str::from_utf8(event().body())
            .unwrap()
            .replace(r#""id""#, name);
        assert_eq!(outgoing.body, body.as_bytes());
        let letter = letter(&by("relay.dead", &outgoing), &topology(), 1_000);
        assert_eq!(letter.facts.endpoint.as_ref(), Some(&endpoint));
        assert_eq!(letter.facts.attempts, history().attempts);
    }
}

#[test]
fn a_hold_that_is_refused_is_its_event_for_its_endpoint_or_the_record() {
    let endpoint = EndpointId::generate();
    let now = Timestamp::from_millis(9_000).unwrap();
    let mut message = by("relay.holds", &waiting(&endpoint));
    let [mut hold] = crate::Holds::read(&mut message, 1_000, now)
        .holds
        .try_into()
        .unwrap();
    let why = || Invalid::new("store", "does not take it");
    let set_aside = |hold: &Hold| {
        let refused = Refused::hold(hold, why());
        set_aside(&topology(), &refused, DeadReason::InvalidRecord, now)
    };
    let letter = letter(&by("relay.dead", &set_aside(&hold)), &topology(), 1_000);
    assert_eq!(letter.event.unwrap(), event());
    assert_eq!(
        (letter.facts.endpoint.as_ref(), letter.run),
        (Some(&endpoint), history().run)
    );
    assert_eq!(letter.facts.detail.as_deref(), Some("store: does not take it"));
    hold.event = None;
    let record: Hold = serde_json::from_slice(&set_aside(&hold).body).unwrap();
    assert_eq!(record, hold);
}

#[test]
fn only_what_the_log_surely_has_or_gets_leaves_its_event_to_it() {
    use Arrival::{Again, Dispatch, Expired, Other, Published, Returned, Suspect};
    let carries = |arrival, published_at| {
        let received = Received {
            arrival,
            published_at,
            ..received(None)
        };
        let now = Timestamp::from_millis(1_000_000).unwrap();
        received.for_the_log(&event(), now).is_some()
    };
    let (new, old) = (Timestamp::from_millis(940_001), Timestamp::from_millis(940_000));
    assert!(!carries(Published, new));
    assert!(carries(Published, old), "the log may have forgotten it");
    assert!(carries(Published, None), "nobody knows its age");
    for arrival in [Expired, Returned, Suspect, Again, Dispatch, Other] {
        assert!(carries(arrival, new), "{arrival:?}");
    }
}

#[test]
fn another_routing_key_than_the_type_is_refused() {
    let properties = event_properties(&event(), FieldTable::default());
    let body = std::str::from_utf8(event().body()).unwrap().to_owned();
    let mut wrong = delivery("relay.events", "secret.event", properties, &body);
    let refused = Received::read(&mut wrong, Queue::Work, &topology(), 1_000)
        .event
        .unwrap_err();
    assert_eq!(refused.why.field, "type");
}

#[test]
fn too_large_is_refused_before_it_is_read() {
    let mut large = delivery("relay.events", "a", BasicProperties::default(), "123456");
    let refused = Received::read(&mut large, Queue::Work, &topology(), 5)
        .event
        .unwrap_err();
    assert_eq!(
        refused.why.to_string(),
        "event: is 6 bytes; at most 5 are allowed"
    );
}

#[test]
fn every_binary_prefix_is_taken() {
    for prefix in ATTRIBUTE_PREFIXES {
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("id", "1"),
            ("source", "/x"),
            ("type", "a.b"),
            ("specversion", "1.0"),
        ] {
            put_text(&mut headers, &format!("{prefix}{name}"), value);
        }
        headers.insert(format!("{prefix}urgent").into(), AMQPValue::Boolean(true));
        headers.insert(format!("{prefix}time").into(), AMQPValue::Timestamp(0));
        let properties = properties(Some("application/json"), headers);
        let mut binary = delivery("relay.events", "a.b", properties, r#"{"n":1}"#);
        let event = Received::read(&mut binary, Queue::Archive, &topology(), 1_000)
            .event
            .unwrap();
        let text = std::str::from_utf8(event.body()).unwrap();
        assert!(
            text.contains(r#""urgent":"true""#) && text.contains("1970-01-01"),
            "{text}"
        );
    }
}

fn received(earlier: Option<Earlier>) -> Received {
    Received {
        event: Ok(event()),
        arrival: Arrival::Again,
        endpoint: None,
        published_at: None,
        hop: 0,
        history: History::default(),
        earlier: earlier.map(Box::new),
        alone: false,
    }
}

/// Its endpoint may be removed before it is there, or while it waits there.
#[test]
fn a_redelivery_that_comes_back_unattempted_keeps_its_facts() {
    let endpoint = EndpointId::generate();
    let letter = DeadLetter {
        reason: DeadReason::AttemptsExhausted,
        detail: None,
        endpoint: Some(endpoint.clone()),
        event_id: Some("1".to_owned()),
        event_type: Some("order.created".to_owned()),
        attempts: 6,
        first_attempt: Timestamp::from_millis(1_000),
        last_attempt: Timestamp::from_millis(2_000),
        last_status: Some(500),
        last_error: Some("body: broke off".to_owned()),
        dead_at: Timestamp::from_millis(3_000),
    };
    let run = Timestamp::from_millis(9_000).unwrap();
    let again = redeliver(&topology(), &endpoint, &event(), run, Some(&letter));
    assert_eq!(again.exchange, "relay.return");
    let expected = DeadLetter {
        reason: DeadReason::EndpointRemoved,
        detail: Some("was attempts_exhausted before it was redelivered".to_owned()),
        ..letter
    };
    let taken = self::again(&again);
    assert_eq!((taken.history.attempts, taken.history.run), (0, Some(run)));
    assert_eq!(taken.endpoint.as_ref(), Some(&endpoint));
    let buried = |history: &History| {
        let reason = DeadReason::EndpointRemoved;
        let buried = dead(&topology(), &endpoint, &taken, history, reason, run);
        let body = std::str::from_utf8(&buried.body).unwrap().to_owned();
        let delivery = delivery("relay.dead", "", buried.properties, &body);
        super::letter(&delivery, &topology(), 1_000).facts
    };
    let dead_at = Some(run);
    assert_eq!(buried(&taken.history), DeadLetter { dead_at, ..expected });

    // A delivery that was attempted again has new facts.
    let letter = buried(&history());
    assert_eq!((letter.attempts, letter.detail), (3, None));
}

#[test]
fn a_dead_letter_carries_its_facts() {
    let endpoint = EndpointId::generate();
    let now = Timestamp::from_millis(5_000).unwrap();
    let outgoing = dead(
        &topology(),
        &endpoint,
        &received(None),
        &history(),
        DeadReason::AttemptsExhausted,
        now,
    );
    let body = std::str::from_utf8(&outgoing.body).unwrap();
    let letter = letter(
        &delivery("relay.dead", "", outgoing.properties.clone(), body),
        &topology(),
        1_000,
    )
    .facts;
    assert_eq!(
        letter,
        DeadLetter {
            reason: DeadReason::AttemptsExhausted,
            detail: None,
            endpoint: Some(endpoint),
            event_id: Some("1".to_owned()),
            event_type: Some("order.created".to_owned()),
            attempts: 3,
            first_attempt: Timestamp::from_millis(1_000),
            last_attempt: Timestamp::from_millis(2_000),
            last_status: Some(500),
            last_error: None,
            dead_at: Some(now),
        }
    );
}

/// A message as its producer published it, which the broker moved out of a queue.
fn moved(queue: &str, reason: &str, more: &[(&str, &str)]) -> Delivery {
    let mut death = FieldTable::default();
    put_text(&mut death, "queue", queue);
    put_text(&mut death, "reason", reason);
    death.insert("time".into(), AMQPValue::Timestamp(7));
    let mut headers = FieldTable::default();
    let deaths = vec![AMQPValue::FieldTable(death)];
    headers.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
    headers.insert("relay-attempts".into(), AMQPValue::LongLongInt(9));
    headers.insert("relay-dead-at".into(), AMQPValue::LongLongInt(1));
    headers.insert(RUN.into(), AMQPValue::LongLongInt(253_402_300_799_999));
    for (name, value) in more {
        put_text(&mut headers, name, value);
    }
    let body = std::str::from_utf8(event().body()).unwrap().to_owned();
    delivery(
        "relay.dead",
        "order.created",
        event_properties(&event(), headers),
        &body,
    )
}

#[test]
fn what_the_broker_did_counts_more_than_a_producers_headers() {
    let endpoint = EndpointId::generate();
    let forged = [
        ("relay-reason", "endpoint_gone"),
        ("relay-endpoint", endpoint.as_str()),
    ];
    for (reason, said, detail) in [
        ("expired", DeadReason::Expired, None),
        ("delivery_limit", DeadReason::DeliveryLimit, None),
        (
            "rejected",
            DeadReason::InvalidEvent,
            Some("event: is 76 bytes, too large for the process that took it"),
        ),
    ] {
        for queue in ["relay.work.late", "relay.archive.late"] {
            let letter = letter(&moved(queue, reason, &forged), &topology(), 1_000);
            assert_eq!(
                (letter.facts.reason, letter.facts.detail.as_deref()),
                (said, detail)
            );
            assert_eq!(letter.facts.endpoint, None);
            assert_eq!((letter.facts.attempts, letter.run), (0, None), "{reason}");
            assert_eq!(letter.facts.dead_at, Timestamp::from_millis(7_000));
            assert_eq!(letter.event.unwrap(), event());
        }
    }
}

/// Rejected there because it is too large; everything that comes to that queue is the relay's own.
#[test]
fn what_is_rejected_on_its_way_to_the_log_keeps_its_endpoint() {
    let endpoint = EndpointId::generate();
    let own = [("relay-endpoint", endpoint.as_str())];
    let letter = letter(&moved("relay.holds", "rejected", &own), &topology(), 1_000);
    assert_eq!(letter.facts.reason, DeadReason::InvalidEvent);
    assert_eq!(
        (letter.facts.endpoint, letter.facts.attempts),
        (Some(endpoint), 9)
    );
    assert_eq!(letter.run, Timestamp::from_millis(253_402_300_799_999));
}

#[test]
fn what_somebody_else_put_there_is_no_letter_of_an_endpoint() {
    let endpoint = EndpointId::generate();
    let named = [("relay-endpoint", endpoint.as_str())];
    let letter = letter(&moved("another", "rejected", &named), &topology(), 1_000);
    assert_eq!(letter.facts.endpoint, None);
    let detail = letter.facts.detail.as_deref();
    assert_eq!(detail, Some("was not put here by the relay"));
}

#[test]
fn why_the_broker_moved_an_event_is_told_by_its_way() {
    for (reason, arrival) in [
        ("expired", Arrival::Expired),
        ("delivery_limit", Arrival::Returned),
        ("rejected", Arrival::Returned),
    ] {
        let mut late = moved("relay.work", reason, &[]);
        late.exchange = "relay.work.late".into();
        let received = Received::read(&mut late, Queue::WorkLate, &topology(), 1_000);
        assert_eq!(received.arrival, arrival);
        assert_eq!(received.event.unwrap(), event());
        assert_eq!(received.history, History::default());
    }
}

#[test]
fn what_is_larger_than_an_event_may_be_says_so_unless_it_was_let_in() {
    let endpoint = EndpointId::generate();
    let limit = event().body().len() - 1;
    let returned = letter(
        &moved("relay.work.late", "delivery_limit", &[]),
        &topology(),
        limit,
    );
    assert_eq!(returned.too_large, Some(event().body().len() as u64));

    let reason = DeadReason::AttemptsExhausted;
    let tried = dead(
        &topology(),
        &endpoint,
        &received(None),
        &history(),
        reason,
        Timestamp::now(),
    );
    assert_eq!(
        letter(&by("relay.dead", &tried), &topology(), limit).too_large,
        None
    );
}

#[test]
fn a_message_of_which_the_end_is_missing_says_how_large_it_is() {
    let missing = [("relay-cut", "body 16777216 524288")];
    let moved = moved("relay.work.late", "rejected", &missing);
    let letter = letter(&moved, &topology(), 1_000);
    let said = "event: is 16777216 bytes; at most 524288 are allowed";
    assert_eq!(letter.facts.detail.as_deref(), Some(said));
    assert_eq!(letter.event.unwrap_err().to_string(), said);
    assert_eq!(letter.cut_from, Some(16_777_216));
}

#[test]
fn a_letter_that_keeps_the_beginning_is_no_event() {
    let mut headers = FieldTable::default();
    put_text(&mut headers, "relay-cut", "body 16777216 262144");
    let body = std::str::from_utf8(event().body()).unwrap().to_owned();
    let mut large = delivery(
        "relay.events",
        "order.created",
        event_properties(&event(), headers),
        &body,
    );
    let refused = Received::read(&mut large, Queue::Archive, &topology(), 262_144)
        .event
        .unwrap_err();
    assert!(refused.is_cut());
    let now = Timestamp::from_millis(5_000).unwrap();
    let outgoing = set_aside(&topology(), &refused, DeadReason::InvalidEvent, now);
    let kept = letter(
        &delivery("relay.dead", "", outgoing.properties.clone(), &body),
        &topology(),
        1_000,
    );
    let detail = kept.facts.detail.unwrap();
    assert!(
        detail.contains("is 16777216 bytes") && detail.contains("are kept here"),
        "{detail}"
    );
    assert!(kept.event.is_err(), "though its beginning is one");
    assert_eq!(kept.cut_from, None, "the queue has no more of it");
}

#[test]
fn the_broker_moves_a_record_that_is_too_large_unless_somebody_may_have_forged_a_death() {
    for is_match in [false, true] {
        for death in [false, true] {
            let mut headers = FieldTable::default();
            put_text(&mut headers, "relay-cut", "body 16777216 2097152");
            if death {
                headers.insert("x-death".into(), AMQPValue::FieldArray(Vec::new().into()));
            }
            let mut large = delivery("relay.x", "", properties(Some("x/y"), headers), "{");
            let refused = if is_match {
                vec![*crate::log::blind_match(&large).unwrap_err()]
            } else {
                crate::Holds::read(&mut large, 1_000, Timestamp::default()).refused
            };
            assert_eq!(refused.len(), 1);
            assert_eq!(refused[0].is_for_the_broker(), !death);
        }
    }
}

/// What comes back from a delay has the broker's own `x-death`, and would be lost but for its beginning.
#[test]
fn the_broker_moves_what_is_too_large_unless_its_producer_may_have_forged_a_death() {
    for (queue, exchange, death, moved) in [
        (Queue::Work, "relay.events", false, true),
        (Queue::Archive, "relay.events", false, true),
        (Queue::WorkLate, "relay.work.late", true, true),
        (Queue::Suspects, "relay.events", true, false),
        (Queue::Again, "relay.return", true, true),
        (Queue::Work, "", false, true),
        (Queue::Work, "", true, false),
        (Queue::Again, "", true, false),
    ] {
        let mut headers = FieldTable::default();
        put_text(&mut headers, "relay-cut", "body 16777216 262144");
        if death {
            headers.insert("x-death".into(), AMQPValue::FieldArray(Vec::new().into()));
        }
        let properties = event_properties(&event(), headers);
        let mut large = delivery(exchange, "order.created", properties, "{");
        let received = Received::read(&mut large, queue, &topology(), 262_144);
        let refused = received.event.unwrap_err();
        assert_eq!(refused.is_for_the_broker(), moved, "{queue}, {exchange}, {death}");
    }
}

#[test]
fn a_time_is_believed_within_a_week_and_a_minute() {
    let now = Timestamp::now();
    let week = 7 * 24 * 60 * 60 * 1_000;
    for (millis, believed) in [
        (now.as_millis(), true),
        (now.as_millis() + 59_000, true),
        (now.as_millis() + 61_000, false),
        (now.as_millis() - week, true),
        (now.as_millis() - week - 1, false),
        (253_402_300_799_999, false),
        (i64::MAX, false),
        (0, false),
        (-1, false),
    ] {
        let mut headers = FieldTable::default();
        headers.insert(PUBLISHED_AT.into(), AMQPValue::LongLongInt(millis));
        let properties = BasicProperties::default().with_headers(headers);
        let claimed = claimed_time(&properties, &Headers::of(&properties), now);
        assert_eq!(claimed.is_some(), believed, "{millis}");
    }
}
