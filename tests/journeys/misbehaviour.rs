//! Receivers misbehave in every way a server can: the log says what it was, and it costs nobody else
//! anything.

mod table;

use std::collections::BTreeMap;

use relay_testkit::{
    Answer, Authority, Certificate, Process, Receiver, Then, TlsFront, TlsManner, shared_broker, wait_until,
};
use relay_tests::{Database, World};
use reqwest::Method;
use serde_json::{Value, json};

use table::{Comes, Way};

/// How much more memory a deliverer may need than one that idles, in KiB. The receivers below offer
/// gigabytes.
const ROOM: u64 = 32 * 1024;

/// An endpoint at a receiver that misbehaves.
struct Stage {
    name: &'static str,
    comes: Comes,
    endpoint: String,
    _receiver: Receiver,
    _front: Option<TlsFront>,
}

impl Stage {
    async fn set(world: &World, (name, way, comes): table::Case) -> Self {
        let receiver = match way {
            Way::Narrow(..) => Receiver::narrow().await,
            _ => Receiver::start().await,
        };
        let scheme = if matches!(way, Way::Https(..)) {
            "https"
        } else {
            "http"
        };
        match way {
            Way::Refuses => receiver.stop().await,
            Way::Answers(answer) => receiver.respond_with(answer),
            Way::Greets(bytes, then) => receiver.greet_with(bytes, then),
            Way::Unread(bytes, then) | Way::Narrow(bytes, then) | Way::Https(bytes, then) => {
                receiver.respond_unread(bytes, then);
            }
        }
        let url = format!("{scheme}://{}/hook", receiver.addr());
        let endpoint = add(world, &url, &receiver, comes).await;
        Self {
            name,
            comes,
            endpoint,
            _receiver: receiver,
            _front: None,
        }
    }

