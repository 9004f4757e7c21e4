use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fill() -> Fill {
    Fill {
        id: "filled-id".parse().unwrap(),
        source: "/filled".to_owned(),
        time: Timestamp::from_millis(0).unwrap(),
    }
}

fn parse(json: &serde_json::Value) -> Result<Event, Invalid> {
    Event::parse(json.to_string().into())
}

fn valid() -> serde_json::Value {
    json!({"specversion": "1.0", "id": "1", "source": "/orders", "type": "order.created"})
}

#[test]
fn keeps_the_bytes_that_came() {
    let body = Bytes::from_static(b" {\"type\":\"a.b\", \"specversion\":\"1.0\",\"id\":\"1\",\n \"source\":\"/x\",\"data\":{\"b\":1.50,\"a\":1e2}} ");
    assert_eq!(Event::parse(body.clone()).unwrap().body(), &body);
}

/// Each changes one attribute of a valid event, and the refusal names it.
#[test]
fn names_the_attribute_it_refuses() {
    let wrong = [
        ("specversion", json!("0.3")),
        ("specversion", json!(1.0)),
        ("id", json!("")),
        ("id", json!(7)),
        ("id", json!("a\u{9b}b")),
        ("id", json!("x".repeat(1_025))),
        ("source", json!("")),
        ("source", json!("a b")),
        ("source", json!("http://[bad")),
        ("source", json!("/a<b>")),
        ("source", json!("/a%zz")),
        ("type", json!("a\nb")),
        ("type", json!("a.*")),
        ("type", json!(null)),
        ("time", json!("yesterday")),
        ("time", json!("2026-02-30T00:00:00Z")),
        ("subject", json!("")),
        ("subject", json!("a\u{ffff}")),
        ("subject", json!("x".repeat(1_025))),
        ("datacontenttype", json!(5)),
        ("datacontenttype", json!("json")),
        ("datacontenttype", json!("text/plain\n")),
        ("dataschema", json!("/schema.json")),
        ("dataschema", json!(format!("https://{}", "x".repeat(8_192)))),
        ("data_base64", json!("not base64!")),
        ("traceParent", json!("upper case")),
        ("my_extension", json!("underscore")),
        ("extension", json!({"nested": true})),
        ("extension", json!(1.5)),
        ("extension", json!(1.0)),
        ("extension", json!(2_147_483_648_i64)),
        ("extension", json!(-2_147_483_649_i64)),
        ("extension", json!("tab\t")),
        ("extension", json!("\u{fdd0}")),
        ("extension", json!("x".repeat(8_193))),
        (&name_of(65), json!("x")),
    ];
    for (name, value) in wrong {
        let mut event = valid();
        event[name] = value.clone();
        let refused = parse(&event).expect_err(&format!("{name}: {value}"));
        assert_eq!(refused.field, name, "{refused}");
    }
    for name in ["specversion", "id", "source", "type"] {
        let mut event = valid();
        event.as_object_mut().unwrap().remove(name);
        assert_eq!(parse(&event).unwrap_err(), Invalid::new(name, "is missing"));
    }
}

