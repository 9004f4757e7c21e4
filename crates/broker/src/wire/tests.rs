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
        published_at: Timestamp::from_millis(900),
    }
}

/// What the broker would hand out of this publish once it has waited.
fn returned(outgoing: &Outgoing) -> Delivery {
    let body = std::str::from_utf8(&outgoing.body).unwrap();
    delivery(
        "relay.return",
        &outgoing.routing_key,
        outgoing.properties.clone(),
        body,
    )
}

#[test]
fn a_retry_reads_back_with_its_history_and_its_bytes() {
    let endpoint = EndpointId::generate();
    let outgoing = retry(
        &topology(),
        "5m".parse().unwrap(),
        &endpoint,
        &event(),
        &history(),
    );
    assert_eq!(
        (outgoing.exchange.as_str(), outgoing.routing_key.as_str()),
        ("relay.retry.5m", endpoint.as_str())
    );
    let received = Received::read(&mut returned(&outgoing), &topology(), 1_000);
    assert_eq!(received.event.unwrap().body(), event().body());
    assert_eq!(received.history, history());
}

#[test]
fn a_producer_cannot_forge_a_history() {
    let endpoint = EndpointId::generate();
    let forged = retry(
        &topology(),
        "5m".parse().unwrap(),
        &endpoint,
        &event(),
        &history(),
    );
    let mut delivery = returned(&forged);
    delivery.exchange = "relay.events".into();
    delivery.routing_key = "order.created".into();
    assert_eq!(
        Received::read(&mut delivery, &topology(), 1_000).history.attempts,
        0
    );
}

#[test]
fn another_routing_key_than_the_type_is_refused() {
    let properties = event_properties(&event(), FieldTable::default());
    let body = std::str::from_utf8(event().body()).unwrap().to_owned();
    let mut wrong = delivery("relay.events", "secret.event", properties, &body);
    let refused = Received::read(&mut wrong, &topology(), 1_000).event.unwrap_err();
    assert_eq!(refused.why.field, "type");
}

