//! What the relay takes while there is nothing to do.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    relay,
    report::Figure,
    usage::{Usage, descendants, memory},
};

/// What starting leaves to be done is done by then.
const SETTLING: Duration = Duration::from_secs(15);

const WATCHED: Duration = Duration::from_secs(60);

pub(super) async fn run() -> Vec<Figure> {
    let folder = TempDir::new().unwrap();
    let relay = relay::all_in_one(&folder, &[]).await;
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
