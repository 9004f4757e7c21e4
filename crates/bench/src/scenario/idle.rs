//! What the relay takes while there is nothing to do.

use std::time::{Duration, Instant};

use relay_testkit::{Process, wait_until_within};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    receiver::PATIENCE,
    report::Figure,
    usage::{Usage, descendants, memory},
};

/// What starting leaves to be done is done by then.
const SETTLING: Duration = Duration::from_secs(15);

const WATCHED: Duration = Duration::from_secs(60);

pub(super) async fn run() -> Vec<Figure> {
    let folder = TempDir::new().unwrap();
    let relay = start(&folder).await;
    sleep(SETTLING).await;
    // The broker is all that the relay started; its Erlang VM is by far the largest.
    let started = descendants(relay.pid());
    let resident = |pid: &u32| memory(*pid, "VmRSS");
    let of_broker = |pid: &u32| ("broker", *pid);
    let used = || {
        (
            Usage::of([("relay", relay.pid())]),
            Usage::of(started.iter().map(of_broker)),
        )
    };
    let (before, began) = (used(), Instant::now());
    sleep(WATCHED).await;
    let (now, seconds) = (used(), began.elapsed().as_secs_f64());
    let percent = |now: &Usage, before: &Usage| {
        let spent = now
            .cpu_since(before)
            .iter()
            .map(|(_, seconds)| seconds)
            .sum::<f64>();
        100.0 * spent / seconds
    };
    let figures = vec![
        Figure::new("the relay", "% of a core", &[percent(&now.0, &before.0)]).at_most(1.0),
        Figure::new("the relay", "MiB", &[resident(&relay.pid())]).at_most(40.0),
        Figure::new("its broker", "% of a core", &[percent(&now.1, &before.1)]),
        Figure::new("its broker", "MiB", &[started.iter().map(resident).sum()]),
    ];
    relay.terminate();
    relay.wait_exit().await;
    figures
}

async fn start(folder: &TempDir) -> Process {
    let server = std::env::var("RELAY_RABBITMQ_SERVER").ok();
    let mut environment = vec![("RELAY_DATA", folder.path().to_str().unwrap())];
    environment.extend(server.as_deref().map(|server| ("RELAY_RABBITMQ_SERVER", server)));
    let args = ["up", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let relay = Process::spawn("relay", &environment, &args);
    wait_until_within(PATIENCE, "the relay to be ready", || async {
        assert_eq!(relay.exit_status(), None, "{}", relay.output());
        relay.output().contains("The relay is ready.")
    })
    .await;
    relay
}