#[test]
fn too_large_is_refused_before_it_is_read() {
    let mut large = delivery("relay.events", "a", BasicProperties::default(), "123456");
    let refused = Received::read(&mut large, &topology(), 5).event.unwrap_err();
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
        let event = Received::read(&mut binary, &topology(), 1_000).event.unwrap();
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
        history: History::default(),
        published: false,
        claims_death: false,
        earlier: earlier.map(Box::new),
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
    let expected = DeadLetter {
        reason: DeadReason::EndpointRemoved,
        detail: Some("was attempts_exhausted before it was redelivered".to_owned()),
        ..letter
    };
    assert_eq!(
        super::letter(&returned(&again), &topology(), 1_000).facts,
        expected
    );

    let taken = Received::read(&mut returned(&again), &topology(), 1_000);
    assert_eq!(
        (taken.history.attempts, taken.history.published_at),
        (0, Some(run))
    );
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

#[test]
fn a_retry_whose_endpoint_is_gone_says_so() {
    let endpoint = EndpointId::generate();
    let outgoing = retry(
        &topology(),
        "1s".parse().unwrap(),
        &endpoint,
        &event(),
        &history(),
    );
    let letter = letter(&returned(&outgoing), &topology(), 1_000).facts;
    assert_eq!(
        (letter.reason, letter.endpoint),
        (DeadReason::EndpointRemoved, Some(endpoint))
    );
    assert_eq!(letter.attempts, 3);
}

/// A message as its producer published it, which the broker moved out of an endpoint's queue.
fn moved(endpoint: &EndpointId, reason: &str, more: &[(&str, &str)]) -> Delivery {
    moved_from("relay.events", endpoint, reason, more)
}

/// Such a message whose entry names this exchange.
fn moved_from(exchange: &str, endpoint: &EndpointId, reason: &str, more: &[(&str, &str)]) -> Delivery {
    let mut death = FieldTable::default();
    for (name, value) in [
        ("queue", format!("relay.endpoint.{endpoint}").as_str()),
        ("reason", reason),
        ("exchange", exchange),
        ("original-expiration", "1000"),
    ] {
        put_text(&mut death, name, value);
    }
    death.insert("time".into(), AMQPValue::Timestamp(7));
    let mut headers = FieldTable::default();
    let deaths = vec![AMQPValue::FieldTable(death)];
    headers.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
    headers.insert("relay-attempts".into(), AMQPValue::LongLongInt(9));
    headers.insert("relay-dead-at".into(), AMQPValue::LongLongInt(1));
    headers.insert(PUBLISHED_AT.into(), AMQPValue::LongLongInt(253_402_300_799_999));
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
    let forged = [("relay-reason", "endpoint_gone"), ("relay-endpoint", "ep_0")];
    for (reason, said, detail, outlived) in [
        (
            "expired",
            DeadReason::Expired,
            Some("its producer set an expiration of 1000 ms"),
            true,
        ),
        ("delivery_limit", DeadReason::DeliveryLimit, None, false),
        (
            "rejected",
            DeadReason::InvalidEvent,
            Some("event: is 76 bytes, too large for the deliverer"),
            false,
        ),
    ] {
        let letter = letter(&moved(&endpoint, reason, &forged), &topology(), 1_000);
        assert_eq!(
            (
                letter.facts.reason,
                letter.facts.detail.as_deref(),
                letter.outlived
            ),
            (said, detail, outlived)
        );
        assert_eq!(letter.facts.endpoint.as_ref(), Some(&endpoint));
        assert_eq!((letter.facts.attempts, letter.run), (0, None), "{reason}");
        assert_eq!(letter.facts.dead_at, Timestamp::from_millis(7_000));
        assert_eq!(letter.event.unwrap(), event());
    }
}

#[test]
fn an_entry_that_a_producer_forged_makes_its_headers_no_facts() {
    let endpoint = EndpointId::generate();
    let expired = letter(
        &moved_from("relay.return", &endpoint, "expired", &[]),
        &topology(),
        1_000,
    );
    assert_eq!((expired.facts.attempts, expired.run), (0, None));

    let now = Timestamp::now();
    for reason in ["rejected", "delivery_limit"] {
        let mut forged = moved_from("relay.return", &endpoint, reason, &[]);
        let mut headers = forged.properties.headers().clone().unwrap();
        headers.insert("relay-first-attempt".into(), AMQPValue::LongLongInt(1));
        forged.properties = forged.properties.with_headers(headers);
        let letter = letter(&forged, &topology(), 1_000);
        let run = letter.run.unwrap();
        assert!(run.since(now) <= AHEAD * 2, "{run}");
        let first = letter.facts.first_attempt.unwrap();
        assert!(now.since(first) <= BEHIND, "{first}");
        assert!(letter.too_large.is_none());
    }
    let mut invalid = moved_from("relay.return", &endpoint, "rejected", &[]);
    invalid.data = br#"{"id":"1","source":"/x","type":"order.created"}"#.to_vec();
    let letter = letter(&invalid, &topology(), 1_000);
    assert_eq!(letter.event.unwrap_err().field, "specversion");
}

#[test]
fn only_digits_are_an_expiration() {
    let endpoint = EndpointId::generate();
    let mut forged = moved(&endpoint, "expired", &[]);
    let mut death = FieldTable::default();
    for (name, value) in [
        ("queue", format!("relay.endpoint.{endpoint}")),
        ("reason", "expired".to_owned()),
        ("original-expiration", "9".repeat(50_000)),
    ] {
        put_text(&mut death, name, &value);
    }
    let mut headers = FieldTable::default();
    let deaths = vec![AMQPValue::FieldTable(death)];
    headers.insert("x-death".into(), AMQPValue::FieldArray(deaths.into()));
    forged.properties = forged.properties.with_headers(headers);
    assert_eq!(
        letter(&forged, &topology(), 1_000).facts.detail.as_deref(),
        Some("its producer set an expiration of some ms")
    );
}

#[test]
fn what_is_larger_than_an_event_may_be_says_so_unless_it_was_let_in() {
    let endpoint = EndpointId::generate();
    let limit = event().body().len() - 1;
    let expired = letter(&moved(&endpoint, "expired", &[]), &topology(), limit);
    assert_eq!(expired.too_large, Some(event().body().len() as u64));
    let detail = expired.facts.detail.unwrap();
    assert!(detail.ends_with("at most 75 are allowed"), "{detail}");

    let reason = DeadReason::AttemptsExhausted;
    let tried = dead(
        &topology(),
        &endpoint,
        &received(None),
        &history(),
        reason,
        Timestamp::now(),
    );
    let body = std::str::from_utf8(&tried.body).unwrap();
    let delivery = delivery("relay.dead", "", tried.properties.clone(), body);
    assert_eq!(letter(&delivery, &topology(), limit).too_large, None);
}

#[test]
fn a_message_of_which_the_end_is_missing_says_how_large_it_is() {
    let endpoint = EndpointId::generate();
    let missing = [("relay-cut", "body 16777216 524288")];
    let letter = letter(&moved(&endpoint, "rejected", &missing), &topology(), 1_000);
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
    let refused = Received::read(&mut large, &topology(), 262_144)
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

/// What comes back from a delay has the broker's own `x-death`, and would be lost but for its beginning.
#[test]
fn the_broker_moves_what_is_too_large_unless_its_producer_may_have_forged_a_death() {
    for (exchange, death, moved) in [
        ("relay.events", false, true),
        ("relay.events", true, false),
        ("relay.return", true, true),
    ] {
        let mut headers = FieldTable::default();
        put_text(&mut headers, "relay-cut", "body 16777216 262144");
        if death {
            headers.insert("x-death".into(), AMQPValue::FieldArray(Vec::new().into()));
        }
        let properties = event_properties(&event(), headers);
        let mut large = delivery(exchange, "order.created", properties, "{");
        let received = Received::read(&mut large, &topology(), 262_144);
        let refused = received.event.unwrap_err();
        assert_eq!(refused.is_for_the_broker(), moved, "{exchange}, {death}");
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
