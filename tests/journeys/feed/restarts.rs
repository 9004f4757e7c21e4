//! Whoever follows the feed gets all of it, in its order and once, whatever is restarted meanwhile.

use relay_testkit::{private_postgres, wait_until, wait_until_within};
use relay_tests::World;
use tokio::task::JoinSet;

use super::{
    OUTAGE,
    clients::{Reader, Way},
    ids, log, publish,
};

const EVENTS: usize = 50_000;
const PUBLISHERS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_skipped_or_repeated_whatever_is_restarted() {
    let mut postgres = private_postgres().await;
    let mut world = World::with_store(postgres.url()).await;
    world.add_recorder().await;
    let readers = [Way::Stream, Way::Poll, Way::Socket].map(|way| Reader::start(&world.api, way));
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let (api, share) = (world.api.clone(), EVENTS / PUBLISHERS);
        let numbers = publisher * share..(publisher + 1) * share;
        publishers.spawn(async move { publish(&api, "order.created", numbers).await });
    }

    until_read(&readers, EVENTS / 5).await;
    world.replace_gateway().await;
    until_read(&readers, 2 * EVENTS / 5).await;
    world.recorders.remove(0).kill_9();
    world.add_recorder().await;
    until_read(&readers, 3 * EVENTS / 5).await;
    postgres.stop().await;
    postgres.start().await;
    publishers.join_all().await;
    until_read(&readers, EVENTS).await;

    let log = log(&world).await;
    assert_eq!(log.len(), EVENTS);
    for reader in &readers {
        wait_until("the last events", || async { reader.count() >= EVENTS }).await;
        assert_eq!(ids(&reader.got()), log);
    }
    let [first, others @ ..] = readers.map(|reader| reader.got());
    assert!(others.iter().all(|got| *got == first), "the cursors are the same");
}

/// Waits until all have got so many, as long as they go on.
async fn until_read(readers: &[Reader], count: usize) {
    let slowest = || readers.iter().map(Reader::count).min().unwrap();
    while slowest() < count {
        let before = slowest();
        wait_until_within(OUTAGE, "the readers to go on", || async {
            (slowest() > before).then_some(()).ok_or(before)
        })
        .await;
    }
}
