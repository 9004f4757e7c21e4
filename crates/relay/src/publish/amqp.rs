use std::{fs::File, io::BufReader};

use anyhow::anyhow;
use relay_broker::{Broker, Delays, Status};
use relay_event::{Event, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    NOTHING,
    lines::Lines,
    window::{self, Published, Window},
};
use crate::{
    api::long_after,
    data::DataArgs,
    found::{must_have_relay, start_command},
    progress::Progress,
    usage::stopped,
};

const WINDOW: Window = Window {
    events: 1_000,
    bytes: 32 << 20,
};

/// Publishes straight to the broker, through whatever happens to the connection once there is one.
pub(super) async fn publish(
    relay: &DataArgs,
    lines: &mut Lines<BufReader<File>>,
    progress: &Progress,
    stop: &CancellationToken,
) -> anyhow::Result<Published> {
    let config = relay.broker("relay publish")?;
    tokio::select! {
        has_relay = must_have_relay(&config) => has_relay?,
        () = stop.cancelled() => return Err(stopped(NOTHING)),
    }
    let broker = Broker::start(config, None);
    tokio::select! {
        connected = first_connection(&broker) => connected?,
        () = stop.cancelled() => return Err(stopped(NOTHING)),
    }
    let confirm = |event: Event| {
        let broker = broker.clone();
        async move { confirm(&broker, &event).await }
    };
    let published = tokio::select! {
        published = window::publish(lines, WINDOW, progress, stop, confirm) => published,
        () = tell(broker.status(), progress) => return Err(anyhow!("the connection to the broker ended")),
    };
    tokio::select! {
        () = broker.close() => {}
        () = long_after(stop) => {}
    }
    Ok(published)
}

/// The first try decides: a broker that is not there at all is more likely a mistake than bad luck.
async fn first_connection(broker: &Broker) -> anyhow::Result<()> {
    let mut status = broker.status();
    status.changed().await?;
    match &*status.borrow() {
        Status::Up | Status::Blocked => Ok(()),
        Status::Down(why) => Err(anyhow!(
            "the relay seems not to be running (start it with `{}`): {why}",
            start_command()
        )),
    }
}

/// Returns once the broker has confirmed, by as many tries and connections as it takes.
async fn confirm(broker: &Broker, event: &Event) -> anyhow::Result<()> {
    let mut delays = Delays::new();
    loop {
        let session = broker.session().await;
        match session.publish_event(event, Timestamp::now()).await {
            Ok(()) => return Ok(()),
            Err(_) => delays.wait().await,
        }
    }
}

/// Says each change once, for as long as the broker is used.
async fn tell(mut status: watch::Receiver<Status>, progress: &Progress) {
    let mut told = Told::Up;
    loop {
        let now = match &*status.borrow_and_update() {
            Status::Up => Told::Up,
            Status::Blocked => Told::Blocked,
            Status::Down(_) => Told::Down,
        };
        if now != told {
            progress.note(now.text());
            told = now;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Up,
    Blocked,
    Down,
}

impl Told {
    fn text(self) -> &'static str {
        match self {
            Self::Up => "the broker takes events again; going on",
            Self::Blocked => {
                "the broker takes no events because of a memory or disk alarm; waiting until it does"
            }
            Self::Down => {
                "the connection to the broker was lost; waiting for it, then what is unconfirmed is published again"
            }
        }
    }
}
