//! Endpoints come, change and go, and their secrets stay secret.

use relay_testkit::wait_until;
use reqwest::Method;
use serde_json::{Value, json};

use crate::relay::{Relay, folder};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const URL: &str = "https://example.com/hook";

async fn create(relay: &Relay, body: Value) -> Value {
    let created = relay.call(Method::POST, "/v1/endpoints", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let location = format!("/v1/endpoints/{}", created.json()["id"].as_str().unwrap());
    assert_eq!(created.header("location"), Some(location.as_str()));
    assert_eq!(created.header("cache-control"), Some("no-store"));
    created.json()
}

/// An endpoint's view, which holds no secret.
async fn show(relay: &Relay, id: &Value) -> Value {
    let shown = relay
        .get(&format!("/v1/endpoints/{}", id.as_str().unwrap()))
        .await;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert!(
        !shown.text.contains("whsec_") && !shown.text.contains("hunter2"),
        "{shown:?}"
    );
    shown.json()
}

#[tokio::test]
async fn a_new_endpoint_has_the_defaults_and_shows_its_secret_once() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let mut created = create(&relay, json!({"url": URL, "types": ["order.*"]})).await;
    let secret = created.as_object_mut().unwrap().remove("secret").unwrap();
    assert!(secret.as_str().unwrap().starts_with("whsec_"));
    assert_eq!(show(&relay, &created["id"]).await, created);
    let times = (created["created_at"].clone(), created["updated_at"].clone());
    let expected = json!({
        "id": created["id"], "url": URL, "types": ["order.*"], "source": null, "subject": null,
        "secrets": [{"expires_at": null}],
        "retry": ["30s", "5m", "30m", "2h", "24h"], "timeout_ms": 30000, "max_in_flight": 32,
        "rate_limit": null, "headers": {}, "signature": "standard", "state": "active",
        "expires_at": null, "created_at": times.0, "updated_at": times.1,
    });
    assert_eq!(created, expected);
    let listed = relay.get("/v1/endpoints").await;
    assert_eq!(listed.json(), json!({"endpoints": [expected]}));
}

#[tokio::test]
async fn every_field_can_be_given_and_changed() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let created = create(
        &relay,
        json!({
            "url": URL, "types": ["a.*", "b.#"], "secret": SECRET, "retry": ["1s"], "timeout_ms": 1000,
            "max_in_flight": 2, "rate_limit": 3, "headers": {"Authorization": "hunter2"},
            "signature": "plain", "paused": true,
            "source": "/imports", "subject": "import 42", "expires_at": "2099-12-31T01:00:00+01:00",
        }),
    )
    .await;
    assert_eq!(created["secret"], SECRET);
    let id = &created["id"];
    let view = show(&relay, id).await;
    assert_eq!(view["headers"], json!({"authorization": "…"}));
    assert_eq!(view["state"], "paused");
    assert_eq!(
        (&view["source"], &view["subject"], &view["expires_at"]),
        (
            &json!("/imports"),
            &json!("import 42"),
            &json!("2099-12-31T00:00:00.000Z")
        )
    );
    assert_eq!(
        (&view["rate_limit"], &view["signature"]),
        (&json!(3), &json!("plain"))
    );

    let change = json!({
        "url": "https://example.com/other", "types": ["c"], "retry": [], "timeout_ms": 2000,
        "max_in_flight": 4, "rate_limit": null, "headers": {}, "signature": "standard", "paused": false,
        "source": null, "subject": "import 43", "expires_at": null,
    });
    let changed = relay.patch(id.as_str().unwrap(), change.clone()).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let view = show(&relay, id).await;
    assert_eq!(changed.json(), view);
    for (field, value) in change.as_object().unwrap() {
        match field.as_str() {
            "paused" => assert_eq!(view["state"], "active"),
            _ => assert_eq!(view[field], *value, "{field}"),
        }
    }
    assert_ne!(view["updated_at"], created["updated_at"]);
    assert_eq!(view["created_at"], created["created_at"]);

    // What is not named stays, and nothing new is no change.
    let same = relay
        .patch(id.as_str().unwrap(), json!({"timeout_ms": 2000}))
        .await;
    assert_eq!(same.json(), view);
}

