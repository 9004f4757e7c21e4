//! Batches of held deliveries on their way to a deliverer. A batch is one message, addressed to one endpoint. For
//! each event it has a line of JSON, the head, which says how many bytes the event has; then those bytes; then a
//! line feed.

use bytes::{BufMut, Bytes, BytesMut};
use relay_event::{DEFAULT_MAX_EVENT_BYTES, EndpointId, Event, History, Invalid, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{publisher::PublishError, session::Session, wire};

/// The content type of a batch.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.relay.dispatch";

/// Events in one batch.
pub(crate) const MAX_EVENTS: usize = 32;

/// Bytes of the events in one batch, unless it has one event only.
const MAX_BYTES: usize = DEFAULT_MAX_EVENT_BYTES;

/// Bytes of one head; it has a few hundred, and with the longest error in words 7 KiB.
pub(crate) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// A held delivery that is sent on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatched {
    /// The event.
    pub event: Event,
    /// The time at which the event was published, if it is known.
    pub published_at: Option<Timestamp>,
    /// The number of times that the delivery was claimed, this time included.
    pub hop: u32,
    /// The attempts so far, and the run of the schedule that they belong to.
    pub history: History,
    /// Set if its message was returned too often, so that it shares none. Returned too often once more, it is dead.
    pub alone: bool,
}

/// The line before an event.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The event's bytes.
    length: usize,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) published_at: Option<Timestamp>,
    #[serde(default)]
    pub(crate) hop: u32,
    #[serde(default)]
    pub(crate) history: History,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(crate) alone: bool,
}

/// The deliveries of the next message: as many as it may have.
fn first_of(deliveries: &[Dispatched]) -> &[Dispatched] {
    if deliveries.first().is_some_and(|first| first.alone) {
        return &deliveries[..1];
    }
    let mut bytes = 0;
    let fits = |delivery: &&Dispatched| {
        if delivery.alone {
            return false;
        }
        bytes += delivery.event.body().len();
        bytes <= MAX_BYTES
    };
    let fitting = deliveries.iter().take(MAX_EVENTS).take_while(fits).count();
    &deliveries[..fitting.max(1).min(deliveries.len())]
}

/// Writes a batch.
pub(crate) fn written(batch: &[Dispatched]) -> Bytes {
    let bytes = |delivery: &Dispatched| 512 + delivery.event.body().len();
    let mut body = BytesMut::with_capacity(batch.iter().map(bytes).sum());
    for delivery in batch {
        let head = Head {
            length: delivery.event.body().len(),
            published_at: delivery.published_at,
            hop: delivery.hop,
            history: delivery.history.clone(),
            alone: delivery.alone,
        };
        serde_json::to_writer((&mut body).writer(), &head).expect("a head is plain data");
        body.put_u8(b'\n');
        body.put_slice(delivery.event.body());
        body.put_u8(b'\n');
    }
    body.freeze()
}

/// Reads the heads of a batch, and the bytes of its events.
///
/// # Errors
/// It is no batch, or one of more than [`MAX_EVENTS`] events.
pub(crate) fn read(body: &Bytes) -> Result<Vec<(Head, Bytes)>, Invalid> {
    let (mut events, mut at) = (Vec::new(), 0);
    while at < body.len() {
        let refused = |problem: String| Invalid::new(format!("dispatch[{}]", events.len()), problem);
        if events.len() == MAX_EVENTS {
            return Err(refused(format!(
                "is one more than the {MAX_EVENTS} that are allowed"
            )));
        }
        let rest = &body[at..];
        let line = rest.iter().take(MAX_HEAD_BYTES).position(|byte| *byte == b'\n');
        let line = line.ok_or_else(|| refused("has no head that ends".to_owned()))?;
        let head: Head = serde_json::from_slice(&rest[..line]).map_err(|error| refused(error.to_string()))?;
        let begin = at + line + 1;
        let end = begin.checked_add(head.length).filter(|end| *end < body.len());
        let end = end.ok_or_else(|| refused(format!("ends before its {} bytes", head.length)))?;
        if body[end] != b'\n' {
            return Err(refused(format!("has more than its {} bytes", head.length)));
        }
        events.push((head, body.slice(begin..end)));
        at = end + 1;
    }
    if events.is_empty() {
        return Err(Invalid::new("dispatch", "holds no event"));
    }
    Ok(events)
}