    /// Sets up a receiver behind a server that speaks TLS in this manner.
    async fn behind_tls(
        world: &World,
        receiver: Receiver,
        (manner, certificate): (TlsManner, &Certificate),
        (name, comes): (&'static str, Comes),
    ) -> Self {
        let front = TlsFront::start_as(manner, certificate, &receiver).await;
        let endpoint = add(world, &front.url(), &receiver, comes).await;
        Self {
            name,
            comes,
            endpoint,
            _receiver: receiver,
            _front: Some(front),
        }
    }

    /// Every attempt came to what it should.
    fn check(&self, attempts: &[Value]) {
        let last = attempts.last().unwrap();
        let delivered = matches!(self.comes, Comes::Answered(200..=299));
        let (count, state) = if delivered { (1, "delivered") } else { (2, "dead") };
        assert_eq!(
            (attempts.len(), last["state"].as_str()),
            (count, Some(state)),
            "{}: {last}",
            self.name
        );
        for attempt in attempts {
            let (status, error) = (attempt["status"].as_u64(), attempt["error"].as_str());
            let detail = attempt["detail"].as_str();
            let right = match self.comes {
                Comes::Answered(expected) => (status, error, detail) == (Some(expected.into()), None, None),
                Comes::Lost(expected) => status == Some(expected.into()) || error == Some("reset"),
                Comes::Failed(class, expected, words) => {
                    (status, error) == (expected.map(u64::from), Some(class))
                        && detail.is_some_and(|detail| !detail.is_empty() && detail.contains(words))
                }
            };
            assert!(right, "{} should be {:?}: {attempt}", self.name, self.comes);
        }
    }
}

/// All who misbehave, and one beside them who does not.
async fn set_all(world: &World, cases: impl IntoIterator<Item = table::Case>) -> (Vec<Stage>, Receiver) {
    let mut stages = Vec::new();
    for case in cases {
        stages.push(Stage::set(world, case).await);
    }
    let healthy = Receiver::start().await;
    world.api.add(&healthy, &["#"], json!({})).await;
    (stages, healthy)
}

/// Time runs out where it is expected to, and nowhere else.
async fn add(world: &World, url: &str, receiver: &Receiver, comes: Comes) -> String {
    let timeout = if matches!(comes, Comes::Failed("timeout", ..)) {
        3_000
    } else {
        30_000
    };
    let settings = json!({"url": url, "retry": ["1s"], "timeout_ms": timeout});
    world.api.add(receiver, &["#"], settings).await.id
}

/// Waits until the log has the last attempt of an event at each of the endpoints, and checks them all.
async fn check(world: &World, event: &str, stages: &[Stage]) {
    let path = format!("/v1/events/{event}/attempts?limit=1000");
    let attempts = wait_until("the last attempts", || async {
        let response = world.api.call(Method::GET, &path, None).await;
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        let mut attempts = BTreeMap::<_, Vec<_>>::new();
        for attempt in answer["attempts"].as_array().into_iter().flatten() {
            let endpoint = attempt["endpoint"].as_str().unwrap().to_owned();
            attempts.entry(endpoint).or_default().push(attempt.clone());
        }
        let ended = |stage: &&Stage| {
            let mut all = attempts.get(&stage.endpoint).into_iter().flatten();
            all.any(|attempt| attempt["state"] != "retrying")
        };
        let missing: Vec<_> = stages
            .iter()
            .filter(|stage| !ended(stage))
            .map(|stage| stage.name)
            .collect();
        if missing.is_empty() {
            Ok(attempts)
        } else {
            Err(missing.join(", "))
        }
    })
    .await;
    for stage in stages {
        stage.check(&attempts[&stage.endpoint]);
    }
}

/// The most memory a process has needed so far, in KiB.
fn peak(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The deliverer has needed at most so many KiB more than it had `before` all this.
fn needed_at_most(more: u64, world: &World, before: u64) {
    let after = peak(&world.deliverers[0]);
    assert!(
        after < before + more,
        "{before} KiB at first, {after} KiB in the end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_misbehaviour_is_told_as_what_it_is() {
    let world = World::recorded(Database::Sqlite).await;
    let (stages, healthy) = set_all(&world, table::finite()).await;
    let before = peak(&world.deliverers[0]);
    let mut events = Vec::new();
    for size in [10, 200_000, 1_000] {
        events.push(world.api.publish("a.b", json!("x".repeat(size))).await);
    }
    let requests = healthy.wait_for(events.len()).await;
    assert!(
        requests
            .iter()
            .all(|request| request.header("accept-encoding").is_none())
    );
    for event in &events {
        check(&world, event, &stages).await;
    }
    assert_eq!(healthy.count(), events.len());
    let bodies = 200 * u64::try_from(stages.len()).unwrap();
    needed_at_most(ROOM + bodies, &world, before);
}

/// However much comes, a deliverer takes little of it, and turns to others in between.
#[tokio::test(flavor = "multi_thread")]
async fn what_never_ends_costs_neither_memory_nor_the_others_their_turn() {
    let world = World::recorded(Database::Sqlite).await;
    let (stages, healthy) = set_all(&world, table::endless()).await;
    let before = peak(&world.deliverers[0]);
    let mut events = Vec::new();
    for n in 0..5 {
        events.push(world.api.publish("a.b", json!(n)).await);
    }
    healthy.wait_for(events.len()).await;
    for event in &events {
        check(&world, event, &stages).await;
    }
    needed_at_most(ROOM, &world, before);
}

/// A deliverer trusts whom the system trusts, which `SSL_CERT_FILE` can say.
async fn trusting(known: &Authority) -> World {
    let mut world = World::on(shared_broker().await, Database::Sqlite).await;
    let roots = world.folder().join("roots.pem");
    std::fs::write(&roots, known.pem()).unwrap();
    world
        .add_deliverer_with(&[("SSL_CERT_FILE", roots.to_str().unwrap())])
        .await;
    world.add_recorder().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_certificate_that_is_trusted_in_time_and_for_the_host_will_do() {
    use TlsManner::{Proper, WantsCertificate};
    let (known, unknown) = (Authority::new("known"), Authority::new("unknown"));
    let world = trusting(&known).await;
    let host = "127.0.0.1";
    let refused = |words| Comes::Failed("tls", None, words);
    let mut stages = Vec::new();
    for (name, certificate, manner, comes) in [
        ("good", known.certify(host), Proper, Comes::Answered(204)),
        (
            "of another host",
            known.certify("example.com"),
            Proper,
            refused("the certificate is for example.com, not for 127.0.0.1"),
        ),
        (
            "expired",
            known.certify_expired(host),
            Proper,
            refused("the certificate expired at 2000-01-01T00:00:00.000Z"),
        ),
        (
            "of nobody known",
            unknown.certify(host),
            Proper,
            refused("nobody who is trusted here has issued the certificate (unknown issuer)"),
        ),
        (
            "self-signed",
            Certificate::self_signed(host),
            Proper,
            refused("the certificate is self-signed"),
        ),
        (
            "as openssl req -x509 makes it",
            Certificate::self_signed_authority(host),
            Proper,
            refused("the certificate is self-signed"),
        ),
        (
            "of version 1",
            known.certify(host).of_version_1(),
            Proper,
            refused("the certificate is not of X.509 version 3"),
        ),
        (
            "wants a certificate",
            known.certify(host),
            WantsCertificate,
            refused("the server wants a client certificate"),
        ),
    ] {
        let receiver = Receiver::start().await;
        stages.push(Stage::behind_tls(&world, receiver, (manner, &certificate), (name, comes)).await);
    }
    let event = world.api.publish("a.b", json!(1)).await;
    check(&world, &event, &stages).await;
}

/// An answer that only the end of the connection ends has come whole when it does, in whatever manner; one
/// that says how long it is has not.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_end_tls_without_a_word_have_answered() {
    let known = Authority::new("known");
    let world = trusting(&known).await;
    let certificate = known.certify("127.0.0.1");
    let close = |text: &str| Answer::raw(text.as_bytes().to_vec(), Then::Close);
    let short = Comes::Failed("body", Some(200), "end of file before message length reached");
    let chunk = Comes::Failed("body", Some(200), "");
    let mut stages = Vec::new();
    for (name, answer, comes) in [
        (
            "no length",
            close("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok"),
            Comes::Answered(200),
        ),
        (
            "HTTP/1.0",
            close("HTTP/1.0 201 Created\r\n\r\nok"),
            Comes::Answered(201),
        ),
        (
            "an empty body",
            close("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"),
            Comes::Answered(200),
        ),
        (
            "a length",
            close("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            Comes::Answered(200),
        ),
        (
            "cut short",
            close("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"),
            short,
        ),
        (
            "a chunk short",
            close("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\no"),
            chunk,
        ),
        (
            "in the head",
            close("HTTP/1.1 200 OK\r\nx: "),
            Comes::Failed("reset", None, "connection closed before message completed"),
        ),
    ] {
        let receiver = Receiver::start().await;
        receiver.respond_with(answer);
        let tls = (TlsManner::Abrupt, &certificate);
        stages.push(Stage::behind_tls(&world, receiver, tls, (name, comes)).await);
    }
    let event = world.api.publish("a.b", json!(1)).await;
    check(&world, &event, &stages).await;
}
