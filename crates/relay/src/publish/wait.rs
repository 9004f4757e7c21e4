//! Waiting until every endpoint has an event, or never will.

use std::time::Duration;

use relay_broker::Delays;
use relay_event::{DeliveryState, Event, Timestamp};
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    api::{Api, ApiError, Held, Query, understand},
    deliveries::Delivery,
    events, output,
    usage::Finding,
};

/// How long the relay may hold back an answer while the event is not settled.
const HELD: Duration = Duration::from_secs(30);

/// How long an answer may take that is not held back.
const GRACE: Duration = Duration::from_secs(2);

const DEAD: u8 = 3;
const TIME_OVER: u8 = 4;

/// How an event stands.
#[derive(Deserialize)]
struct Status {
    deliveries: Vec<Delivery>,
    settled: bool,
}

/// Asks how the event stands until it is settled or `limit` is over, and prints that.
pub(super) async fn wait(api: &Api, event: &Event, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let (mut delays, mut known, mut said) = (Delays::new(), None, false);
    loop {
        let wait = deadline.saturating_duration_since(Instant::now()).min(HELD);
        let Ok(asked) = timeout_at(deadline + GRACE, ask(api, event, wait)).await else {
            break;
        };
        let pause = match asked {
            Ok(held) => {
                let status: Status = understand(&held.body)?;
                if status.settled {
                    return settled(&status);
                }
                known = Some(status);
                held.retry_after
            }
            // It is not in the log yet.
            Err(error) if error.is(StatusCode::NOT_FOUND) => error.retry_after(),
            Err(error) if error.passes() => {
                if !said {
                    output::note(&format!("{error}; retrying until the relay answers"));
                    said = true;
                }
                error.retry_after()
            }
            Err(error) => return Err(error.into()),
        };
        if Instant::now() >= deadline {
            break;
        }
        let pause = async { tokio::join!(delays.wait(), sleep(pause.unwrap_or_default())) };
        // However that ends it is asked once more: who waits hears how it stands in the end.
        let _ = timeout_at(deadline, pause).await;
    }
    Err(not_settled(known.as_ref(), limit).into())
}

async fn ask(api: &Api, event: &Event, wait: Duration) -> Result<Held, ApiError> {
    let id = events::in_path(event.source(), event.id());
    let path = ["v1", "events", &id];
    let query = Query::default().with("source", Some(event.source()));
    api.held(&path, &query, wait).await
}

fn settled(status: &Status) -> anyhow::Result<()> {
    print(status);
    let (all, dead) = (status.deliveries.len(), count(status, DeliveryState::Dead));
    let canceled = count(status, DeliveryState::Canceled);
    let text = match (dead, canceled) {
        (0, 0) => return Ok(()),
        (0, canceled) => format!("canceled: {canceled} of {all} deliveries"),
        (dead, _) => format!("dead: {dead} of {all} deliveries"),
    };
    Err(Finding::new(DEAD, text).into())
}

fn not_settled(known: Option<&Status>, limit: Duration) -> Finding {
    let limit = humantime::format_duration(limit);
    let text = match known {
        None => format!("not in the log after {limit}"),
        Some(status) => {
            print(status);
            let open = count(status, DeliveryState::Pending) + count(status, DeliveryState::Retrying);
            format!(
                "not ended after {limit}: {open} of {} deliveries",
                status.deliveries.len()
            )
        }
    };
    Finding::new(TIME_OVER, text)
}

fn print(status: &Status) {
    let now = Timestamp::now();
    let rows: Vec<_> = status.deliveries.iter().map(|one| one.row(now)).collect();
    if rows.is_empty() {
        output::say("no endpoint wants it");
    } else {
        output::say(&output::table(Delivery::HEAD, &rows));
    }
}

fn count(status: &Status, state: DeliveryState) -> usize {
    status.deliveries.iter().filter(|one| one.is(state)).count()
}
