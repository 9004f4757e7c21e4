//! Output for people and programs: results to stdout, notes to stderr. Nothing of others' leaves here as it
//! came: JSON has escapes for what a terminal would not just show, all else has U+FFFD.

use std::{
    io::{self, Write as _},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::Context as _;
use relay_service::text::{escaped_json, plain_lines};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{io::Interest, net::unix::pipe};
use unicode_width::UnicodeWidthStr as _;

/// JSON is laid out to this depth; what lies deeper stays on one line, for indentation alone would cost
/// the square of the depth.
const DEEPEST: usize = 64;

/// A result, to stdout. For a reader that has read enough (`| head`) the program goes on to its end, and its
/// exit code tells what it found; output that cannot be written ends it.
pub(crate) fn say(text: &str) {
    written(try_say(text), None);
}

/// The result of something that was done, which is said where the result cannot be written.
pub(crate) fn say_done(text: &str, done: &str) {
    written(try_say(text), Some(done));
}

/// A result of many. A reader that has read enough ends the program.
pub(crate) fn say_more(text: &str) {
    let said = try_say(text);
    if is_closed(&said) {
        std::process::exit(0);
    }
    written(said, None);
}

fn written(said: io::Result<()>, done: Option<&str>) {
    if is_closed(&said) {
        return;
    }
    if let Err(error) = said {
        let done = done.map(|done| format!("; {done}")).unwrap_or_default();
        note(&format!("relay: the output cannot be written: {error}{done}"));
        std::process::exit(1);
    }
}

fn is_closed(said: &io::Result<()>) -> bool {
    said.as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A result, to stdout, where it matters whether it was taken.
pub(crate) fn try_say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", plain_lines(text)).and_then(|()| stdout.flush())
}

/// Returns once nobody reads stdout any more, if it is something of which that can be known, such as a
/// pipe: who has nothing to say would else never notice.
pub(crate) async fn closed() {
    // Unchecked: what is checked becomes non-blocking, which printing cannot do with.
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    match stdout.and_then(pipe::Sender::from_owned_fd_unchecked) {
        Ok(stdout) => drop(stdout.ready(Interest::ERROR).await),
        Err(_) => std::future::pending().await,
    }
}

/// A note, to stderr.
pub(crate) fn note(text: &str) {
    // Where nobody listens there is nobody to tell.
    let _ = writeln!(io::stderr(), "{}", plain_lines(text));
}

/// An error with its causes, each said once: some libraries' errors repeat theirs.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The first characters of a text, with `…` where more follow.
pub(crate) fn beginning(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Text of others on one line.
pub(crate) fn plain(text: &str) -> String {
    relay_service::text::plain(text).into_owned()
}

/// A value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<String> {
    let json = serde_json::to_string(value).context("cannot write JSON")?;
    Ok(escaped_json(&json).into_owned())
}

/// A value as JSON over several lines, but for what is JSON of others in it.
pub(crate) fn json_lines(value: &impl Serialize) -> anyhow::Result<String> {
    let json = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    Ok(escaped_json(&json).into_owned())
}

/// The relay's answer, laid out for people.
pub(crate) fn say_json(answer: &[u8]) -> anyhow::Result<()> {
    let text = std::str::from_utf8(answer).context("the relay's answer is no text")?;
    say(&pretty(text));
    Ok(())
}

/// Rows under a head, columns aligned.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    Table::new(head).page(rows)
}

/// A table that is shown page by page: its columns only grow.
pub(crate) struct Table<const N: usize> {
    head: Option<[String; N]>,
    widths: [usize; N],
}

impl<const N: usize> Table<N> {
    /// No rows yet.
    pub(crate) fn new(head: [&str; N]) -> Self {
        Self {
            head: Some(head.map(str::to_owned)),
            widths: [0; N],
        }
    }

