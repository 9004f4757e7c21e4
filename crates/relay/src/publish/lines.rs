//! A file of events, read line by line in bounded memory.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek},
    path::Path,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use relay_event::{Event, Invalid};

use super::NOTHING;
use crate::{
    text_files::{self, line_without_mark},
    usage::stopped,
};

/// Bytes of a line that are kept beyond those of the largest event; the end of a longer one is only counted.
const ROOM: usize = 1024;

/// Wrong lines that are named before the rest is only counted.
const NAMED: usize = 10;

/// The lines of a file that are not blank, each an event or what is wrong with it.
pub(super) struct Lines<R> {
    reader: R,
    number: u64,
    /// The bytes of the largest event.
    most: usize,
}

/// A line that is not blank.
pub(super) struct Line {
    /// 1 is the first.
    pub(super) number: u64,
    pub(super) event: Result<Event, Invalid>,
}

/// Opens a file that can be read twice.
pub(super) fn open(path: &Path, most: usize) -> anyhow::Result<Lines<BufReader<File>>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    if !file.metadata().with_context(cannot)?.is_file() {
        bail!(
            "{} is no regular file; it is read twice, so what comes from a pipe is read by --file -",
            path.display()
        );
    }
    Lines::of_file(file, most).with_context(cannot)
}

/// Keeps stdin in a file of its own that nobody else sees, for it is read twice. It may take long.
pub(super) fn keep_stdin(most: usize) -> anyhow::Result<Lines<BufReader<File>>> {
    let keep = || {
        let mut file = tempfile::tempfile()?;
        io::copy(&mut io::stdin().lock(), &mut file)?;
        file.rewind()?;
        Lines::of_file(file, most)
    };
    keep().context("cannot keep what comes from stdin in the folder of temporary files")
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R, most: usize) -> Self {
        Self {
            reader,
            number: 0,
            most,
        }
    }

    /// The next line that is not blank.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        while let Some((kept, length)) = self.read()? {
            self.number += 1;
            // Files that were put together have such a mark within.
            let text = line_without_mark(&kept).trim_ascii();
            if length == kept.len() && text.is_empty() {
                continue;
            }
            let size = if length == kept.len() { text.len() } else { length };
            return Ok(Some(Line {
                number: self.number,
                event: event(text, size, self.most),
            }));
        }
        Ok(None)
    }

    /// Skips what comes before this line.
    pub(super) fn skip_to(&mut self, line: u64) -> io::Result<()> {
        while self.number + 1 < line && self.read()?.is_some() {
            self.number += 1;
        }
        Ok(())
    }

    /// The beginning of the next line, and its whole length.
    fn read(&mut self) -> io::Result<Option<(Vec<u8>, usize)>> {
        let (mut kept, mut length) = (Vec::new(), 0);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok((length > 0).then_some((kept, length)));
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(buffer.len(), |end| end + 1);
            let room = (self.most.saturating_add(ROOM))
                .saturating_sub(kept.len())
                .min(taken);
            kept.extend_from_slice(&buffer[..room]);
            length += taken;
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(Some((kept, length)));
            }
        }
    }
}

impl Lines<BufReader<File>> {
    /// Refuses a file in UTF-16.
    fn of_file(file: File, most: usize) -> io::Result<Self> {
        drop(text_files::begin(BufReader::new(&file))?);
        (&file).rewind()?;
        Ok(Self::new(BufReader::with_capacity(64 * 1024, file), most))
    }

    /// Back to the beginning.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.number = 0;
        self.reader.rewind()
    }
}

fn event(text: &[u8], size: usize, most: usize) -> Result<Event, Invalid> {
    if size > most {
        let problem = format!("is {size} bytes; at most {most} are allowed (RELAY_MAX_EVENT_BYTES)");
        return Err(Invalid::new("event", problem));
    }
    Event::parse(Bytes::copy_from_slice(text))
}

/// Checks every line, and counts them. `go_on` is asked before each.
///
/// # Errors
/// The lines that are wrong, the first ten by name; or that it was not to go on.
pub(super) fn check<R: BufRead>(lines: &mut Lines<R>, go_on: impl Fn() -> bool) -> anyhow::Result<u64> {
    let (mut good, mut bad, mut named) = (0, 0, Vec::new());
    while let Some(line) = lines.next()? {
        match line.event {
            Ok(_) => good += 1,
            Err(refused) => {
                bad += 1;
                if named.len() < NAMED {
                    named.push(format!("\n  line {}: {refused}", line.number));
                }
            }
        }
        if !go_on() {
            return Err(stopped(NOTHING));
        }
    }
    match bad - named.len() {
        _ if bad == 0 => Ok(good),
        0 => bail!("nothing was published, because of:{}", named.concat()),
        more => bail!(
            "nothing was published, because of:{}\n  and {more} more",
            named.concat()
        ),
    }
}

#[cfg(test)]
mod tests {
    use relay_event::DEFAULT_MAX_EVENT_BYTES;

    use super::*;

    fn valid(id: &str) -> String {
        format!(r#"{{"specversion":"1.0","id":"{id}","source":"/x","type":"a.b"}}"#)
    }

    fn lines(text: &str) -> Lines<&[u8]> {
        Lines::new(text.as_bytes(), DEFAULT_MAX_EVENT_BYTES)
    }

    fn check(text: &str) -> anyhow::Result<u64> {
        super::check(&mut lines(text), || true)
    }

    #[test]
    fn blank_lines_and_line_ends_do_not_matter() {
        let text = format!("\n{}\r\n  \n\n{}", valid("1"), valid("2"));
        assert_eq!(check(&text).unwrap(), 2);
        let mut lines = lines(&text);
        lines.skip_to(3).unwrap();
        let line = lines.next().unwrap().unwrap();
        assert_eq!((line.number, line.event.unwrap().id().as_str()), (5, "2"));
        assert!(lines.next().unwrap().is_none());
        assert_eq!(check("").unwrap(), 0);
    }

    #[test]
    fn wrong_lines_are_named_and_then_counted() {
        let text = format!("{}\n{{\"type\":1}}\n{}\nx\n", valid("1"), valid("2"));
        let error = check(&text).unwrap_err().to_string();
        assert!(
            error.contains("line 2: specversion: is missing") && error.contains("line 4: event:"),
            "{error}"
        );
        let error = check(&"x\n".repeat(13)).unwrap_err().to_string();
        assert!(
            error.contains("line 10:") && !error.contains("line 11:") && error.ends_with("and 3 more"),
            "{error}"
        );
    }

    /// The longest allowed line passes, one byte more does not, and a huge one is not kept.
    #[test]
    fn too_large_is_told_by_its_size() {
        let padded = |length: usize| {
            let head = r#"{"specversion":"1.0","id":"1","source":"/x","type":"a","data":""#;
            format!("{head}{}\"}}", "x".repeat(length - head.len() - 2))
        };
        assert_eq!(check(&padded(DEFAULT_MAX_EVENT_BYTES)).unwrap(), 1);
        let error = check(&padded(DEFAULT_MAX_EVENT_BYTES + 1)).unwrap_err();
        assert!(
            error.to_string().contains("line 1: event: is 262145 bytes"),
            "{error}"
        );
        let huge = format!("{}\n{}", "x".repeat(1 << 20), valid("1"));
        let mut lines = lines(&huge);
        let refused = lines.next().unwrap().unwrap().event.unwrap_err();
        assert!(refused.problem.contains("1048577 bytes"), "{refused}");
        assert!(lines.next().unwrap().unwrap().event.is_ok());
    }
}