impl Session {
    /// Sends held deliveries to deliverers and waits for the confirms: in as few messages as possible, each of at
    /// most 32 events and 256 KiB, or of one event. Nothing is sent for none.
    ///
    /// # Errors
    /// The session is over: some may have arrived.
    pub async fn dispatch(
        &self,
        endpoint: &EndpointId,
        deliveries: &[Dispatched],
    ) -> Result<(), PublishError> {
        let mut rest = deliveries;
        while !rest.is_empty() {
            let batch = first_of(rest);
            let body = written(batch);
            self.publish_safely(|| wire::dispatch(self.topology(), endpoint, &body))
                .await?;
            rest = &rest[batch.len()..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relay_event::EndpointsVersion;

    use super::*;

    fn event(id: u32, bytes: usize) -> Event {
        let data = "x".repeat(bytes);
        let body =
            format!(r#"{{"specversion":"1.0","id":"{id}","source":"/x","type":"a.b","data":"{data}"}}"#);
        Event::parse(body.into()).unwrap()
    }

    fn delivery(id: u32, bytes: usize) -> Dispatched {
        Dispatched {
            event: event(id, bytes),
            published_at: None,
            hop: 1,
            history: History::default(),
            alone: false,
        }
    }

    prop_compose! {
        fn any_delivery()(
            id: u32,
            bytes in prop_oneof![0_usize..2_000, 0_usize..100_000],
            times: [Option<u32>; 4],
            attempts: u32,
            hop: u32,
            status: Option<u16>,
            error in proptest::option::of(".{0,40}"),
            alone in proptest::bool::weighted(0.05),
        ) -> Dispatched {
            let time = |at: Option<u32>| Timestamp::from_millis(i64::from(at?));
            Dispatched {
                event: event(id, bytes),
                published_at: time(times[0]),
                hop,
                history: History {
                    attempts,
                    first_attempt: time(times[1]),
                    last_attempt: time(times[2]),
                    last_status: status,
                    last_error: error,
                    run: time(times[3]),
                    version: times[3].is_some().then(|| EndpointsVersion {
                        lineage: "0123456789abcdef".to_owned(),
                        number: 17,
                    }),
                },
                alone,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn deliveries_read_back_from_as_few_messages_as_their_bounds_allow(
            deliveries in proptest::collection::vec(any_delivery(), 1..80)
        ) {
            let (mut rest, mut read_back) = (&deliveries[..], Vec::new());
            while !rest.is_empty() {
                let batch = first_of(rest);
                let bytes = |batch: &[Dispatched]| -> usize {
                    batch.iter().map(|delivery| delivery.event.body().len()).sum()
                };
                prop_assert!(batch.len() == 1 || bytes(batch) <= MAX_BYTES);
                prop_assert!(batch.len() == 1 || batch.iter().all(|delivery| !delivery.alone));
                if let Some(next) = rest.get(batch.len()).filter(|next| !next.alone && !batch[0].alone) {
                    let more = bytes(batch) + next.event.body().len();
                    prop_assert!(batch.len() == MAX_EVENTS || more > MAX_BYTES);
                }
                for (head, body) in read(&written(batch)).unwrap() {
                    read_back.push(Dispatched {
                        event: Event::reread(body).unwrap(),
                        published_at: head.published_at,
                        hop: head.hop,
                        history: head.history,
                        alone: head.alone,
                    });
                }
                rest = &rest[batch.len()..];
            }
            prop_assert_eq!(read_back, deliveries);
        }

        #[test]
        fn a_batch_that_is_cut_off_anywhere_is_refused_or_has_fewer_events(
            batch in proptest::collection::vec(any_delivery(), 1..4), at: proptest::sample::Index
        ) {
            let whole = written(&batch);
            let cut = whole.slice(..at.index(whole.len()));
            if let Ok(read) = read(&cut) {
                prop_assert!(read.len() < batch.len());
            }
        }
    }

    #[test]
    fn an_event_beyond_the_bound_goes_alone() {
        let large = delivery(1, MAX_BYTES);
        let deliveries = [large.clone(), delivery(2, 1), large];
        assert_eq!(first_of(&deliveries).len(), 1);
        assert_eq!(first_of(&deliveries[1..]).len(), 1);
        assert_eq!(first_of(&deliveries[2..]).len(), 1);
        assert_eq!(read(&written(&deliveries[..1])).unwrap().len(), 1);
    }

    #[test]
    fn the_longest_head_is_read() {
        let mut long = delivery(1, 1);
        long.history.last_error = Some(format!("timeout: {}", "\u{1}".repeat(relay_event::DETAIL_CAP)));
        assert_eq!(read(&written(&[long])).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let batch = vec![delivery(1, 1); MAX_EVENTS];
        let (one, all) = (written(&batch[..1]), written(&batch));
        assert_eq!(read(&all).unwrap().len(), MAX_EVENTS);
        let text = std::str::from_utf8(&one).unwrap();
        let length = event(1, 1).body().len();
        let with_length = |other: String| text.replacen(&length.to_string(), &other, 1);
        for (body, said) in [
            (String::new(), "dispatch: holds no event".to_owned()),
            ("x".to_owned(), "dispatch[0]: has no head that ends".to_owned()),
            (
                " ".repeat(MAX_HEAD_BYTES) + text,
                "dispatch[0]: has no head that ends".to_owned(),
            ),
            (
                with_length((length + 1).to_string()),
                format!("dispatch[0]: ends before its {} bytes", length + 1),
            ),
            (
                with_length(u64::MAX.to_string()),
                format!("dispatch[0]: ends before its {} bytes", u64::MAX),
            ),
            (
                with_length((length - 1).to_string()),
                format!("dispatch[0]: has more than its {} bytes", length - 1),
            ),
            (
                [&all[..], &one[..]]
                    .concat()
                    .into_iter()
                    .map(char::from)
                    .collect(),
                "dispatch[32]: is one more than the 32 that are allowed".to_owned(),
            ),
        ] {
            assert_eq!(read(&body.into()).err().unwrap().to_string(), said);
        }
        assert!(read(&Bytes::from_static(b"{}\n\n")).is_err());
    }
}
