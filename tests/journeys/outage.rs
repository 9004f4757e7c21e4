//! The database goes away: delivery goes on, and everything is recorded when it is back.

use std::path::Path;

use relay_testkit::{Answer, Process, Proxy, Receiver, binary, private_postgres, shared_broker, wait_until};
use relay_tests::{Environment, World, limit, metrics_address};
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_postgres_delays_the_log_alone() {
    let mut postgres = private_postgres().await;
    let mut world = World::with_store(postgres.url()).await;
    world.add_deliverer().await;
    world.add_recorder().await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    publish_and_receive(&world, &receiver, 20).await;
    wait_until_recorded(&world, 20).await;

    postgres.kill().await;
    publish_and_receive(&world, &receiver, 200).await;
    for process in [&world.recorders[0], world.gateway()] {
        let metrics = metrics_address(process).await;
        world.api.wait_until_not_ready(&metrics).await;
    }
    for path in [
        "/v1/events",
        "/v1/deliveries",
        "/v1/events/x",
        "/v1/events/x/attempts",
    ] {
        let answer = world.api.call(Method::GET, path, None).await;
        assert_eq!(answer.status(), 503, "{path}");
    }

    // What is started meanwhile waits for it too, and can be told to stop.
    let environment = world.environment();
    let start = |program| Process::spawn(program, &settings(&environment), &[]);
    let [late, told] = [start("relay-deliverer"), start("relay-gateway")];
    for process in [&late, &told] {
        world
            .api
            .wait_until_not_ready(&metrics_address(process).await)
            .await;
    }
    told.terminate();
    assert!(told.wait_exit().await.success());

    postgres.start().await;
    world.api.wait_until_ready(&metrics_address(&late).await).await;
    wait_until_recorded(&world, 200).await;
    for process in [&world.recorders[0], world.gateway()] {
        world.api.wait_until_ready(&metrics_address(process).await).await;
        assert_eq!(process.exit_status(), None);
    }
}

/// What a full disk is to a program: its writes fail. Here because its files may not be so large.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_delays_the_log_alone() {
    let mut world = World::without_deliverer(shared_broker().await).await;
    world.add_deliverer().await;
    let recorder = recorder_that_survives_limits(&world).await;
    let metrics = metrics_address(&recorder).await;
    let receiver = Receiver::start().await;
    world.api.add(&receiver, &["#"], json!({})).await;
    publish_and_receive(&world, &receiver, 20).await;
    wait_until_recorded(&world, 20).await;

    limit(&recorder, "--fsize=1:unlimited");
    publish_and_receive(&world, &receiver, 200).await;
    world.api.wait_until_not_ready(&metrics).await;
    assert!(recorded(&world).await < 200);

    limit(&recorder, "--fsize=unlimited:unlimited");
    wait_until_recorded(&world, 200).await;
    world.api.wait_until_ready(&metrics).await;
    assert_eq!(recorder.exit_status(), None);
}

/// The signal that a too large file brings would end it, where a full disk only is an error.
async fn recorder_that_survives_limits(world: &World) -> Process {
    let environment = world.environment();
    let program = binary("relay-recorder");
    let args = ["--ignore-signal=XFSZ", program.to_str().unwrap()];
    let recorder = Process::spawn_path(Path::new("/usr/bin/env"), &settings(&environment), &args);
    world
        .api
        .wait_until_ready(&metrics_address(&recorder).await)
        .await;
    recorder
}

fn settings(environment: &Environment) -> Vec<(&str, &str)> {
    environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

/// Publishes until the receiver is to have `total` requests, and waits for them.
async fn publish_and_receive(world: &World, receiver: &Receiver, total: usize) {
    for n in receiver.requests().len()..total {
        world.api.publish("order.created", json!(n)).await;
    }
    receiver.wait_for(total).await;
}

async fn recorded(world: &World) -> usize {
    let page = world
        .api
        .json(Method::GET, "/v1/deliveries?state=delivered&limit=1000", None)
        .await;
    page["deliveries"].as_array().unwrap().len()
}

async fn wait_until_recorded(world: &World, total: usize) {
    wait_until("everything to be recorded", || async {
        let answer = world.api.call(Method::GET, "/v1/deliveries?limit=1", None).await;
        if answer.status() == 503 {
            return Err("503".to_owned());
        }
        let recorded = recorded(world).await;
        (recorded == total)
            .then_some(())
            .ok_or_else(|| format!("{recorded} of {total}"))
    })
    .await;
}

/// Since when endpoints fail is to be written down then, and cannot be.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_postgres_does_not_keep_a_deliverer_from_a_new_connection_to_the_broker() {
    let mut postgres = private_postgres().await;
    let mut world = World::with_store(postgres.url()).await;
    let proxy = Proxy::start(shared_broker().await).await;
    world.amqp_url = proxy.url();
    world.add_deliverer_with(&[("RELAY_DISABLE_AFTER", "1s")]).await;
    let (healthy, failing) = (Receiver::start().await, Receiver::start().await);
    failing.respond_with(Answer::status(500));
    world.api.add(&healthy, &["#"], json!({})).await;
    for _ in 0..30 {
        let settings = json!({"retry": vec!["1s"; 20]});
        world.api.add(&failing, &["order.*"], settings).await;
    }
    // The deliverer of this has read all that was added before.
    world.api.publish("known", json!(0)).await;
    healthy.wait_for(1).await;
    postgres.kill().await;
    publish_and_receive(&world, &healthy, 2).await;
    failing.wait_for(30 * 5).await;

    proxy.cut();
    publish_and_receive(&world, &healthy, 20).await;
}

/// That it is gone cannot be written down, and yet holds for the next connection to the broker too.
#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_stopped_an_endpoint_that_is_gone_is_sent_nothing_more() {
    let mut postgres = private_postgres().await;
    let mut world = World::with_store(postgres.url()).await;
    let proxy = Proxy::start(shared_broker().await).await;
    world.amqp_url = proxy.url();
    let metrics = metrics_address(world.add_deliverer().await).await;
    let (healthy, gone) = (Receiver::start().await, Receiver::start().await);
    gone.respond_with(Answer::status(410));
    world.api.add(&healthy, &["#"], json!({})).await;
    world.api.add(&gone, &["order.*"], json!({})).await;
    // The deliverer of this has read both.
    world.api.publish("known", json!(0)).await;
    healthy.wait_for(1).await;
    postgres.kill().await;
    publish_and_receive(&world, &healthy, 2).await;
    world
        .api
        .wait_for_metric(&metrics, r#"relay_dead_letters_total{reason="endpoint_gone"} 1"#)
        .await;
    assert_eq!(gone.count(), 1);

    proxy.cut();
    publish_and_receive(&world, &healthy, 20).await;
    assert_eq!(gone.count(), 1);
    postgres.start().await;
    world.api.wait_until_ready(&metrics).await;
    wait_until("it to be disabled", || async {
        let view = world.api.json(Method::GET, "/v1/endpoints", None).await;
        let endpoints = view["endpoints"].as_array().unwrap();
        endpoints.iter().any(|endpoint| endpoint["state"] == "disabled")
    })
    .await;
    assert_eq!(gone.count(), 1);
}
