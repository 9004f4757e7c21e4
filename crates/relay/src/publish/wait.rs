//! Waiting until every endpoint has an event, or never will.

use std::time::Duration;

use relay_broker::Delays;
use relay_event::{DeliveryState, Event, Timestamp};
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::{
    api::{Api, ApiError, Held, Query, understand},
    deliveries::Delivery,
    output,
    usage::Finding,
};

/// How long the relay may hold back an answer while the event is not settled.
const HELD: Duration = Duration::from_secs(30);

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
        let Ok(asked) = timeout_at(deadline, ask(api, event, deadline)).await else {
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
                    output::note(&format!("{error}; trying again until it goes"));
                    said = true;
                }
                error.retry_after()
            }
            Err(error) => return Err(error.into()),
        };
        let pause = async { tokio::join!(delays.wait(), sleep(pause.unwrap_or_default())) };
        tokio::select! {
            _ = pause => {}
            () = sleep_until(deadline) => break,
        }
    }
    Err(not_settled(known.as_ref(), limit).into())
}

async fn ask(api: &Api, event: &Event, deadline: Instant) -> Result<Held, ApiError> {
    let path = ["v1", "events", event.id().as_str()];
    let query = Query::default().with("source", Some(event.source()));
    // In whole seconds, and the last of them not shorter than what is left.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
    api.held(&path, &query, left.min(HELD)).await
}

fn settled(status: &Status) -> anyhow::Result<()> {
    print(status);
    match count(status, DeliveryState::Dead) {
        0 => Ok(()),
        dead => {
            let text = format!("dead: {dead} of {} deliveries", status.deliveries.len());
            Err(Finding::new(DEAD, text).into())
        }
    }
}

fn not_settled(known: Option<&Status>, limit: Duration) -> Finding {
    let limit = humantime::format_duration(limit);
    let text = match known {
        None => format!("not in the log after {limit}"),
        Some(status) => {
            print(status);
            let ended = count(status, DeliveryState::Delivered) + count(status, DeliveryState::Dead);
            let open = status.deliveries.len() - ended;
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
