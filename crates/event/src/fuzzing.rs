//! Entry points for fuzzers: what strangers write, as it is read at every door.

use bytes::Bytes;

use crate::{
    CustomHeaders, Delay, EndpointUrl, Event, EventId, EventType, Fill, RetrySchedule, Timestamp,
    TypePattern, WebhookId,
};

/// Takes an event in structured mode and in shorthand, and reads it again as one that was let in.
///
/// # Panics
/// It is not read twice alike.
pub fn event(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let fill = Fill {
        id: "1".parse().expect("an id"),
        source: crate::DEFAULT_SOURCE.to_owned(),
        time: Timestamp::default(),
    };
    let _ = Event::with_key(body.clone(), "key", &fill.source);
    let in_short = Event::complete_with_callback(body.clone(), &fill).map(|(event, _)| event);
    for event in [Event::parse(body.clone()), Event::complete(body, &fill), in_short] {
        let Ok(event) = event else { continue };
        assert_eq!(Event::parse(event.body().clone()).as_ref(), Ok(&event));
        assert_eq!(Event::reread(event.body().clone()).as_ref(), Ok(&event));
        let webhook_id = event.webhook_id();
        assert!(!webhook_id.as_str().is_empty() && !webhook_id.as_str().contains('.'));
    }
}

/// Takes an event in binary mode: a line for the content type, one for each attribute, an empty one, the data.
///
/// # Panics
/// The input is no event in structured mode.
pub fn binary(data: &[u8]) {
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    let end = end.unwrap_or(data.len());
    let (head, data) = data.split_at(end);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split('\n');
    let content_type = lines.next().filter(|line| !line.is_empty());
    let attributes = lines.filter_map(|line| line.split_once('='));
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let data = data.strip_prefix(b"\n\n").unwrap_or_default();
    if let Ok(event) = Event::from_binary(attributes.collect(), content_type, data) {
        assert_eq!(Event::parse(event.body().clone()).as_ref(), Ok(&event));
    }
}

/// Takes a batch.
///
/// # Panics
/// More is returned than there is, or than was asked for.
pub fn batch(data: &[u8]) {
    const MOST: usize = 3;
    if let Ok((events, count)) = Event::split_batch(&Bytes::copy_from_slice(data), MOST) {
        assert_eq!(events.len(), count.min(MOST));
        for event in events {
            let _ = Event::parse(event);
        }
    }
}

/// Takes a pattern in the first line and a type in the second.
///
/// # Panics
/// They do not match as words do one after the other.
pub fn pattern(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (pattern, event_type) = text.split_once('\n').unwrap_or((&text, ""));
    let (Ok(pattern), Ok(event_type)) = (pattern.parse::<TypePattern>(), event_type.parse::<EventType>())
    else {
        return;
    };
    let words: Vec<&str> = event_type.as_str().split('.').collect();
    // One flag for each number of first words: the words of the pattern read so far match them.
    let mut matched = vec![false; words.len() + 1];
    matched[0] = true;
    for wanted in pattern.as_str().split('.') {
        let mut next = vec![false; words.len() + 1];
        for count in 0..=words.len() {
            let before = count.checked_sub(1);
            next[count] = match wanted {
                "#" => matched[count] || before.is_some_and(|before| next[before]),
                wanted => {
                    before.is_some_and(|before| matched[before] && (wanted == "*" || wanted == words[before]))
                }
            };
        }
        matched = next;
    }
    assert_eq!(pattern.matches(&event_type), matched[words.len()]);
}

/// Takes a text as everything that is read from one.
///
/// # Panics
/// The event is written as something that is not read alike.
pub fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(delay) = text.parse::<Delay>() {
        assert_eq!(delay.to_string().parse(), Ok(delay));
    }
    if let Ok(schedule) = text.parse::<RetrySchedule>() {
        assert_eq!(schedule.to_string().parse(), Ok(schedule));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string().parse(), Ok(time));
    }
    if let Ok(url) = text.parse::<EndpointUrl>() {
        let again = url.as_url().as_str().parse::<EndpointUrl>();
        assert_eq!(again.map(|url| url.as_url().clone()).as_ref(), Ok(url.as_url()));
    }
    if let Ok(id) = text.parse::<EventId>() {
        let webhook_id = WebhookId::of("/x", &id);
        assert!(webhook_id.as_str().len() <= 64 + 17, "{webhook_id:?}");
    }
    let _ = CustomHeaders::new([(text.to_string(), text.to_string())]);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// A target's folder and its entry point.
    type Target = (&'static str, fn(&[u8]));

    #[test]
    fn what_fuzzing_found_stays_mended() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
        let targets: [Target; 5] = [
            ("event", super::event),
            ("binary", super::binary),
            ("batch", super::batch),
            ("pattern", super::pattern),
            ("text", super::text),
        ];
        for (name, target) in targets {
            for input in fs::read_dir(corpus.join(name)).unwrap() {
                target(&fs::read(input.unwrap().path()).unwrap());
            }
        }
    }
}
