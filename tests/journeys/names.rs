//! The names of endpoints' hosts: what a name server says is told, and one that says nothing delays nobody else.

use relay_testkit::{Answer, NameServer, Process, Receiver, Says, shared_broker, wait_until};
use relay_tests::{Database, World};
use reqwest::Method;
use serde_json::{Value, json};

/// A world whose deliverer asks this name server.
async fn asking(names: &NameServer) -> World {
    let mut world = World::on(shared_broker().await, Database::Sqlite).await;
    let addr = names.addr().to_string();
    world.add_deliverer_with(&[("RELAY_NAME_SERVERS", &addr)]).await;
    world.add_recorder().await;
    world
}

async fn add(world: &World, host: &str, receiver: &Receiver, types: &str) -> String {
    let url = format!("http://{host}:{}/hook", receiver.addr().port());
    let settings = json!({"url": url, "retry": []});
    world.api.add(receiver, &[types], settings).await.id
}

fn loopback(ttl: u32) -> Says {
    Says::Addresses(vec!["127.0.0.1".parse().unwrap()], ttl)
}

fn threads(process: &Process) -> usize {
    let tasks = format!("/proc/{}/task", process.pid());
    std::fs::read_dir(tasks).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_answers_hold_up_no_other_and_take_no_thread() {
    const SILENT: usize = 70;
    let names = NameServer::start().await;
    names.say("silent.test", Says::Nothing);
    names.say("healthy.test", loopback(1));
    let world = asking(&names).await;
    let receiver = Receiver::start().await;
    // Each delivery has a connection of its own, and needs the name again.
    receiver.respond_with(Answer::status(204).header("connection", "close"));
    add(&world, "healthy.test", &receiver, "ok.*").await;
    for n in 0..SILENT {
        let url = format!("http://e{n}.silent.test:{}/hook", receiver.addr().port());
        let settings = json!({"url": url, "retry": ["1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s"]});
        world.api.add(&receiver, &["evil.*"], settings).await;
    }
    let before = threads(&world.deliverers[0]);
    for n in 0..4 {
        world.api.publish("evil.x", json!(n)).await;
    }
    wait_until("every silent name to be asked for", || async {
        let waiting = (0..SILENT).filter(|n| names.asked(&format!("e{n}.silent.test")) == 0);
        match waiting.count() {
            0 => Ok(()),
            waiting => Err(format!("{waiting} are not")),
        }
    })
    .await;
    for n in 1..=5 {
        world.api.publish("ok.x", json!(n)).await;
        receiver.wait_for(n).await;
    }
    // The silent ones were being asked for all the while, and still are.
    let asked = || -> usize {
        (0..SILENT)
            .map(|n| names.asked(&format!("e{n}.silent.test")))
            .sum()
    };
    let before_that = asked();
    wait_until("another question for a silent name", || async {
        (asked() > before_that).then_some(())
    })
    .await;
    let after = threads(&world.deliverers[0]);
    assert!(
        after < before + 8,
        "{before} threads at first, {after} in the end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_name_server_says_is_told_and_kept() {
    let names = NameServer::start().await;
    let server = names.addr();
    names.say("there.test", loopback(60));
    names.say("half.test", Says::OnlyV4(vec!["127.0.0.1".parse().unwrap()], 60));
    names.say("empty.test", Says::NoAddress);
    names.say("broken.test", Says::ServerFailure);
    names.say("silent.test", Says::Nothing);
    let world = asking(&names).await;
    let receiver = Receiver::start().await;
    receiver.respond_with(Answer::status(204).header("connection", "close"));
    add(&world, "THERE.test", &receiver, "#").await;
    add(&world, "localhost", &receiver, "#").await;
    add(&world, "half.test", &receiver, "#").await;
    let mut failing = Vec::new();
    for (host, says) in [
        ("absent.test", "there is no such name (NXDOMAIN)".to_owned()),
        ("empty.test", "the name has no address".to_owned()),
        ("broken.test", format!("name server {server} answers SERVFAIL")),
        (
            "silent.test",
            format!("no answer from name server {server} within 5 s"),
        ),
    ] {
        let endpoint = add(&world, host, &receiver, "#").await;
        failing.push((endpoint, format!("{host} does not resolve: {says}")));
    }
    let mut ids = Vec::new();
    for n in 1..=3 {
        ids.push(world.api.publish("order.created", json!(n)).await);
        receiver.wait_for(3 * n).await;
    }
    assert_eq!(names.asked("there.test"), 2, "once for each family");
    assert_eq!(names.asked("localhost"), 0);
    for id in &ids {
        for (endpoint, detail) in &failing {
            let path = format!("/v1/events/{id}/attempts?endpoint={endpoint}");
            let attempt = wait_until("the attempt", || async {
                let response = world.api.call(Method::GET, &path, None).await;
                let page: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
                page["attempts"].get(0).cloned()
            })
            .await;
            assert_eq!(
                (&attempt["error"], &attempt["detail"]),
                (&json!("dns"), &json!(detail)),
                "{attempt}"
            );
        }
    }
}