    /// The next rows; the first ones have the head above them.
    pub(crate) fn page(&mut self, rows: &[[String; N]]) -> String {
        let lines: Vec<[String; N]> = self
            .head
            .take()
            .iter()
            .chain(rows)
            .map(|row| row.each_ref().map(|cell| plain(cell)))
            .collect();
        for row in &lines {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        lines
            .iter()
            .map(|row| self.aligned(row))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn aligned(&self, row: &[String; N]) -> String {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&self.widths) {
            line.push_str(cell);
            let gap = width.saturating_sub(cell.width()) + 2;
            line.extend(std::iter::repeat_n(' ', gap));
        }
        line.trim_end().to_owned()
    }
}

/// The facts that are known.
pub(crate) fn known<const N: usize>(
    facts: [(&'static str, Option<String>); N],
) -> Vec<(&'static str, String)> {
    facts
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// Names and values, aligned.
pub(crate) fn block(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| plain(name).width()).max();
    let line = |(name, value): &(&str, String)| {
        let name = plain(name);
        let gap = width.unwrap_or(0).saturating_sub(name.width()) + 2;
        format!("{name}{:gap$}{}", "", plain(value))
    };
    facts.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How long, in its two largest units.
pub(crate) fn roughly(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).filter(|(count, _)| *count > 0);
    let text: String = shown.map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// "1 event", "2 events".
pub(crate) fn deliveries(number: u64) -> String {
    format!("{number} {}", if number == 1 { "delivery" } else { "deliveries" })
}

pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// JSON over several lines, down to a depth of 64; names, numbers and strings keep their meaning and their
/// order. It needs no stack and little more memory than the JSON, however deep that nests.
pub(crate) fn pretty(json: &str) -> String {
    let json = escaped_json(json);
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped, mut opened) = (0_usize, false, false, false);
    for c in json.chars() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            ' ' | '\n' | '\r' | '\t' => continue,
            '}' | ']' => {
                if !opened {
                    new_line(&mut out, depth, depth.saturating_sub(1));
                }
                depth = depth.saturating_sub(1);
            }
            _ if opened => new_line(&mut out, depth, depth),
            _ => {}
        }
        out.push(c);
        opened = matches!(c, '{' | '[');
        match c {
            '{' | '[' => depth += 1,
            ',' => new_line(&mut out, depth, depth),
            ':' => out.push(' '),
            '"' => in_text = true,
            _ => {}
        }
    }
    out
}

/// A new line in what is `depth` deep, if that is laid out at all.
fn new_line(out: &mut String, depth: usize, indent: usize) {
    if depth <= DEEPEST {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", indent));
    }
}

/// JSON as it is, but on one line: line breaks between its parts become spaces.
pub(crate) fn one_line(json: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(json).ok()?;
    RawValue::from_string(unbroken(text).trim().to_owned()).ok()
}

/// One piece of JSON a line, to be printed.
pub(crate) fn lines(items: &[Box<RawValue>]) -> String {
    let lines: Vec<String> = items
        .iter()
        .map(|item| escaped_json(&unbroken(item.get())).into_owned())
        .collect();
    lines.join("\n")
}

fn unbroken(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let refused = anyhow::anyhow!("refused")
            .context("IO error: refused")
            .context("cannot connect");
        assert_eq!(causes(&refused), "cannot connect: IO error: refused");
    }

    #[test]
    fn columns_line_up() {
        let rows = [
            ["a".to_owned(), "1".to_owned()],
            ["long".to_owned(), "2\u{1b}[2J".to_owned()],
        ];
        assert_eq!(table(["id", "n"], &rows), "id    n\na     1\nlong  2\u{fffd}[2J");
    }

    #[test]
    fn later_pages_have_no_head_and_keep_the_columns() {
        let row = |id: &str| [id.to_owned(), "1".to_owned()];
        let mut table = Table::new(["id", "n"]);
        assert_eq!(table.page(&[row("long")]), "id    n\nlong  1");
        assert_eq!(table.page(&[row("a")]), "a     1");
        assert_eq!(table.page(&[row("longer")]), "longer  1");
    }

    #[test]
    fn pretty_keeps_every_token() {
        let json = r#" {"b":1.50,"a":[],"c":{},"t":"x{,:\"\\","l":[1e2,{"z":null}]} "#;
        let expected = "{\n  \"b\": 1.50,\n  \"a\": [],\n  \"c\": {},\n  \"t\": \"x{,:\\\"\\\\\",\n  \"l\": [\n    1e2,\n    {\n      \"z\": null\n    }\n  ]\n}";
        assert_eq!(pretty(json), expected);
    }

    #[test]
    fn pretty_ends_at_a_depth_and_escapes_what_a_terminal_would_not_show() {
        assert_eq!(pretty("[\"\u{9b}\u{202e}\"]"), "[\n  \"\\u009b\\u202e\"\n]");
        let nested = |depth: usize| format!("{}1,2{}", "[".repeat(depth), "]".repeat(depth));
        let laid_out = pretty(&nested(64));
        assert_eq!(laid_out.lines().count(), 2 * 64 + 2);
        let deeper = pretty(&nested(65));
        assert_eq!(deeper.lines().count(), 2 * 64 + 1);
        assert!(deeper.contains("  [1,2]\n"), "{deeper}");
        let compact: String = deeper.split_whitespace().collect();
        assert_eq!(compact, nested(65));
    }

    #[test]
    fn one_line_changes_only_line_breaks() {
        let json = b" {\n\"n\":\r\n1.50,\"t\":\"a\\nb\"}\n";
        let line = one_line(json).unwrap();
        assert_eq!(line.get(), r#"{ "n":  1.50,"t":"a\nb"}"#);
        assert!(one_line(b"{").is_none());
    }

    #[test]
    fn durations_are_short() {
        let roughly = |seconds| super::roughly(Duration::from_secs(seconds));
        assert_eq!(
            [0, 59, 60, 3_725, 86_400, 90_000].map(roughly),
            ["0s", "59s", "1m", "1h2m", "1d", "1d1h"]
        );
    }
}