fn name_of(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// Values that CloudEvents allows and older versions of the relay did not, and the limits themselves.
#[test]
fn takes_what_cloudevents_allows() {
    let right = [
        ("id", json!("two words / ü?%")),
        ("id", json!("x".repeat(1_024))),
        ("type", json!("a..b")),
        ("type", json!("größe ändern.*x")),
        ("time", json!("0001-01-01T00:00:00Z")),
        ("time", json!("0001-01-01T00:00:00+14:00")),
        ("time", json!("9999-12-31T23:59:59.9999999-12:00")),
        ("subject", json!("x".repeat(1_024))),
        ("datacontenttype", json!("text/plain; charset=utf-8")),
        ("dataschema", json!("urn:schema:1")),
        ("extension", json!("")),
        ("extension", json!(true)),
        ("extension", json!(i32::MIN)),
        ("extension", json!(i32::MAX)),
        ("extension", json!("x".repeat(8_192))),
        (&name_of(64), json!("x")),
    ];
    for (name, value) in right {
        let mut event = valid();
        event[name] = value;
        assert_eq!(parse(&event).map(drop), Ok(()), "{name}");
    }
}

/// JSON format, section 2.2.
#[test]
fn what_is_null_is_unset() {
    for name in [
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
        "extension",
        "data",
        "data_base64",
    ] {
        let mut event = valid();
        event[name] = json!(null);
        let body = event.to_string();
        let read = Event::parse(body.clone().into()).expect(name);
        assert_eq!((read.subject(), read.body().as_ref()), (None, body.as_bytes()));
    }
    let mut event = valid();
    event["data"] = json!({"a": 1});
    event["data_base64"] = json!(null);
    assert!(parse(&event).is_ok());
    for name in ["specversion", "id", "source", "type"] {
        let mut event = valid();
        event[name] = json!(null);
        assert_eq!(parse(&event).unwrap_err(), Invalid::new(name, "is missing"));
    }
}

#[test]
fn what_is_null_is_filled_in_and_stands_there_once() {
    let body = r#"{"id":null, "type":"a", "source" : null,"data":{"n": 1.00},"time":null, "x":null }"#;
    let event = Event::complete(body.into(), &fill()).unwrap();
    assert_eq!(
        event.body(),
        r#"{"specversion":"1.0","id":"filled-id","source":"/filled","time":"1970-01-01T00:00:00.000Z","type":"a","data":{"n": 1.00},"x":null}"#
    );
    let keyed = Event::with_key(body.into(), "k1", "/filled").unwrap();
    let event = Event::complete(keyed, &fill()).unwrap();
    assert_eq!(event.id(), &EventId::of_key("/filled", "k1"));
}

#[test]
fn data_may_nest_so_deep_and_no_deeper() {
    let nested = |data: String| {
        let event = format!(r#"{{"specversion":"1.0","id":"1","source":"/x","type":"a","data":{data}}}"#);
        Event::parse(event.into())
    };
    let lists = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    assert!(nested(lists(64)).is_ok() && nested(objects(64)).is_ok());
    let refused = Invalid::new("data", "nests deeper than 64");
    for depth in [65, 128, 100_000] {
        assert_eq!(nested(lists(depth)), Err(refused.clone()));
        assert_eq!(nested(objects(depth)), Err(refused.clone()));
        assert_eq!(
            binary(Some("application/json"), lists(depth).as_bytes()),
            Err(refused.clone())
        );
    }
    // Brackets in strings are none, and neither are those beside each other.
    assert!(nested(format!(r#""{}\" [[""#, "[".repeat(100))).is_ok());
    assert!(nested(format!("[{}[]]", "[],".repeat(100))).is_ok());
    assert!(nested(format!(r#"["{}"]"#, "[".repeat(100))).is_ok());
}

#[test]
fn an_event_has_so_many_members() {
    let with = |more: usize| {
        let mut event = valid();
        for n in 4..more {
            event[format!("x{n}")] = json!(1);
        }
        parse(&event)
    };
    assert!(with(1_000).is_ok());
    assert_eq!(
        with(1_001),
        Err(Invalid::new("event", "has more than 1000 members"))
    );
}

/// The log and the retries under way hold what older versions let in.
#[test]
fn what_was_let_in_before_still_reads() {
    let data = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let event = format!(
        r#"{{"specversion":"1.0","id":"1","source":"http://[bad","type":"a.b","subject":"s","datacontenttype":"?","dataschema":"x","rate":1.5,"data":{data}}}"#
    );
    let body = Bytes::from(event);
    assert!(Event::parse(body.clone()).is_err());
    let known = Event::reread(body.clone()).unwrap();
    assert_eq!(
        (known.source(), known.subject(), known.body()),
        ("http://[bad", Some("s"), &body)
    );
    for body in ["{}", "[]", r#"{"id":"1","source":"a b","type":"a"}"#] {
        assert!(Event::reread(body.into()).is_err(), "{body}");
    }
}

#[test]
fn refuses_what_two_readers_could_see_differently() {
    let twice = r#"{"specversion":"1.0","id":"1","source":"/x","type":"a","type":"b"}"#;
    assert_eq!(Event::parse(twice.into()).unwrap_err().field, "type");
    let escaped = r#"{"specversion":"1.0","id":"1","source":"/x","type":"a","\u0074ype":"b"}"#;
    assert_eq!(Event::parse(escaped.into()).unwrap_err().field, "type");
    let mut both = valid();
    both["data"] = json!(1);
    both["data_base64"] = json!("YQ==");
    assert_eq!(parse(&both).unwrap_err().field, "data_base64");
}

#[test]
fn what_is_no_object_is_refused() {
    for body in [
        &b""[..],
        b"[]",
        b"null",
        b"{",
        b"{}x",
        b"\xff\xfe",
        b"\"text\"",
        b"{\"a\":\"\xff\"}",
    ] {
        assert!(Event::parse(body.into()).is_err(), "{body:?}");
        assert!(Event::complete(body.into(), &fill()).is_err(), "{body:?}");
    }
}

#[test]
fn fills_in_what_is_missing_and_keeps_the_rest() {
    let event = Event::complete(r#" {"type":"a.b", "data":{"n":1.00}}"#.into(), &fill()).unwrap();
    assert_eq!(
        event.body(),
        r#"{"specversion":"1.0","id":"filled-id","source":"/filled","time":"1970-01-01T00:00:00.000Z","type":"a.b", "data":{"n":1.00}}"#
    );
    let own = Event::complete(r#"{"type":"a","id":"mine"}"#.into(), &fill()).unwrap();
    assert_eq!(own.id().as_str(), "mine");
    assert_eq!(
        Event::complete("{}".into(), &fill()).unwrap_err(),
        Invalid::new("type", "is missing")
    );
    let whole = valid().to_string();
    let timed = Event::complete(whole.clone().into(), &fill()).unwrap();
    assert!(timed.body().ends_with(&whole.as_bytes()[1..]));
}

#[test]
fn a_callback_is_no_part_of_the_event() {
    let read = |body: &'static str| Event::complete_with_callback(body.into(), &fill());
    let filled =
        r#"{"specversion":"1.0","id":"filled-id","source":"/filled","time":"1970-01-01T00:00:00.000Z","#;
    for (body, rest) in [
        (
            r#" {"type":"a.b", "callback": {"url": 1.50 }, "data":{"n":1.00}} "#,
            r#""type":"a.b","data":{"n":1.00}}"#,
        ),
        (
            r#"{"callback":{"url": 1.50 },"type":"a.b","id":null}"#,
            r#""type":"a.b"}"#,
        ),
        (
            r#"{"type":"a.b","c\u0061llback":{"url": 1.50 }}"#,
            r#""type":"a.b"}"#,
        ),
    ] {
        let (event, callback) = read(body).unwrap();
        assert_eq!(event.body(), &format!("{filled}{rest}"), "{body}");
        assert_eq!(callback.unwrap(), r#"{"url": 1.50 }"#);
    }
    // Any other is an attribute, as without this.
    for body in [
        r#"{"type":"a","callback":"https://example.com"}"#,
        r#"{"type":"a","callback":7}"#,
        r#"{"type":"a","callback":null}"#,
        r#"{"type":"a"}"#,
    ] {
        let event = Event::complete(body.into(), &fill()).unwrap();
        assert_eq!(read(body), Ok((event, None)));
    }
    for body in [
        r#"{"type":"a","callback":[]}"#,
        r#"{"type":"a","callback":{},"callback":{}}"#,
        r#"{"type":"a","callback":{},"callback":"b"}"#,
    ] {
        assert_eq!(read(body).unwrap_err().field, "callback", "{body}");
    }
    assert_eq!(
        read(r#"{"callback":{}}"#).unwrap_err(),
        Invalid::new("type", "is missing")
    );
    let mut whole = valid();
    whole["callback"] = json!({"url": "https://example.com"});
    let refused = Event::parse(whole.to_string().into()).unwrap_err();
    assert!(
        refused.to_string().starts_with("callback: cannot be an object"),
        "{refused}"
    );
}

#[test]
fn a_key_gives_the_id_that_is_missing() {
    let with_key = |body: &'static str| Event::with_key(body.into(), "k1", "/filled").unwrap();
    let own_source = with_key(r#" {"source":"/x", "data":{"n":1.00}}"#);
    let id = EventId::of_key("/x", "k1");
    assert_eq!(
        own_source,
        format!(r#"{{"id":"{id}","source":"/x", "data":{{"n":1.00}}}}"#)
    );
    let filled = Event::complete(with_key(r#"{"type":"a.b"}"#), &fill()).unwrap();
    assert_eq!(filled.id(), &EventId::of_key("/filled", "k1"));
    for body in [
        r#"{"id": "mine"}"#,
        "[]",
        "{",
        r#"{"source":7}"#,
        r#"{"source":""}"#,
    ] {
        assert!(Event::with_key(body.into(), "k1", "/filled").is_err(), "{body}");
    }
}

#[test]
fn a_batch_comes_apart_byte_for_byte() {
    let batch = Bytes::from_static(b" [ {\"n\": 1.50 ,\"a\":[1,2]},\n[] , 7,null ] ");
    let (events, count) = Event::split_batch(&batch, 9).unwrap();
    assert_eq!(events, ["{\"n\": 1.50 ,\"a\":[1,2]}", "[]", "7", "null"]);
    assert_eq!(count, 4);
    // They lie where they came.
    assert!(batch.as_ptr_range().contains(&events[3].as_ptr()));
    let (first, count) = Event::split_batch(&batch, 1).unwrap();
    assert_eq!((first.len(), count), (1, 4));
    assert_eq!(Event::split_batch(&"[]".into(), 9), Ok((Vec::new(), 0)));
    for body in [
        "",
        "{}",
        "null",
        "[",
        "[{}",
        "[{}]]",
        "[{} {}]",
        "[{},]",
        "[{\"a\"}]",
    ] {
        let refused = Event::split_batch(&body.into(), 9).expect_err(body);
        assert_eq!(refused.field, "batch");
    }
}

fn binary(content_type: Option<&str>, data: &[u8]) -> Result<serde_json::Value, Invalid> {
    let attributes = [
        ("type", "a.b"),
        ("id", "1"),
        ("specversion", "1.0"),
        ("source", "/x"),
    ];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let event = Event::from_binary(attributes.to_vec(), content_type, data)?;
    Ok(serde_json::from_slice(event.body()).unwrap())
}

#[test]
fn binary_mode_becomes_structured() {
    assert_eq!(
        binary(Some("application/json; charset=utf-8"), br#"{"n":1}"#).unwrap()["data"],
        json!({"n": 1})
    );
    assert_eq!(binary(None, b"[1]").unwrap()["data"], json!([1]));
    assert_eq!(binary(None, b"\x00\x01").unwrap()["data_base64"], json!("AAE="));
    assert_eq!(
        binary(Some("text/plain"), b"a \"b\"").unwrap()["data"],
        json!("a \"b\"")
    );
    assert_eq!(
        binary(Some("application/xml"), b"<a/>").unwrap()["data_base64"],
        json!("PGEvPg==")
    );
    assert_eq!(binary(Some("text/plain"), b"").unwrap().get("data"), None);
    assert_eq!(binary(Some("application/json"), b"{").unwrap_err().field, "data");
}

#[test]
fn binary_attributes_cannot_break_out() {
    let attribute = |name: &str| vec![(name.to_owned(), "x".to_owned())];
    for name in ["a\",\"b", "data", "data_base64", "datacontenttype", ""] {
        assert!(
            Event::from_binary(attribute(name), None, b"").is_err(),
            "{name:?}"
        );
    }
    assert!(Event::from_binary(Vec::new(), None, b"{}").is_err());
}

fn json_of_lists() -> impl Strategy<Value = serde_json::Value> {
    let leaf = "[\\[\\]{}\"\\\\a]{0,6}".prop_map(serde_json::Value::from);
    leaf.prop_recursive(8, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::vec(("[\\[{\"\\\\a-z]{0,4}", inner), 0..4)
                .prop_map(|members| { serde_json::Value::Object(members.into_iter().collect()) }),
        ]
    })
}

proptest! {
    #[test]
    fn filling_in_never_touches_the_data(data in "[ -~]{0,40}", spaces in "[ \n]{0,3}") {
        let raw = quoted(&data);
        let body = format!("{spaces}{{{spaces}\"type\":\"a\",{spaces}\"data\":{spaces}{raw}{spaces}}}{spaces}");
        let event = Event::complete(body.into(), &fill()).unwrap();
        let text = std::str::from_utf8(event.body()).unwrap();
        let kept = format!("\"data\":{spaces}{raw}{spaces}}}");
        prop_assert!(text.contains(&kept));
    }

    /// The oracle is a parser that recurses.
    #[test]
    fn nesting_is_counted_right(data in json_of_lists()) {
        fn depth(value: &serde_json::Value) -> usize {
            match value {
                serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
                serde_json::Value::Object(items) => 1 + items.values().map(depth).max().unwrap_or(0),
                _ => 0,
            }
        }
        let deepest = depth(&data);
        let text = data.to_string();
        prop_assert!(!nests_deeper(&text, deepest));
        prop_assert!(deepest == 0 || nests_deeper(&text, deepest - 1));
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = Event::parse(body.clone().into());
        let _ = Event::reread(body.clone().into());
        let _ = Event::complete(body.clone().into(), &fill());
        let _ = Event::with_key(body.clone().into(), "k1", "/x");
        let _ = Event::split_batch(&body.clone().into(), 3);
        let _ = Event::from_binary(vec![("id".to_owned(), "1".to_owned())], Some("text/json"), &body);
    }
}

#[test]
fn a_value_that_is_no_text_is_shown_as_it_came() {
    for (id, shown) in [
        (r#""""#, r#"not """#),
        ("7", "not 7"),
        (r#"["a\\b"]"#, r#"not ["a\\b"]"#),
        ("{\"\u{9b}\": 1}", r#"not {"\u{9b}": 1}"#),
        (
            &"1".repeat(70),
            &format!("not {} and 10 bytes more", "1".repeat(60)),
        ),
    ] {
        let event = format!(r#"{{"specversion":"1.0","id":{id},"source":"/x","type":"a"}}"#);
        let refused = Event::parse(event.into()).unwrap_err();
        assert_eq!(
            refused,
            Invalid::new("id", format!("must be a non-empty string, {shown}"))
        );
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_an_event() {
    const BOM: &str = "\u{feff}";
    let plain = r#"{"specversion":"1.0","id":"1","source":"/x","type":"a"}"#;
    let marked = Event::parse(format!("{BOM}{plain}").into()).unwrap();
    assert_eq!(marked, Event::parse(plain.into()).unwrap());
    let (events, count) = Event::split_batch(&format!("{BOM}[{plain}]").into(), 10).unwrap();
    assert_eq!((events, count), (vec![plain.into()], 1));
    // One is a mark, two are text.
    assert!(Event::parse(format!("{BOM}{BOM}{plain}").into()).is_err());
    let text = Event::from_binary(
        [
            ("id", "1"),
            ("source", "/x"),
            ("specversion", "1.0"),
            ("type", "a"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        Some("text/plain"),
        format!("{BOM}x").as_bytes(),
    );
    assert!(
        text.unwrap()
            .body()
            .ends_with("\"data\":\"\u{feff}x\"}".as_bytes())
    );
}
