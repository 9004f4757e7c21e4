//! Events that come together and are checked together, before the first of them is sent.

use bytes::Bytes;
use relay_event::{Event, Invalid};

use crate::problem::{Kind, Problem};

const MAX_EVENTS: usize = 1_000;

/// Reads a batch, whose events are kept byte for byte. A refusal names the event by its place, such as
/// `[3].type`.
///
/// An event may come twice: as in two requests, the first of the two is sent.
pub(super) fn read(batch: &Bytes, max_event_bytes: usize) -> Result<Vec<Event>, Problem> {
    let (events, count) = Event::split_batch(batch, MAX_EVENTS)?;
    if count > MAX_EVENTS {
        let detail = format!("a batch may hold at most {MAX_EVENTS} events, not {count}");
        return Err(Problem::new(Kind::TooLarge, detail));
    }
    let place = |(place, event): (usize, Bytes)| {
        if event.len() > max_event_bytes {
            let (field, size) = (format!("[{place}]"), event.len());
            let detail = format!("{field}: an event may have at most {max_event_bytes} bytes, not {size}");
            return Err(Problem::new(Kind::TooLarge, detail).of(field));
        }
        Event::parse(event).map_err(|refused| at(place, refused).into())
    };
    events.into_iter().enumerate().map(place).collect()
}

fn at(place: usize, refused: Invalid) -> Invalid {
    let field = match refused.field.as_str() {
        // The whole of it.
        "event" => format!("[{place}]"),
        name => format!("[{place}].{name}"),
    };
    Invalid::new(field, refused.problem)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use serde_json::json;

    use super::*;

    fn event(id: usize) -> String {
        json!({"specversion": "1.0", "id": id.to_string(), "source": "/x", "type": "a.b"}).to_string()
    }

    fn read(events: &[String]) -> Result<Vec<Event>, Problem> {
        super::read(&format!(" [{}]\n", events.join(" ,\n")).into(), 200)
    }

    #[test]
    fn events_are_kept_in_order_and_byte_for_byte() {
        assert_eq!(read(&[]).unwrap(), []);
        let events: Vec<_> = (0..1_000).map(event).collect();
        let bodies = read(&events).unwrap();
        assert!(bodies.iter().map(Event::body).eq(&events));
    }

    #[test]
    fn a_refusal_names_the_place() {
        let wrong = |change: (&str, &str)| [event(0), event(1).replace(change.0, change.1)];
        for (change, field) in [
            (("a.b", "a.*"), "[1].type"),
            ((r#""id""#, r#""di""#), "[1].id"),
            ((&*event(1), "7"), "[1]"),
            ((&*event(1), "[]"), "[1]"),
            (("a.b", &*"a".repeat(200)), "[1]"),
        ] {
            let refused = read(&wrong(change)).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some(field), "{refused:?}");
        }
        let refused = super::read(&"{}".into(), 200).unwrap_err();
        assert_eq!(refused.field.as_deref(), Some("batch"));
    }

    #[test]
    fn a_batch_has_an_end() {
        let events: Vec<_> = (0..1_001).map(event).collect();
        let refused = read(&events).unwrap_err();
        assert_eq!(refused.kind, Kind::TooLarge);
        assert_eq!(refused.into_response().status(), 413);
    }
}