#[tokio::test]
async fn invalid_fields_are_named_and_nothing_is_changed() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let id = relay.add(&["a.b"]).await;
    let before = relay.get("/v1/endpoints").await.text;
    let table = [
        (json!({"url": "ftp://example.com"}), "url"),
        (json!({"url": null}), "url"),
        (json!({"types": []}), "types"),
        (json!({"types": "a.b"}), "types"),
        (json!({"types": ["a.b", "#.#.#"]}), "types[1]"),
        (json!({"types": [7]}), "types[0]"),
        (json!({"types": vec!["a"; 51]}), "types"),
        (json!({"source": ""}), "source"),
        (json!({"source": "no reference"}), "source"),
        (json!({"source": ["/a"]}), "source"),
        (json!({"subject": ""}), "subject"),
        (json!({"subject": "x".repeat(1_025)}), "subject"),
        (json!({"subject": 7}), "subject"),
        (json!({"secret": "whsec_c2hvcnQ="}), "secret"),
        (json!({"retry": ["30"]}), "retry[0]"),
        (json!({"retry": ["30s", "8d"]}), "retry[1]"),
        (json!({"retry": vec!["1s"; 21]}), "retry"),
        (json!({"retry": "30s"}), "retry"),
        (json!({"timeout_ms": 99}), "timeout_ms"),
        (json!({"timeout_ms": -1}), "timeout_ms"),
        (json!({"timeout_ms": null}), "timeout_ms"),
        (json!({"max_in_flight": 0}), "max_in_flight"),
        (json!({"max_in_flight": 70_000}), "max_in_flight"),
        (json!({"rate_limit": 0}), "rate_limit"),
        (json!({"headers": {"webhook-id": "x"}}), "headers"),
        (json!({"headers": {"x": 7}}), "headers.x"),
        (json!({"headers": {"x": "…"}}), "headers"),
        (json!({"signature": "crooked"}), "signature"),
        (json!({"paused": "yes"}), "paused"),
        (json!({"expires_at": "2026-01-31T09:30:00Z"}), "expires_at"),
        (json!({"expires_at": "1h"}), "expires_at"),
        (json!({"expires_at": 7}), "expires_at"),
        (json!({"colour": "red"}), "colour"),
        (json!({"id": "ep_0123456789abcdef0123456789abcdef"}), "id"),
        (json!({"state": "active"}), "state"),
    ];
    for (change, field) in table {
        let mut body = json!({"url": URL, "types": ["a.b"]});
        let wrong = change.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(wrong);
        let created = relay.call(Method::POST, "/v1/endpoints", body).await;
        let patched = relay.patch(&id, change.clone()).await;
        for refused in [created, patched] {
            let problem = refused.problem(400, "invalid");
            assert_eq!(problem["field"], field, "{change}: {problem}");
            assert!(!refused.text.contains("c2hvcnQ"), "{problem}");
        }
    }
    for (body, field) in [
        (json!({"types": ["a"]}), "url"),
        (json!({"url": URL}), "types"),
        (json!([]), "body"),
        (json!(null), "body"),
    ] {
        let refused = relay.call(Method::POST, "/v1/endpoints", body).await;
        assert_eq!(refused.problem(400, "invalid")["field"], field);
    }
    let refused = relay.patch(&id, json!({"secret": SECRET})).await;
    assert_eq!(refused.problem(400, "invalid")["field"], "secret");
    assert_eq!(relay.get("/v1/endpoints").await.text, before);
}

