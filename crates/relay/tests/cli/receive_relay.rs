use std::sync::{Arc, Mutex};

use relay_event::{EndpointId, Secret};
use relay_testkit::{Answer, Receiver, wait_until};
use serde_json::json;

use crate::{receive::Receiving, support::relay_json};

/// What the stand-in for a gateway knows: an endpoint's URL and its secret.
type Known = Arc<Mutex<Option<(String, Secret)>>>;

/// The two requests `relay receive` makes.
async fn gateway(known: &Known) -> Receiver {
    let id = EndpointId::generate();
    let secrets_path = format!("/v1/endpoints/{id}/secrets");
    let (receiver, known) = (Receiver::start().await, Arc::clone(known));
    receiver.respond_by(move |request| {
        let known = known.lock().unwrap();
        let endpoints = known
            .iter()
            .map(|(url, _)| json!({"id": id, "url": url, "state": "active"}));
        let secrets = known
            .iter()
            .map(|(_, secret)| json!({"secret": secret, "expires_at": null}));
        let answer = match request.path.as_str() {
            "/v1/endpoints" => json!({"endpoints": endpoints.collect::<Vec<_>>()}),
            path if path == secrets_path => json!({"secrets": secrets.collect::<Vec<_>>()}),
            _ => return Answer::status(404),
        };
        Answer::status(200).body(answer.to_string())
    });
    receiver
}

#[tokio::test]
async fn secrets_are_asked_of_the_relay_also_of_endpoints_that_come_later() {
    let known = Known::default();
    let gateway = gateway(&known).await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}", gateway.addr());
    std::fs::write(folder.path().join("relay.json"), relay_json(&url)).unwrap();
    std::fs::write(folder.path().join("token"), "abc\n").unwrap();
    let env = [("RELAY_DATA", folder.path().to_str().unwrap())];
    let receiving = Receiving::start(&env, &[]).await;

    let (secret, other) = (Secret::generate(), Secret::generate());
    assert_eq!(receiving.deliver(&secret, "a").await, 401);
    let hook = format!("http://localhost:{}/hook", receiving.port);
    *known.lock().unwrap() = Some((hook.clone(), secret.clone()));
    assert_eq!(receiving.deliver(&secret, "a").await, 200);
    assert_eq!(receiving.deliver(&other, "b").await, 401);
    // A rotated secret is learned in the same way.
    *known.lock().unwrap() = Some((hook, other.clone()));
    assert_eq!(receiving.deliver(&other, "b").await, 200);
    assert_eq!(gateway.requests()[0].header("authorization"), Some("Bearer abc"));

    // Known secrets need no relay.
    gateway.stop().await;
    assert_eq!(receiving.deliver(&other, "c").await, 200);
    assert_eq!(receiving.deliver(&secret, "d").await, 401);
    assert!(!receiving.process.output().contains("not checked"));
}

#[tokio::test]
async fn a_relay_may_be_started_later() {
    let known = Known::default();
    let gateway = gateway(&known).await;
    let folder = tempfile::tempdir().unwrap();
    let env = [("RELAY_DATA", folder.path().to_str().unwrap())];
    let receiving = Receiving::start(&env, &[]).await;
    let secret = Secret::generate();
    assert_eq!(receiving.deliver(&Secret::generate(), "a").await, 200);
    receiving.process.wait_for_output("not checked").await;

    let hook = format!("http://127.0.0.1:{}/hook", receiving.port);
    *known.lock().unwrap() = Some((hook, secret.clone()));
    std::fs::write(folder.path().join("token"), "abc\n").unwrap();
    let url = format!("http://{}", gateway.addr());
    std::fs::write(folder.path().join("relay.json"), relay_json(&url)).unwrap();
    wait_until("signatures to be checked", || async {
        receiving.deliver(&Secret::generate(), "b").await == 401
    })
    .await;
    assert_eq!(receiving.deliver(&secret, "c").await, 200);
}
