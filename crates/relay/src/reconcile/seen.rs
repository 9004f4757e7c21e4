use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use anyhow::{Context as _, bail};
use relay_event::Event;

use crate::text_files;

/// The events that a receiver says it has seen: webhook ids, or ids of events, some with their source.
#[derive(Debug)]
pub(super) struct Seen(HashSet<String>);

impl Seen {
    /// Reads a file of them, or stdin where it is `-`.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let read = if path == Path::new("-") {
            Self::of(io::stdin().lock())
        } else {
            File::open(path)
                .map_err(anyhow::Error::from)
                .and_then(|file| Self::of(BufReader::new(file)))
        };
        read.with_context(|| format!("cannot read what was seen from {}", path.display()))
    }

    fn of(file: impl BufRead) -> anyhow::Result<Self> {
        let mut seen = HashSet::new();
        let lines = text_files::begin(file)?.lines();
        for (number, line) in (1..).zip(lines) {
            let line = line.with_context(|| format!("line {number}"))?;
            // Ids may hold spaces.
            let words: Vec<&str> = line.trim().split('\t').map(str::trim).collect();
            if words.len() > 2 {
                bail!(
                    "line {number}: must be a webhook id, an event's id, or an event's id, a tab and its source"
                );
            }
            if words != [""] {
                seen.insert(words.join("\t"));
            }
        }
        Ok(Self(seen))
    }

    /// Returns true if it was seen: by the id that receivers know it by, by its own, or by that and its source.
    pub(super) fn has(&self, event: &Event) -> bool {
        let id = event.id().as_str();
        self.0.contains(event.webhook_id().as_str())
            || self.0.contains(id)
            || self.0.contains(&format!("{id}\t{}", event.source()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, source: &str) -> Event {
        let json = format!(r#"{{"specversion":"1.0","id":"{id}","source":"{source}","type":"a"}}"#);
        Event::parse(json.into()).unwrap()
    }

    #[test]
    fn an_id_alone_stands_for_every_source() {
        let seen = Seen::of("a\r\n\n  b\t/one \nc".as_bytes()).unwrap();
        assert!(seen.has(&event("a", "/one")) && seen.has(&event("a", "/two")));
        assert!(seen.has(&event("b", "/one")) && !seen.has(&event("b", "/two")));
        assert!(seen.has(&event("c", "/one")) && !seen.has(&event("d", "/one")));
        let marked = Seen::of("\u{feff}a\r\nb".as_bytes()).unwrap();
        assert!(marked.has(&event("a", "/s")) && marked.has(&event("b", "/s")));
        assert!(!Seen::of(&b""[..]).unwrap().has(&event("a", "/one")));
    }

    #[test]
    fn a_webhook_id_stands_for_one_event() {
        let [one, two] = ["/one", "/two"].map(|source| event("a.1 b", source));
        let seen = Seen::of(format!("{}\n", one.webhook_id()).as_bytes()).unwrap();
        assert!(seen.has(&one) && !seen.has(&two));
        let seen = Seen::of(&b" a.1 b \n"[..]).unwrap();
        assert!(seen.has(&one) && seen.has(&two));
    }

    #[test]
    fn a_line_that_is_no_id_is_named() {
        for text in [&b"a\nb\t/s\tt\n"[..], b"a\n\xff\n"] {
            let refused = format!("{:#}", Seen::of(text).unwrap_err());
            assert!(refused.contains("line 2"), "{refused}");
        }
        let wide = format!("{:#}", Seen::of(&b"\xff\xfea\0"[..]).unwrap_err());
        assert!(wide.contains("UTF-16"), "{wide}");
        let missing = Seen::read(Path::new("/no/such/file")).unwrap_err();
        assert!(missing.to_string().contains("/no/such/file"), "{missing}");
    }
}