#[tokio::test]
async fn a_url_that_can_never_work_is_refused_with_what_is_wrong() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let label = format!("http://{}.example/", "a".repeat(64));
    for (url, says) in [
        ("http://example.com:0/", "must name a port from 1 to 65535, not 0"),
        (
            "http://example.com:99999/",
            "must name a port from 1 to 65535, not",
        ),
        (
            "ftp://example.com/",
            "must begin with http:// or https://, not ftp:",
        ),
        ("http:///x", "must name a host"),
        ("http:x", "must have two slashes after http:"),
        ("http:\\\\x", "must have two slashes after http:"),
        ("http://a..b/", "empty part between dots"),
        ("http://.../", "empty part between dots"),
        (&label, "at most 63 bytes between dots"),
        ("http://127.0.0.1/a\nX: y", "must not hold a line break"),
        ("http://127.0.0.1/a\tb", "must not hold a tab"),
        ("http://127.0.0.1\\a", "must not hold a backslash"),
        ("http://%31%32%37.0.0.1/", "means http://127.0.0.1/"),
        ("http://example.com/#a", "must have no fragment"),
    ] {
        let body = json!({"url": url, "types": ["a.b"]});
        let refused = relay.call(Method::POST, "/v1/endpoints", body).await;
        let problem = refused.problem(400, "invalid");
        assert_eq!(problem["field"], "url", "{url}: {problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(says),
            "{url}: {problem}"
        );
    }
    for url in [
        "http://[::ffff:127.0.0.1]/",
        "HTTP://EXAMPLE.com/a?b=%20",
        "https://b\u{fc}cher.example/\u{df}",
    ] {
        create(&relay, json!({"url": url, "types": ["a.b"], "paused": true})).await;
    }
}

#[tokio::test]
async fn a_disabled_endpoint_says_why_and_is_resumed_by_its_owner() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let id = relay.add(&["a.b"]).await;
    let at = relay_event::Timestamp::now();
    let disable = |endpoint: &mut relay_event::Endpoint| {
        let reason = "it answered 410 Gone".to_owned();
        endpoint.state = relay_event::EndpointState::Disabled { reason, at };
        Ok(())
    };
    relay.store.update(&id.parse().unwrap(), disable).await.unwrap();
    let view = show(&relay, &json!(id)).await;
    assert_eq!(view["state"], "disabled");
    assert_eq!(view["reason"], "it answered 410 Gone");
    assert_eq!(view["since"], at.to_string());
    let resumed = relay.patch(&id, json!({"paused": false})).await.json();
    assert_eq!(resumed["state"], "active");
    assert!(resumed.get("reason").is_none() && resumed.get("since").is_none());
}

#[tokio::test]
async fn a_rotated_secret_overlaps_with_the_one_before() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let created = create(&relay, json!({"url": URL, "types": ["a.b"]})).await;
    let path = format!("/v1/endpoints/{}", created["id"].as_str().unwrap());
    let rotate = async |body: Value| {
        relay
            .call(Method::POST, &format!("{path}/rotate-secret"), body)
            .await
    };

    let bare = relay.request(Method::POST, &format!("{path}/rotate-secret"));
    let rotated = relay.send(bare).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    assert_eq!(rotated.header("cache-control"), Some("no-store"));
    let (first, second) = (&created["secret"], &rotated.json()["secret"]);
    assert_ne!(first, second);
    let end = rotated.json()["previous_expires_at"].clone();
    let secrets = relay.get(&format!("{path}/secrets")).await.json();
    let expected =
        json!({"secrets": [{"secret": second, "expires_at": null}, {"secret": first, "expires_at": end}]});
    assert_eq!(secrets, expected);
    let view = show(&relay, &created["id"]).await;
    assert_eq!(
        view["secrets"],
        json!([{"expires_at": null}, {"expires_at": end}])
    );

    let chosen = rotate(json!({"secret": SECRET, "overlap": "0s"})).await.json();
    assert_eq!(chosen, json!({"secret": SECRET, "previous_expires_at": null}));
    let again = rotate(json!({"secret": SECRET})).await.json();
    assert_eq!(
        again,
        json!({"secret": SECRET, "previous_expires_at": null}),
        "sent again, it is the same"
    );

    for (body, field) in [
        (json!({"secret": "whsec_"}), "secret"),
        (json!({"overlap": "soon"}), "overlap"),
        (json!({"overlap": "721h"}), "overlap"),
        (json!({"overlap": 3}), "overlap"),
        (json!({"until": "24h"}), "until"),
    ] {
        assert_eq!(rotate(body).await.problem(400, "invalid")["field"], field);
    }
    for _ in 0..4 {
        assert_eq!(rotate(json!({})).await.status, 200);
    }
    assert_eq!(
        rotate(json!({})).await.problem(400, "invalid")["field"],
        "secrets"
    );
}

