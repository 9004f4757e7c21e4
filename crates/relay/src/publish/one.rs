use std::time::Duration;

use anyhow::{Context as _, anyhow};
use relay_event::{Event, EventId, Fill, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{
    NOT_SENT_AGAIN, PublishArgs, Via,
    callback::{self, Added},
    wait,
};
use crate::{
    api::{Api, ApiError, of_option},
    found::{largest_event, open_session},
    output,
    text_files::without_mark,
    usage::{Usage, stopped},
};

const SOURCE: &str = "/cli";

/// A broker in a memory or disk alarm takes the event, and confirms it when the alarm is over.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn publish(event_type: &str, args: &PublishArgs) -> anyhow::Result<()> {
    let event = event(event_type, args, Timestamp::now())?;
    let via = args.via()?;
    let stop = relay_service::shutdown_on_signals();
    let sending = async {
        match via {
            Via::Amqp => by_amqp(&event, args).await.map(|()| None),
            Via::Http => by_http(&event, args).await,
        }
    };
    let callback = tokio::select! {
        sent = sending => sent?,
        () = stop.cancelled() => return Err(stopped(format!("stopped; {}", unknown(&event)))),
    };
    let id = event.id().as_str();
    output::say_done(id, &format!("the event {id} was published"));
    if let Some(callback) = callback {
        callback.say();
    }
    if args.wait {
        let api = Api::connect(&args.relay())?;
        tokio::select! {
            ended = wait::wait(&api, &event, args.wait_timeout) => ended?,
            () = stop.cancelled() => {
                let id = event.id();
                let text = format!("stopped; the event was published: `relay events show {id}` tells how it stands");
                return Err(stopped(text));
            }
        }
    }
    Ok(())
}

async fn by_http(event: &Event, args: &PublishArgs) -> anyhow::Result<Option<Added>> {
    let api = Api::connect(&args.relay())?;
    let publishing = callback::publish(&api, event, &args.callback).await;
    let (replayed, callback) = publishing.map_err(|error| match error.downcast_ref::<ApiError>() {
        // With another id it would be another event, and have another callback.
        Some(refused) if args.callback.is_given() && refused.passes() => {
            let id = event.id();
            error.context(format!(
                "the event may not have been published; publishing it again with --id {id} is safe"
            ))
        }
        _ => of_option(error, OPTIONS),
    })?;
    if replayed {
        output::note(&format!("it had been published before: {NOT_SENT_AGAIN}"));
    }
    Ok(callback)
}

/// The fields of a callback by which the relay refuses one, and their options.
const OPTIONS: &[(&str, &str)] = &[
    ("callback.url", "--callback"),
    ("callback.secret", "--callback-secret"),
    ("callback.expires_at", "--callback-expires-at"),
];

/// The report where nobody knows whether the event was taken.
fn unknown(event: &Event) -> String {
    format!(
        "the event may have been published; publishing it again with --id {} is safe",
        event.id()
    )
}

async fn by_amqp(event: &Event, args: &PublishArgs) -> anyhow::Result<()> {
    let session = open_session(&args.relay().broker("relay publish")?).await?;
    let published = timeout(PATIENCE, session.publish_event(event, Timestamp::now())).await;
    session.close().await;
    match published {
        Ok(confirmed) => confirmed.with_context(|| unknown(event)),
        Err(_) => {
            let silent = anyhow!("the broker did not confirm within {} s", PATIENCE.as_secs());
            Err(silent.context(unknown(event)))
        }
    }
}

/// What was given, in the order people write it; what is missing is filled in.
#[derive(Serialize)]
struct Given<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

fn event(event_type: &str, args: &PublishArgs, now: Timestamp) -> anyhow::Result<Event> {
    let data: Option<&RawValue> =
        match &args.data {
            Some(text) => Some(serde_json::from_str(without_mark(text)).map_err(|error| {
                Usage::new("--data", format!("must be JSON, such as {{\"n\": 1}}: {error}"))
            })?),
            None => None,
        };
    let given = Given {
        id: args.id.as_ref(),
        source: args.source.as_deref(),
        r#type: event_type,
        subject: args.subject.as_deref(),
        data,
    };
    let fill = Fill {
        id: EventId::generate(),
        source: SOURCE.to_owned(),
        time: now,
    };
    let body = serde_json::to_vec(&given).context("cannot write JSON")?;
    let event = Event::complete(body.into(), &fill).map_err(|refused| {
        let option = match refused.field.as_str() {
            "type" => "--type",
            "source" => "--source",
            "subject" => "--subject",
            _ => "the event",
        };
        Usage::new(option, refused.problem)
    })?;
    let size = event.body().len();
    let most = largest_event()?;
    if size > most {
        let problem =
            format!("the event is {size} bytes; at most {most} are allowed (RELAY_MAX_EVENT_BYTES)");
        return Err(Usage::new("--data", problem).into());
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: PublishArgs,
    }

    fn built(options: &[&str]) -> anyhow::Result<Event> {
        let args = Line::try_parse_from(["publish"].iter().chain(options))
            .unwrap()
            .args;
        let event_type = args.event_type.clone().unwrap();
        event(&event_type, &args, Timestamp::from_millis(0).unwrap())
    }

    #[test]
    fn data_is_kept_as_it_was_written() {
        let event = built(&[
            "--type",
            "order.created",
            "--data",
            r#" {"n": 1.50}"#,
            "--id",
            "x",
        ])
        .unwrap();
        assert_eq!(
            std::str::from_utf8(event.body()).unwrap(),
            r#"{"specversion":"1.0","source":"/cli","time":"1970-01-01T00:00:00.000Z","id":"x","type":"order.created","data":{"n": 1.50}}"#
        );
        let event = built(&["--type", "a", "--source", "/s", "--subject", "t"]).unwrap();
        assert_eq!(event.source(), "/s");
        assert!(event.body().ends_with(br#""type":"a","subject":"t"}"#));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_option() {
        for (options, option) in [
            (&["--type", "a.*"][..], "--type"),
            (&["--type", "a", "--data", "{"], "--data"),
            (&["--type", "a", "--source", "a b"], "--source"),
            (&["--type", "a", "--subject", ""], "--subject"),
        ] {
            let refused = built(options).unwrap_err();
            assert!(
                refused.is::<Usage>() && refused.to_string().starts_with(option),
                "{refused}"
            );
        }
        let large = format!("\"{}\"", "x".repeat(relay_event::DEFAULT_MAX_EVENT_BYTES));
        assert!(built(&["--type", "a", "--data", &large]).is_err());
    }
}