#[tokio::test]
async fn a_removed_endpoint_is_not_there() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let (id, kept) = (relay.add(&["a.b"]).await, relay.add(&["a.b"]).await);
    let removed = relay.delete(&id).await;
    assert_eq!((removed.status, removed.text.as_str()), (204, ""));
    relay.delete(&id).await.problem(404, "not-found");
    relay
        .patch(&id, json!({"paused": true}))
        .await
        .problem(404, "not-found");
    for path in ["", "/secrets"] {
        let path = format!("/v1/endpoints/{id}{path}");
        relay.get(&path).await.problem(404, "not-found");
    }
    let rotate = format!("/v1/endpoints/{id}/rotate-secret");
    relay
        .call(Method::POST, &rotate, json!({}))
        .await
        .problem(404, "not-found");
    let listed = relay.get("/v1/endpoints").await.json();
    assert_eq!(listed["endpoints"].as_array().unwrap().len(), 1);
    assert_eq!(listed["endpoints"][0]["id"], kept);
}

#[tokio::test]
async fn endpoints_are_counted_by_state() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let ids = [
        relay.add(&["a"]).await,
        relay.add(&["a"]).await,
        relay.add(&["a"]).await,
    ];
    relay.patch(&ids[0], json!({"paused": true})).await;
    relay.delete(&ids[1]).await;
    let count = |state: &str| relay.metric(&format!("relay_gateway_endpoints{{state=\"{state}\"}}"));
    wait_until("the counts", || async {
        let counts = (count("active"), count("paused"), count("disabled"));
        (counts == (1.0, 1.0, 0.0))
            .then_some(())
            .ok_or(format!("{counts:?}"))
    })
    .await;
}

#[tokio::test]
async fn all_endpoints_together_name_at_most_200_delays() {
    let folder = folder();
    let relay = Relay::start(&folder).await;
    let with = async |delays: Vec<String>| {
        let body = json!({"url": URL, "types": ["a.b"], "retry": delays});
        relay.call(Method::POST, "/v1/endpoints", body).await
    };
    let seconds = |range: std::ops::Range<u32>| range.map(|n| format!("{n}s")).collect::<Vec<_>>();
    // Beside the usual five: 195.
    for tens in 0..19 {
        let mut endpoint = relay_event::Endpoint::new(
            URL.parse().unwrap(),
            vec!["a.b".parse().unwrap()],
            SECRET.parse().unwrap(),
            relay_event::Timestamp::now(),
        );
        let delays = seconds(1_000 + tens * 10..1_010 + tens * 10);
        endpoint.retry = delays.join(",").parse().unwrap();
        relay.store.insert(&endpoint).await.unwrap();
    }
    assert_eq!(with(seconds(2_000..2_005)).await.status, 201);
    let refused = with(seconds(2_004..2_006)).await.problem(400, "invalid");
    assert_eq!(refused["field"], "retry");
    assert!(refused["detail"].as_str().unwrap().contains("200"), "{refused}");
    let known = with(seconds(2_000..2_003)).await;
    assert_eq!(known.status, 201, "known delays are no new queues: {known:?}");
    let id = known.json()["id"].as_str().unwrap().to_owned();
    let refused = relay.patch(&id, json!({"retry": ["3000s"]})).await;
    assert_eq!(refused.problem(400, "invalid")["field"], "retry");
    assert_eq!(with(vec!["30s".into()]).await.status, 201);
}
